"""The rules of a negotiation, one by one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from converge.coordination.errors import ForeignRecord, NegotiationRefused, UnknownSession
from converge.coordination.negotiation import NegotiationProtocol, NegotiationSession, NegotiationState
from converge.coordination.negotiation_record import MAX_HISTORY, SessionRecord
from converge.extensions.storage.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.core.store import VersionedStore
    from tests.core.coordination.conftest import ManualClock

PROPOSED, ACCEPTED = NegotiationState.PROPOSED, NegotiationState.ACCEPTED
REJECTED, EXPIRED = NegotiationState.REJECTED, NegotiationState.EXPIRED


@pytest.fixture
def talks(clock: ManualClock) -> NegotiationProtocol:
    return NegotiationProtocol(clock=clock)


def looked_at(talks: NegotiationProtocol, session_id: str) -> NegotiationSession:
    session = talks.get_session(session_id)
    assert session is not None
    return session


def moves(talks: NegotiationProtocol, session_id: str, agent_id: str) -> list[Callable[[], object]]:
    """Every move that an agent can try."""
    return [
        lambda: talks.propose(session_id, agent_id, "something else"),
        lambda: talks.accept(session_id, agent_id),
        lambda: talks.accept(session_id, agent_id, proposal_number=1),
        lambda: talks.reject(session_id, agent_id),
    ]


def test_a_session_begins_with_a_proposal_and_ends_when_the_other_side_accepts(
    open_store: Callable[[], VersionedStore], clock: ManualClock
) -> None:
    one, two = NegotiationProtocol(open_store(), clock=clock), NegotiationProtocol(open_store(), clock=clock)
    session_id = one.create_session("a", ["b"], {"price": 10})
    seen = looked_at(two, session_id)
    assert (seen.state, seen.participants, seen.missing) == (PROPOSED, ("a", "b"), ("b",))
    assert (seen.proposal.number, seen.proposal.agent_id, seen.proposal.content) == (1, "a", {"price": 10})
    two.propose(session_id, "b", {"price": 8})
    clock.advance(5)
    agreed = one.accept(session_id, "a")
    assert (agreed.state, agreed.missing, agreed.ended_at, agreed.ended_by) == (ACCEPTED, (), clock.time(), "a")
    assert agreed.proposal.content == {"price": 8}
    assert looked_at(two, session_id) == agreed


def test_the_values_of_the_states_are_lower_case_words() -> None:
    assert [state.value for state in NegotiationState] == ["proposed", "accepted", "rejected", "expired"]


@pytest.mark.parametrize("stranger", ["c", "A", "a "])
def test_only_participants_move(talks: NegotiationProtocol, stranger: str) -> None:
    session_id = talks.create_session("a", ["b"], 1)
    for move in moves(talks, session_id, stranger):
        with pytest.raises(NegotiationRefused, match="it is no participant") as caught:
            move()
        assert caught.value.subject_id == session_id


def test_nobody_accepts_or_rejects_their_own_proposal(talks: NegotiationProtocol) -> None:
    session_id = talks.create_session("a", ["b"], 1)
    for agent_id in ("a", "b"):
        for number in (None, looked_at(talks, session_id).proposal.number):
            for answer in (talks.accept, talks.reject):
                with pytest.raises(NegotiationRefused, match="the present proposal is its own"):
                    answer(session_id, agent_id, proposal_number=number)
        if agent_id == "a":
            talks.propose(session_id, "b", 2)
    assert looked_at(talks, session_id).state is PROPOSED


@pytest.mark.parametrize("end", ["accept", "reject", "expire"])
def test_nobody_moves_after_the_end(talks: NegotiationProtocol, clock: ManualClock, end: str) -> None:
    session_id = talks.create_session("a", ["b", "c"], 1, deadline=clock.time() + 10)
    if end == "accept":
        talks.accept(session_id, "b")
        talks.accept(session_id, "c")
    elif end == "reject":
        assert talks.reject(session_id, "b").ended_by == "b"
    else:
        clock.advance(10)
    state = {"accept": ACCEPTED, "reject": REJECTED, "expire": EXPIRED}[end]
    for agent_id in ("a", "b", "c"):
        for move in moves(talks, session_id, agent_id):
            with pytest.raises(NegotiationRefused, match=f"it has ended: {state.value}"):
                move()
    assert looked_at(talks, session_id).state is state


def test_all_but_the_proposer_have_to_accept(talks: NegotiationProtocol) -> None:
    session_id = talks.create_session("a", ["b", "c", "d"], 1)
    assert talks.accept(session_id, "c").missing == ("b", "d")
    assert talks.accept(session_id, "c").missing == ("b", "d")
    assert talks.accept(session_id, "b").state is PROPOSED
    assert talks.accept(session_id, "d").state is ACCEPTED


def test_one_rejection_ends_it_for_all(talks: NegotiationProtocol) -> None:
    session_id = talks.create_session("a", ["b", "c", "d"], 1)
    talks.accept(session_id, "c")
    assert talks.reject(session_id, "b").state is REJECTED


def test_another_proposal_voids_what_was_accepted_of_the_last_one(talks: NegotiationProtocol) -> None:
    session_id = talks.create_session("a", ["b", "c"], 1)
    talks.accept(session_id, "b")
    assert talks.propose(session_id, "c", 2).missing == ("a", "b")
    talks.accept(session_id, "a")
    assert talks.accept(session_id, "b", proposal_number=2).state is ACCEPTED


def test_who_has_accepted_is_bound_while_the_proposal_stands(talks: NegotiationProtocol) -> None:
    session_id = talks.create_session("a", ["b", "c"], 1)
    talks.accept(session_id, "b")
    with pytest.raises(NegotiationRefused, match="bound while it stands"):
        talks.reject(session_id, "b")
    with pytest.raises(NegotiationRefused, match="bound while it stands"):
        talks.propose(session_id, "b", 2)
    talks.propose(session_id, "c", 3)
    assert talks.reject(session_id, "b").state is REJECTED


def test_a_proposal_that_was_replaced_is_not_answered_by_its_number(talks: NegotiationProtocol) -> None:
    session_id = talks.create_session("a", ["b"], 1)
    talks.propose(session_id, "a", 100)
    for answer in (talks.accept, talks.reject):
        with pytest.raises(NegotiationRefused, match="it is of proposal 1; the present one is number 2"):
            answer(session_id, "b", proposal_number=1)
    assert talks.accept(session_id, "b", proposal_number=2).state is ACCEPTED


def test_without_a_number_only_what_cannot_have_been_replaced_unseen_is_accepted(talks: NegotiationProtocol) -> None:
    session_id = talks.create_session("a", ["b", "c"], 1)
    talks.propose(session_id, "c", 2)
    with pytest.raises(
        NegotiationRefused,
        match="more than one proposal since its last move, so it has to name one; the present one is number 2",
    ):
        talks.accept(session_id, "b")
    assert talks.accept(session_id, "a").missing == ("b",)  # since its own proposal there was this one only
    talks.propose(session_id, "b", 3)
    talks.propose(session_id, "b", 4)
    with pytest.raises(NegotiationRefused, match="has to name one"):
        talks.accept(session_id, "c")
    assert talks.accept(session_id, "c", proposal_number=4).missing == ("a",)


def test_the_same_proposal_again_by_the_same_agent_is_no_other_one(talks: NegotiationProtocol) -> None:
    session_id = talks.create_session("a", ["b"], {"x": [1], "y": 2})
    assert talks.propose(session_id, "a", {"y": 2, "x": [1]}).proposal.number == 1
    assert talks.propose(session_id, "b", {"x": [1], "y": 2}).proposal.number == 2


def test_the_history_is_bounded_and_keeps_the_first(talks: NegotiationProtocol) -> None:
    session_id = talks.create_session("a", ["b"], 0)
    for number in range(1, 50):
        talks.propose(session_id, "ab"[number % 2], number)
    session = looked_at(talks, session_id)
    assert [proposal.content for proposal in session.proposals] == [0, *range(50 - MAX_HISTORY + 1, 50)]
    assert session.proposal.number == 50
    assert talks.accept(session_id, "a").state is ACCEPTED


def test_an_own_proposal_that_was_forgotten_makes_the_number_necessary(talks: NegotiationProtocol) -> None:
    session_id = talks.create_session("a", ["b", "c"], 0)
    talks.propose(session_id, "b", 1)
    for number in range(2, 40):
        talks.propose(session_id, "ac"[number % 2], number)
    with pytest.raises(NegotiationRefused, match="has to name one"):
        talks.accept(session_id, "b")


def test_the_rounds_are_bounded_and_the_last_proposal_can_still_be_answered(talks: NegotiationProtocol) -> None:
    session_id = talks.create_session("a", ["b"], 1, max_rounds=2)
    talks.propose(session_id, "b", 2)
    with pytest.raises(NegotiationRefused, match="there were 2, the most of it; accept or reject"):
        talks.propose(session_id, "a", 3)
    assert talks.accept(session_id, "a").state is ACCEPTED


def test_a_deadline_that_somebody_has_found_passed_is_final_for_slower_clocks(
    open_store: Callable[[], VersionedStore], clock: ManualClock
) -> None:
    one, two = NegotiationProtocol(open_store(), clock=clock), NegotiationProtocol(open_store(), clock=clock)
    for looking in (True, False):
        session_id = one.create_session("a", ["b"], 1, deadline=clock.time() + 10)
        clock.advance(10)
        ended = clock.time()
        if looking:
            assert looked_at(one, session_id).state is EXPIRED
        else:
            with pytest.raises(NegotiationRefused, match="it has ended: expired"):
                one.accept(session_id, "b")
        clock.set_back(3600)
        with pytest.raises(NegotiationRefused, match="it has ended: expired"):
            two.accept(session_id, "b")
        assert (looked_at(two, session_id).state, looked_at(two, session_id).ended_at) == (EXPIRED, ended)


def test_a_proposal_is_bounded_plain_data_of_the_session_s_own(talks: NegotiationProtocol) -> None:
    content: dict[str, Any] = {"steps": ["x"]}
    session_id = talks.create_session("a", ["b"], content)
    content["steps"].append("y")
    assert looked_at(talks, session_id).proposal.content == {"steps": ["x"]}
    with pytest.raises(NegotiationRefused, match="at most 65536 are kept"):
        talks.propose(session_id, "b", "x" * 70_000)
    with pytest.raises(TypeError, match="not plain data"):
        talks.propose(session_id, "b", object())  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ValueError, match="at most 65536 are kept"):
        talks.create_session("a", ["b"], "x" * 70_000)


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        (("a", [], 1), {}, "2 to 100 participants, not 1"),
        (("a", ["a"], 1), {}, "2 to 100 participants, not 1"),
        (("a", [f"b{n}" for n in range(100)], 1), {}, "not 101"),
        (("a", "bc", 1), {}, "a list of agent ids, not 'bc'"),
        (("a", None, 1), {}, "a list of agent ids"),
        (("a", ["", "b"], 1), {}, "cannot be empty"),
        (("", ["b"], 1), {}, "cannot be empty"),
        (("a", ["b"], 1), {"deadline": 5}, "a Unix time to come"),
        (("a", ["b"], 1), {"deadline": math.nan}, "a Unix time to come"),
        (("a", ["b"], 1), {"deadline": math.inf}, "a Unix time to come"),
        (("a", ["b"], 1), {"max_rounds": 0}, "max_rounds is an int of at least 1"),
        (("a", ["b"], 1), {"max_rounds": True}, "max_rounds is an int"),
        (("a", ["b"], 1), {"session_id": ""}, "an id cannot be empty"),
    ],
)
def test_a_session_that_makes_no_sense_is_refused_and_nothing_is_stored(
    arguments: Any, options: dict[str, Any], text: str
) -> None:
    store = MemoryStore()
    with pytest.raises(ValueError, match=text):
        NegotiationProtocol(store).create_session(*arguments, **options)
    assert store.list() == []


def test_opening_the_same_session_again_returns_it_and_another_one_is_refused(talks: NegotiationProtocol) -> None:
    assert talks.create_session("a", ["b", "b", "a"], 1, session_id="s") == "s"
    talks.propose("s", "b", 2)
    assert talks.create_session("a", ["b"], 1, session_id="s") == "s"
    assert looked_at(talks, "s").proposal.content == 2
    for arguments in (("a", ["c"], 1), ("b", ["a"], 1), ("a", ["b"], 2)):
        with pytest.raises(NegotiationRefused, match="exists with another first proposal"):
            talks.create_session(*arguments, session_id="s")
    with pytest.raises(NegotiationRefused, match="exists with"):
        talks.create_session("a", ["b"], 1, session_id="s", max_rounds=3)


def test_a_session_that_is_not_there_is_unknown(talks: NegotiationProtocol) -> None:
    assert talks.get_session("s") is None
    for move in moves(talks, "s", "a"):
        with pytest.raises(UnknownSession, match="there is no negotiation 's'; create its session first"):
            move()


@pytest.mark.parametrize(
    "change",
    [
        {"id": "t"},
        {"state": "accepted"},
        {"state": "pending"},
        {"state": []},
        {"participants": ["a"]},
        {"participants": "ab"},
        {"participants": ["a", "a", "b"]},
        {"participants": ["b", "c"]},
        {"accepted_by": ["c"]},
        {"accepted_by": ["b"]},
        {"proposals": []},
        {"proposals": None},
        {"proposals": [[1, "a", 1]]},
        {"proposals": [[1, "a", 1, 1.0], [1, "a", 1, 1.0]]},
        {"proposals": [["1", "a", 1, 1.0]]},
        {"proposals": [[1, "z", 1, 1.0]]},
        {"proposals": [[1, "a", 1, "now"]]},
        {"deadline": "now"},
        {"ended_at": 1.0},
        {"opened_at": None},
        {"max_rounds": "3"},
        {"more": 1},
    ],
    ids=repr,
)
def test_what_is_no_session_of_this_version_is_left_alone(change: dict[str, Any]) -> None:
    store = MemoryStore()
    NegotiationProtocol(store).create_session("a", ["b"], 1, session_id="s")
    record = store.get("negotiation:s")
    assert isinstance(record, dict)
    assert SessionRecord.from_plain(record).to_plain() == record
    store.put("negotiation:s", record | change)
    talks = NegotiationProtocol(store)
    for move in (lambda: talks.get_session("s"), *moves(talks, "s", "b")):
        with pytest.raises(ForeignRecord, match="negotiation:s"):
            move()
    assert store.changes()[0] == 2


def test_what_is_no_record_at_all_is_foreign() -> None:
    store = MemoryStore()
    store.put("negotiation:s", ["a"])
    with pytest.raises(ForeignRecord):
        NegotiationProtocol(store).get_session("s")


def test_negotiations_in_memory_do_not_block(talks: NegotiationProtocol) -> None:
    assert not talks.blocking
