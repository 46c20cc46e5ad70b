from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve

from converge.coordination.ballot import BallotBox
from converge.coordination.ballot_errors import (
    BallotError,
    BallotExists,
    BallotOpen,
    GovernanceUnavailable,
    UnknownBallot,
)
from converge.coordination.ballot_record import Ballot, Outcome
from converge.coordination.errors import ForeignRecord, UnknownPool, VoteRefused
from converge.coordination.pool_ballots import PoolBallots, replay
from converge.coordination.pool_manager import PoolManager
from converge.core.pool import Pool
from converge.extensions.storage.memory import MemoryStore
from converge.policy.governance import (
    BicameralGovernance,
    DemocraticGovernance,
    DictatorialGovernance,
    EmpiricalGovernance,
    GovernanceModel,
    QuorumGovernance,
    VetoGovernance,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from converge.core.clock import Clock
    from converge.core.store import VersionedStore


@pytest.fixture
def open_ballots(open_store: Callable[[], VersionedStore], clock: Any) -> Callable[..., PoolBallots]:
    """Ballots of a new manager at each call, on the same data; with a governance, after making the pool "p"."""

    def opened(governance: GovernanceModel | None = None, members: str = "abc") -> PoolBallots:
        pools = PoolManager(open_store())
        if governance is not None:
            pools.create_pool(Pool("p", governance=governance, agents=[*members]))
        return PoolBallots(pools, clock=clock)

    return opened


def opened(ballots: PoolBallots, clock: Clock, **settings: Any) -> str:
    return ballots.open("p", ["yes", "no"], deadline=clock.time() + 60, **settings).id


def test_members_vote_and_the_last_vote_closes(open_ballots: Callable[..., PoolBallots], clock: Any) -> None:
    one, two = open_ballots(DemocraticGovernance()), open_ballots()
    ballot = opened(one, clock, agent_id="a", question={"what": "to do"})
    assert two.vote(ballot, "a", "yes")
    assert one.vote(ballot, "b", "no")
    assert (one.result(ballot), two.votes(ballot)) == (None, {"a": "yes", "b": "no"})
    assert [found.id for found in two.list_open("c")] == [ballot]
    assert one.vote(ballot, "c", "yes")
    assert one.result(ballot) == two.result(ballot) == Outcome("yes")
    closed = two.get(ballot)
    assert closed is not None
    assert (closed.votes, closed.closed_at) == ({"a": "yes", "b": "no", "c": "yes"}, clock.time())
    assert replay(closed) == replay(closed.to_plain()) == closed.result
    assert two.list_open() == []
    assert one.close_due() == []


def test_the_electorate_is_that_of_the_opening(
    open_ballots: Callable[..., PoolBallots], open_store: Callable[[], VersionedStore], clock: Any
) -> None:
    ballots = open_ballots(DemocraticGovernance())
    ballot = opened(ballots, clock)
    pools = PoolManager(open_store())
    assert pools.leave_pool("a", "p")
    assert pools.join_pool("late", "p")
    with pytest.raises(VoteRefused, match="it was no member of pool 'p' when the ballot was opened"):
        ballots.vote(ballot, "late", "yes")
    assert ballots.vote(ballot, "a", "yes")


def test_who_votes_twice_for_something_nobody_offered_or_late_is_told_why(
    open_ballots: Callable[..., PoolBallots], clock: Any
) -> None:
    ballots = open_ballots(DemocraticGovernance())
    ballot = opened(ballots, clock)
    assert ballots.vote(ballot, "a", "yes")
    assert not ballots.vote(ballot, "a", "yes")
    with pytest.raises(VoteRefused, match="it has voted already, for something else; the first vote counts"):
        ballots.vote(ballot, "a", "no")
    odd: Any
    for odd in ("perhaps", None, ["yes"], float("nan"), {}):
        with pytest.raises(VoteRefused, match="is no option; vote for one of 'yes', 'no'"):
            ballots.vote(ballot, "b", odd)
    clock.advance(60)
    with pytest.raises(VoteRefused, match="the ballot is closed") as caught:
        ballots.vote(ballot, "b", "no")
    assert (caught.value.vote_id, caught.value.agent_id) == (ballot, "b")
    assert ballots.result(ballot) == Outcome("yes")
    assert not ballots.vote(ballot, "a", "yes")  # has been counted
    with pytest.raises(VoteRefused, match="the ballot is closed"):
        ballots.vote(ballot, "b", "no")
    with pytest.raises(UnknownBallot, match="there is no ballot 'other'; open it first"):
        ballots.vote("other", "a", "yes")


def test_a_decision_of_an_agent_to_vote_goes_to_the_ballot_of_its_pool(
    open_ballots: Callable[..., PoolBallots], open_store: Callable[[], VersionedStore], clock: Any
) -> None:
    ballots = open_ballots(DemocraticGovernance())
    ballot, box = opened(ballots, clock), BallotBox(open_store(), clock=clock)
    box.cast(ballot, "a", "yes")
    assert box.votes(ballot) == ballots.votes(ballot) == {"a": "yes"}
    for agent, option in (("a", "no"), ("stranger", "yes"), ("b", "perhaps")):
        with pytest.raises(VoteRefused):
            box.cast(ballot, agent, option)
    clock.advance(60)
    with pytest.raises(VoteRefused, match="closed"):
        box.cast(ballot, "b", "yes")
    assert ballots.close_due() == [ballot]
    assert box.votes(ballot) == {"a": "yes"}


@pytest.mark.parametrize(
    ("governance", "rules", "votes", "decided"),
    [
        (DemocraticGovernance(), {}, {"a": "yes", "b": "no"}, None),
        (DemocraticGovernance(), {"tie_breaker": "no"}, {"a": "yes", "b": "no"}, "no"),
        (DemocraticGovernance(), {"fallback": "no"}, {}, "no"),
        (DictatorialGovernance("c"), {}, {"a": "yes", "b": "yes", "c": "no"}, "no"),
        (VetoGovernance("c"), {}, {"a": "yes", "b": "yes", "c": "veto"}, None),
        (VetoGovernance("c"), {}, {"a": "yes", "b": "yes", "c": "no"}, "yes"),
        (EmpiricalGovernance(), {"weights": {"a": 5.0, "b": 1.0, "c": 1.0}}, {"a": "no", "b": "yes", "c": "yes"}, "no"),
        (BicameralGovernance(), {"chambers": {"a": ["a"], "b": ["b", "c"]}}, dict.fromkeys("abc", "yes"), "yes"),
        (BicameralGovernance(), {"chambers": {"a": ["a"], "b": ["b", "c"]}}, {"a": "no", "b": "yes"}, None),
        (BicameralGovernance(), {}, dict.fromkeys("abc", "yes"), None),
        (QuorumGovernance(0.6), {}, {"a": "yes"}, None),
        (QuorumGovernance(0.6), {}, {"a": "yes", "b": "yes"}, "yes"),
        (QuorumGovernance(0.6, 0.7), {}, {"a": "yes", "b": "yes", "c": "no"}, None),
    ],
)
def test_the_governance_of_the_pool_decides(
    open_ballots: Callable[..., PoolBallots],
    clock: Any,
    governance: GovernanceModel,
    rules: dict[str, Any],
    votes: dict[str, str],
    decided: str | None,
) -> None:
    ballots = open_ballots(governance)
    ballot = opened(ballots, clock, rules=rules)
    for agent, option in votes.items():
        assert ballots.vote(ballot, agent, option)
    clock.advance(60)
    assert open_ballots().result(ballot) == Outcome(decided)
    found = ballots.get(ballot)
    assert found is not None
    assert replay(found) == Outcome(decided)
    changed = evolve(found, votes=dict.fromkeys("abc", "no"))
    assert replay(changed) == Outcome(None if isinstance(governance, BicameralGovernance) and not rules else "no")


def test_the_veto_is_for_its_agent_and_cannot_be_taken_away(
    open_ballots: Callable[..., PoolBallots], clock: Any
) -> None:
    ballots = open_ballots(VetoGovernance("c"))
    ballot = opened(ballots, clock, agent_id="a")
    with pytest.raises(VoteRefused):
        ballots.vote(ballot, "a", "veto")
    assert ballots.vote(ballot, "c", "veto")


def test_opening_again_is_safe_and_another_ballot_of_the_id_is_refused(
    open_ballots: Callable[..., PoolBallots], clock: Any
) -> None:
    one, two = open_ballots(DemocraticGovernance()), open_ballots()
    deadline = clock.time() + 60
    first = one.open("p", ["x"], deadline=deadline, ballot_id="b")
    assert one.vote("b", "a", "x")
    clock.advance(61)
    assert two.open("p", ["x"], deadline=deadline, ballot_id="b") == first
    for change in ({"options": ["y"]}, {"deadline": deadline + 1}, {"question": "?"}, {"agent_id": "a"}):
        settings: dict[str, Any] = {"options": ["x"], "deadline": deadline, "ballot_id": "b", **change}
        with pytest.raises(BallotExists, match="exists with another"):
            two.open("p", **settings)
    assert two.votes("b") == {"a": "x"}


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"options": []}, ValueError, "1 to 1000 options"),
        ({"options": "yes"}, ValueError, "options are a list"),
        ({"options": ["a", "a"]}, ValueError, "no two options"),
        ({"options": [1, True]}, ValueError, "no two options"),
        ({"options": [None]}, ValueError, "an option is a str"),
        ({"options": [["a"]]}, ValueError, "an option is a str"),
        ({"options": [float("nan")]}, ValueError, "an option is a str"),
        ({"deadline": 1.0}, ValueError, "the deadline 1.0 has passed"),
        ({"deadline": float("nan")}, ValueError, "a finite number of Unix seconds"),
        ({"deadline": None}, ValueError, "a finite number of Unix seconds"),
        ({"ballot_id": ""}, ValueError, "the id of a ballot"),
        ({"question": {1, 2}}, TypeError, "not plain data"),
        ({"agent_id": "stranger"}, BallotError, "is no member of pool 'p'"),
        ({"agent_id": "a", "rules": {"fallback": "yes"}}, BallotError, "only who runs the process gives rules"),
        ({"rules": {"colour": 1}}, ValueError, "there is no rule 'colour'"),
        ({"rules": {"tie_breaker": "perhaps"}}, ValueError, "tie_breaker is 'perhaps', which is no option"),
        ({"rules": {"weights": {"a": float("inf")}}}, ValueError, "weights are finite numbers"),
        ({"rules": {"weights": {"stranger": 1}}}, ValueError, "'stranger' is given a weight or a chamber"),
        ({"rules": {"chambers": {"a": ["a"]}}}, ValueError, "chambers are the lists"),
        ({"rules": {"chambers": {"a": ["a"], "b": ["a"]}}}, ValueError, "in one chamber, once"),
    ],
)
def test_a_ballot_that_makes_no_sense_is_refused(
    open_ballots: Callable[..., PoolBallots], clock: Any, change: dict[str, Any], kind: type[Exception], said: str
) -> None:
    ballots = open_ballots(DemocraticGovernance())
    settings: dict[str, Any] = {"options": ["yes", "no"], "deadline": clock.time() + 60, "ballot_id": "b", **change}
    with pytest.raises(kind, match=said):
        ballots.open("p", **settings)
    assert ballots.list_open() == []


def test_a_pool_that_is_missing_empty_or_without_governance_has_no_ballots(
    open_ballots: Callable[..., PoolBallots], open_store: Callable[[], VersionedStore], clock: Any
) -> None:
    ballots = open_ballots()
    with pytest.raises(UnknownPool):
        opened(ballots, clock)
    PoolManager(open_store()).create_pool(Pool("p", agents=["a"]))
    with pytest.raises(GovernanceUnavailable, match="its governance is missing"):
        opened(ballots, clock)
    PoolManager(open_store()).create_pool(Pool("empty", governance=DemocraticGovernance()))
    with pytest.raises(BallotError, match="has no members"):
        ballots.open("empty", ["x"], deadline=clock.time() + 1)


class First(GovernanceModel):
    """No plugin: works in the manager that made the pool."""

    answer: Any = "yes"

    def resolve_dispute(self, context: Mapping[str, object]) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_a_model_that_cannot_be_restored_decides_nothing_and_leaves_the_ballot_to_who_has_it(
    open_ballots: Callable[..., PoolBallots], clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    has_it, has_not = open_ballots(First()), open_ballots()
    ballot = opened(has_it, clock)
    with pytest.raises(GovernanceUnavailable, match="cannot be restored here"):
        opened(has_not, clock)
    for agent in "abc":
        assert has_not.vote(ballot, agent, "no")
    assert "was not restored" in caplog.text
    with pytest.raises(GovernanceUnavailable, match="close it in a process that has it"):
        has_not.result(ballot)
    assert has_not.close_due() == []
    assert has_it.result(ballot) == has_not.result(ballot) == Outcome("yes")
    found = has_not.get(ballot)
    assert found is not None
    assert replay(found, model=First()) == Outcome("yes")


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (ValueError("broken"), "raised ValueError: 'broken'"),
        ("perhaps", "answered with 'perhaps', which is no option"),
        ([1], "which is no option"),
        (set(), "unhashable"),
    ],
)
def test_a_model_that_fails_has_decided_nothing_and_the_record_says_why(
    open_ballots: Callable[..., PoolBallots], clock: Any, answer: object, failure: str
) -> None:
    model = First()
    model.answer = answer
    ballots = open_ballots(model)
    ballot = opened(ballots, clock)
    clock.advance(60)
    outcome = ballots.result(ballot)
    assert outcome is not None
    assert outcome.option is None
    assert failure in str(outcome.failure)


def test_a_ballot_is_not_closed_nor_replayed_before_it_is_due(
    open_ballots: Callable[..., PoolBallots], clock: Any
) -> None:
    ballots = open_ballots(DemocraticGovernance())
    ballot = opened(ballots, clock)
    with pytest.raises(BallotOpen, match="is open until"):
        ballots.close(ballot)
    found = ballots.get(ballot)
    assert found is not None
    with pytest.raises(BallotOpen, match="no result to be replayed"):
        replay(found)
    clock.advance(60)
    assert ballots.close(ballot) == ballots.close(ballot)
    clock.set_back(3600)
    assert ballots.result(ballot) == Outcome()


def test_leftovers_of_a_crash_after_the_end_are_removed_by_the_next_listing(clock: Any) -> None:
    class Stubborn(MemoryStore):
        fails = True

        def delete_many(self, keys: Any) -> None:
            if self.fails:
                raise OSError(28, "No space left on device")
            super().delete_many(keys)

    store = Stubborn()
    pools = PoolManager(store)
    pools.create_pool(Pool("p", governance=DemocraticGovernance(), agents=["a"]))
    ballots = PoolBallots(pools, clock=clock)
    ballot = opened(ballots, clock)
    assert ballots.vote(ballot, "a", "yes")
    assert ballots.result(ballot) == Outcome("yes")
    assert len(store.list("ballot-votes:")) == 1
    store.fails = False
    assert ballots.list_open() == []
    assert store.list("ballot-votes:") == []


def test_votes_that_are_gone_are_no_empty_ballot(open_store: Callable[[], VersionedStore], clock: Any) -> None:
    store = open_store()
    pools = PoolManager(store)
    pools.create_pool(Pool("p", governance=DemocraticGovernance(), agents=["a"]))
    ballots = PoolBallots(pools, clock=clock)
    ballot = opened(ballots, clock)
    store.delete_many(store.list("ballot-votes:"))
    clock.advance(60)
    for move in (lambda: ballots.vote(ballot, "a", "yes"), lambda: ballots.close(ballot)):
        with pytest.raises(ForeignRecord, match="its vote records are gone"):
            move()


def test_a_large_electorate_votes_in_several_records(open_store: Callable[[], VersionedStore], clock: Any) -> None:
    store = open_store()
    pools = PoolManager(store)
    agents = [f"{number:04}" for number in range(200)]
    pools.create_pool(Pool("p", governance=QuorumGovernance(1.0), agents=agents))
    ballots = PoolBallots(pools, clock=clock)
    ballot = opened(ballots, clock)
    assert len(store.list("ballot-votes:")) == 4
    for agent in reversed(agents):
        assert ballots.result(ballot) is None
        assert ballots.vote(ballot, agent, "yes")
    assert ballots.result(ballot) == Outcome("yes")


ERRORS = [BallotError("text", "b"), BallotExists("text", "b"), BallotOpen("text", "b"), UnknownBallot("b")]


@pytest.mark.parametrize("error", [*ERRORS, GovernanceUnavailable("text", "b")], ids=lambda error: type(error).__name__)
def test_errors_keep_their_data_through_pickle(error: BallotError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(error, ValueError)
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_a_ballot_is_read_back_equal(open_ballots: Callable[..., PoolBallots], clock: Any) -> None:
    ballots = open_ballots(DemocraticGovernance())
    found = ballots.get(opened(ballots, clock, rules={"fallback": "no", "weights": {"a": 2}}))
    assert found is not None
    assert Ballot.from_plain(found.to_plain()) == found
