"""The transitions, without any store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from converge.coordination.errors import ClaimLost, InvalidTransition
from converge.coordination.task_record import MAX_HISTORY, TaskRecord
from converge.core.plain import Plain, pack, unpack
from converge.core.task import Task, TaskState
from converge.core.topic import Topic

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = 1_000.0


def record(**constraints: Plain) -> TaskRecord:
    return TaskRecord.of(Task(id="t", constraints=constraints), NOW)


def test_a_claim_is_a_lease_of_one_ttl_under_the_next_attempt() -> None:
    claimed = record(claim_ttl_sec=5).claim("a", NOW)
    assert (claimed.state, claimed.assigned_to, claimed.attempt) == ("assigned", "a", 1)
    assert (claimed.claimed_at, claimed.lease_expires_at) == (NOW, NOW + 5)
    assert claimed.expire(NOW + 5).claim("b", NOW + 6).attempt == 2


def test_a_lease_lasts_five_minutes_unless_the_task_says_otherwise() -> None:
    assert record().claim("a", NOW).lease_expires_at == NOW + 300


def test_a_renewal_extends_the_lease_to_the_timeout_and_no_further() -> None:
    claimed = record(claim_ttl_sec=10, timeout_sec=25).claim("a", NOW)
    renewed = claimed.renew("a", 1, NOW + 8)
    assert renewed.lease_expires_at == NOW + 18
    last = renewed.renew("a", 1, NOW + 17)
    assert last.lease_expires_at == last.timeout_at == NOW + 25
    with pytest.raises(ClaimLost, match="timeout_sec is over for attempt 1"):
        last.renew("a", 1, NOW + 25)
    assert record(claim_ttl_sec=10, timeout_sec=3).claim("a", NOW).lease_expires_at == NOW + 3


@pytest.mark.parametrize(("agent", "attempt"), [("b", 1), ("b", None), ("a", 2), ("", None)])
def test_who_does_not_hold_the_task_under_this_attempt_can_do_nothing(agent: str, attempt: int | None) -> None:
    claimed = record().claim("a", NOW)
    moves: list[Callable[[], object]] = [
        lambda: claimed.report(agent, attempt, 1, NOW),
        lambda: claimed.fail(agent, attempt, "why", NOW),
        lambda: claimed.renew(agent, attempt, NOW),
        lambda: claimed.release(agent, attempt, NOW),
    ]
    for move in moves:
        with pytest.raises(ClaimLost, match="is not held by") as caught:
            move()
        assert caught.value.task_id == "t"


def test_an_expired_claim_that_nobody_took_may_still_report() -> None:
    done = record(claim_ttl_sec=1).claim("a", NOW).report("a", 1, {"x": [1]}, NOW + 100)
    assert (done.state, done.result, done.lease_expires_at) == ("completed", {"x": [1]}, None)


def test_the_same_report_again_changes_nothing_and_another_is_refused() -> None:
    done = record().claim("a", NOW).report("a", 1, {"x": 1, "y": [2]}, NOW)
    assert done.report("a", 1, {"y": [2], "x": 1}, NOW + 1) is done
    assert done.report("a", None, {"x": 1, "y": [2]}, NOW + 1) is done
    for agent, attempt, result in [("a", 1, {"x": 2}), ("a", 2, {"x": 1, "y": [2]}), ("b", 1, {"x": 1, "y": [2]})]:
        with pytest.raises(ClaimLost, match="it is completed"):
            done.report(agent, attempt, result, NOW + 1)  # type: ignore[arg-type]  # lists of mixed types


def test_a_claimant_may_fail_as_often_as_max_retries_says() -> None:
    current = record(max_retries=2)
    for attempt in (1, 2):
        current = current.claim("a", NOW).fail("a", attempt, "no luck", NOW)
        assert (current.state, current.assigned_to, current.error) == ("pending", None, None)
    ended = current.claim("a", NOW).fail("a", 3, "no luck again", NOW)
    assert (ended.state, ended.error, ended.failures) == ("failed", "no luck again", 3)
    assert record().claim("a", NOW).fail("a", 1, "once", NOW).state == "failed"


@pytest.mark.parametrize(
    ("constraints", "claims"),
    [({}, 20), ({"max_retries": 3}, 4), ({"max_retries": 0}, 1), ({"max_attempts": 2}, 2)],
)
def test_a_task_that_is_never_ended_is_given_up_after_so_many_claims(
    constraints: dict[str, Plain], claims: int
) -> None:
    current, count = record(**constraints), 0
    while current.state == "pending":
        count += 1
        current = current.claim(f"w{count}", NOW).expire(NOW)
    assert (count, current.state) == (claims, "failed")
    assert current.error == f"lease expired at attempt {claims} of {claims}"
    assert len(current.history) == 1 + 2 * claims


@pytest.mark.parametrize("state", [TaskState.FAILED, TaskState.CANCELLED])
def test_an_end_is_final(state: TaskState) -> None:
    for current in (record(), record().claim("a", NOW)):
        ended = current.end(state, "because", NOW)
        assert (ended.state, ended.error, ended.is_open) == (state.value, "because", False)
        with pytest.raises(InvalidTransition, match=f"is {state.value} already"):
            ended.end(TaskState.CANCELLED, "again", NOW)
        with pytest.raises(ClaimLost):
            ended.report("a", 1, None, NOW)


def test_the_history_keeps_the_first_event_and_the_latest_and_cuts_long_reasons() -> None:
    current = record(max_retries=1_000)
    for attempt in range(1, 200):
        current = current.claim("a", NOW).fail("a", attempt, "x" * 10_000, NOW)
    assert len(current.history) == MAX_HISTORY
    assert current.history[0] == [NOW, "submitted", None, 0, None]
    assert current.history[-1] == [NOW, "failed", "a", 199, "x" * 500]


def test_a_reason_is_text() -> None:
    with pytest.raises(TypeError, match="a reason is a str, not ValueError"):
        record().end(TaskState.FAILED, ValueError("x"), NOW)  # type: ignore[arg-type]  # the mistake


@pytest.mark.parametrize(
    ("constraints", "said"),
    [
        ({"claim_ttl_sec": float("nan")}, "claim_ttl_sec is a finite number"),
        ({"claim_ttl_sec": float("inf")}, "claim_ttl_sec is a finite number"),
        ({"claim_ttl_sec": 0}, "claim_ttl_sec is above 0"),
        ({"claim_ttl_sec": True}, "claim_ttl_sec is a finite number"),
        ({"timeout_sec": -1}, "timeout_sec is above 0"),
        ({"timeout_sec": "5"}, "timeout_sec is a finite number"),
        ({"deadline": float("-inf")}, "deadline is a finite number"),
        ({"max_retries": -1}, "max_retries is an int of at least 0"),
        ({"max_attempts": 0}, "max_attempts is an int of at least 1"),
        ({"max_attempts": 2.0}, "max_attempts is an int of at least 1"),
    ],
)
def test_constraints_that_make_no_sense_are_refused(constraints: dict[str, Plain], said: str) -> None:
    with pytest.raises(ValueError, match=f"task t: the constraint {said}"):
        record(**constraints)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"id": ""}, "a task needs an id"),
        ({"id": 5}, "id is str, not 5"),
        ({"priority": 1.5}, "priority is int"),
        ({"pool_id": 7}, "pool_id is str or None"),
        ({"inputs": [1]}, "inputs is dict"),
        ({"topic": "news"}, "topic is a Topic or None"),
        ({"required_capabilities": [["a"]]}, "required_capabilities holds names"),
    ],
)
def test_fields_of_a_wrong_kind_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TaskRecord.of(Task(**{"id": "t", **fields}), NOW)


@pytest.mark.parametrize("bad", [object(), {1: 2}, 2**64, {"claim_ttl_sec": 10**400}])
def test_what_is_not_plain_data_is_a_type_error(bad: Any) -> None:
    with pytest.raises(TypeError, match=r"\$\.constraints|\$\.inputs"):
        TaskRecord.of(Task(id="t", inputs={"x": bad}, constraints=bad if isinstance(bad, dict) else {}), NOW)


def test_a_record_survives_its_plain_form() -> None:
    task = Task(
        id="t",
        objective=["find", {"x": 1}],
        inputs={"a": [1, b"\0"]},
        outputs={"o": None},
        constraints={"max_retries": 1, "cpu": 0.5},
        pool_id="p",
        topic=Topic("news", {"lang": "de"}),
        required_capabilities=["read"],
        priority=-3,
    )
    for current in (
        start := TaskRecord.of(task, NOW),
        start.claim("a", NOW),
        start.claim("a", NOW).report("a", 1, 1, NOW),
    ):
        again = TaskRecord.from_plain(unpack(pack(current.to_plain())))
        assert again == current
        assert again.same_task_as(start)
    copy = start.to_task()
    assert copy == task
    copy.inputs["a"].append(2)  # type: ignore[union-attr]  # a list, given above
    assert start.inputs == {"a": [1, b"\0"]}


@pytest.mark.parametrize(
    "change",
    [
        {"state": "running"},
        {"state": "gone"},
        {"state": "assigned"},
        {"lease_expires_at": 5.0},
        {"required_capabilities": [{}]},
        {"topic": {"no": "topic"}},
        {"constraints": {"claim_ttl_sec": -1}},
        {"attempt": "1"},
        {"from_the_future": 1},
    ],
)
def test_a_stored_value_that_is_no_record_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        TaskRecord.from_plain({**record().to_plain(), **change})
    with pytest.raises(ValueError, match="not a dict"):
        TaskRecord.from_plain([change])


def test_tasks_are_the_same_whatever_the_order_of_keys_and_the_kind_of_sequence() -> None:
    nan = float("nan")
    one = TaskRecord.of(Task(id="t", inputs={"a": 1, "b": [1, nan]}), NOW)
    assert one.same_task_as(TaskRecord.of(Task(id="t", inputs={"b": (1, nan), "a": 1}), NOW + 5))  # type: ignore[dict-item]  # a tuple is taken as a list
    assert not one.same_task_as(TaskRecord.of(Task(id="t", inputs={"a": 1, "b": [1, 2.0]}), NOW))
    assert not one.same_task_as(TaskRecord.of(Task(id="t", inputs=dict(one.inputs), priority=1), NOW))
