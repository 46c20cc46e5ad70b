"""What waits for a person: who answers first, who may carry it out, and that nothing is carried out twice."""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from converge.coordination import approvals as module
from converge.coordination.approval_record import ApprovalRecord, ApprovalState
from converge.coordination.approvals import MAX_DECISION_BYTES, RETENTION_SEC, Approvals
from converge.coordination.errors import ApprovalRefused, ForeignRecord, UnknownApproval
from converge.core.decision_data import decision_from_plain
from converge.core.decisions import InvokeTool
from converge.extensions.storage.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.core.store import VersionedStore
    from tests.core.coordination.conftest import ManualClock

WIRE = InvokeTool("wire_money", {"euros": 10})


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def approvals(store: MemoryStore, clock: ManualClock) -> Approvals:
    return Approvals(store, clock=clock)


def asked(approvals: Approvals, agent_id: str = "alice", **more: Any) -> str:
    return approvals.ask(agent_id, WIRE, about="wire_money 10", **more)


def state(approvals: Approvals, approval_id: str) -> ApprovalState:
    record = approvals.get(approval_id)
    assert record is not None
    return record.standing


def test_what_is_asked_waits_is_answered_and_carried_out_in_whatever_process(
    open_store: Callable[[], VersionedStore], clock: ManualClock
) -> None:
    agent, person = Approvals(open_store(), clock=clock), Approvals(open_store(), clock=clock)
    approval_id = asked(agent)
    (waiting,) = person.waiting()
    assert (waiting.id, waiting.agent_id, waiting.about) == (approval_id, "alice", "wire_money 10")
    assert decision_from_plain(waiting.decision) == WIRE
    assert agent.of_agent("alice") == [waiting]
    person.approve(approval_id, by="carol", reason="fine")
    assert person.waiting() == []
    (approved,) = agent.of_agent("alice")
    assert (approved.standing, approved.decided_by, approved.reason) == (ApprovalState.APPROVED, "carol", "fine")
    later = Approvals(open_store(), clock=clock)  # the agent's process has started again
    assert later.start(approval_id, "alice").standing is ApprovalState.STARTED
    assert later.finish(approval_id, "alice", "done", None).standing is ApprovalState.DONE
    assert agent.of_agent("alice") == later.of_agent("alice") == []


def test_of_several_answers_the_first_counts_and_the_same_again_changes_nothing(approvals: Approvals) -> None:
    approval_id = asked(approvals)
    approvals.deny(approval_id, by="carol", reason="no")
    assert approvals.deny(approval_id, by="carol").reason == "no"
    for answer in (approvals.approve, approvals.deny):
        with pytest.raises(ApprovalRefused, match="it is denied by carol"):
            answer(approval_id, by="dave")
    with pytest.raises(ApprovalRefused, match="it is denied by carol"):
        approvals.approve(approval_id, by="carol")


def test_an_answer_counts_until_the_deadline_and_not_from_then_on(approvals: Approvals, clock: ManualClock) -> None:
    in_time, late = asked(approvals, timeout_sec=10), asked(approvals, timeout_sec=10)
    clock.advance(9.9)
    approvals.approve(in_time, by="carol")
    assert approvals.expire(late).standing is ApprovalState.WAITING
    clock.advance(0.1)
    assert approvals.waiting() == []
    with pytest.raises(ApprovalRefused, match="nobody answered in time"):
        approvals.approve(late, by="carol")
    assert approvals.expire(late).standing is ApprovalState.EXPIRED
    assert approvals.expire(in_time).standing is ApprovalState.APPROVED
    with pytest.raises(ApprovalRefused, match="it is expired"):
        approvals.deny(late, by="carol")


@pytest.mark.parametrize("answer", ["approve", "deny", None])
def test_only_what_was_approved_is_carried_out_and_only_once(approvals: Approvals, answer: str | None) -> None:
    approval_id = asked(approvals)
    if answer is not None:
        getattr(approvals, answer)(approval_id, by="carol")
    if answer == "approve":
        approvals.start(approval_id, "alice")
    with pytest.raises(ApprovalRefused, match="so it is not carried out"):
        approvals.start(approval_id, "alice")


def test_only_its_agent_carries_a_decision_out(approvals: Approvals) -> None:
    approval_id = asked(approvals)
    approvals.approve(approval_id, by="carol")
    with pytest.raises(ApprovalRefused, match="it is a decision of 'alice', not of 'bob'"):
        approvals.start(approval_id, "bob")
    with pytest.raises(ApprovalRefused, match="it is approved, so it was not carried out"):
        approvals.finish(approval_id, "alice", "done", None)
    approvals.start(approval_id, "alice")
    with pytest.raises(ApprovalRefused, match="not of 'bob'"):
        approvals.finish(approval_id, "bob", "done", None)


def test_an_agent_is_told_once_of_what_was_not_allowed(approvals: Approvals, clock: ManualClock) -> None:
    denied, late, waiting = asked(approvals), asked(approvals, timeout_sec=10), asked(approvals)
    approvals.poll()
    assert approvals.due() == set()
    approvals.deny(denied, by="carol")
    assert approvals.may_have_changed()
    approvals.poll()
    assert approvals.due() == {"alice"}
    approvals.tell(denied, "alice")
    approvals.poll()
    assert approvals.due() == set()
    clock.advance(10)
    assert approvals.due() == {"alice"}, "time alone has made it due"
    approvals.expire(late)
    with pytest.raises(ApprovalRefused, match="not of 'bob'"):
        approvals.tell(late, "bob")
    approvals.tell(late, "alice")
    with pytest.raises(ApprovalRefused, match="it is waiting, so there is nothing to tell"):
        approvals.tell(waiting, "alice")
    assert [record.id for record in approvals.of_agent("alice")] == [waiting]


def at_once(calls: list[Callable[[], ApprovalRecord]]) -> list[ApprovalRecord]:
    """What the calls give that are not refused, when all are made at one instant."""
    barrier, accepted = threading.Barrier(len(calls)), []

    def run(call: Callable[[], ApprovalRecord]) -> None:
        barrier.wait()
        with suppress(ApprovalRefused):
            accepted.append(call())

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return accepted


def test_of_answers_and_starts_at_one_instant_one_wins(
    open_store: Callable[[], VersionedStore], clock: ManualClock
) -> None:
    boxes = [Approvals(open_store(), clock=clock) for _ in range(4)]
    for _ in range(25):
        approval_id = asked(boxes[0])
        yes = [partial(box.approve, approval_id, by=f"yes{n}") for n, box in enumerate(boxes[:2])]
        no = [partial(box.deny, approval_id, by=f"no{n}") for n, box in enumerate(boxes[2:])]
        (winner,) = at_once([*yes, *no])
        assert state(boxes[0], approval_id) is winner.standing
        if winner.standing is ApprovalState.APPROVED:
            assert len(at_once([partial(box.start, approval_id, "alice") for box in boxes])) == 1


def test_an_agent_that_asks_without_end_is_refused(approvals: Approvals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    ids = [asked(approvals) for _ in range(3)]
    with pytest.raises(ApprovalRefused, match="3 decisions of 'alice' wait for approval already"):
        asked(approvals)
    asked(approvals, "bob")
    approvals.deny(ids[0], by="carol")
    asked(approvals)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_that_is_none_is_refused(approvals: Approvals, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout_sec is a number of seconds above 0"):
        asked(approvals, timeout_sec=timeout)


def test_a_decision_that_is_too_large_does_not_wait(approvals: Approvals) -> None:
    with pytest.raises(ValueError, match=f"at most {MAX_DECISION_BYTES} are kept"):
        approvals.ask("alice", InvokeTool("t", {"x": "y" * MAX_DECISION_BYTES}), about="")
    assert approvals.all() == []


def test_an_answer_needs_a_name(approvals: Approvals) -> None:
    with pytest.raises(ValueError, match="who answers cannot be empty"):
        approvals.approve(asked(approvals), by="")


def test_an_unknown_id_is_an_error_that_says_where_to_look(approvals: Approvals) -> None:
    with pytest.raises(UnknownApproval, match="there is no approval 'x'; `converge approvals list` shows them"):
        approvals.approve("x", by="carol")


def test_what_was_over_long_ago_is_forgotten_and_nothing_else(approvals: Approvals, clock: ManualClock) -> None:
    denied, waiting = asked(approvals), asked(approvals, timeout_sec=2 * RETENTION_SEC)
    approvals.deny(denied, by="carol")
    clock.advance(RETENTION_SEC - 1)
    late = asked(approvals)
    approvals.deny(late, by="carol")
    assert approvals.forget_old() == 0
    clock.advance(1)
    assert approvals.forget_old() == 1
    assert [record.id for record in approvals.all()] == [waiting, late]


@pytest.mark.parametrize(
    "value",
    [3, {}, {"id": "x"}, {"state": "strange"}, {"asked_at": "now"}, {"decision": []}, {"agent_id": ""}],
)
def test_what_is_no_record_is_passed_over_and_named_when_asked_for(
    approvals: Approvals, store: MemoryStore, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    good = asked(approvals)
    record = approvals.get(good)
    assert record is not None
    broken = value if not isinstance(value, dict) or not value or "id" in value else record.to_plain() | value
    if isinstance(broken, dict) and len(broken) > 1:
        broken["id"] = "x"
    store.put("approval:x", broken)
    assert [one.id for one in approvals.all()] == [good]
    assert [one.id for one in approvals.of_agent("alice")] == [good]
    assert "'approval:x' holds no record that this version can use" in caplog.text
    with pytest.raises(ForeignRecord):
        approvals.get("x")
