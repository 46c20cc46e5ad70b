"""Tasks that wait: for other tasks, and for the end of a pause."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from converge.coordination.errors import UnknownTask
from converge.coordination.task_manager import TaskManager
from converge.core.store import Write
from converge.core.task import Task, TaskState
from converge.extensions.storage.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.core.coordination.conftest import ManualClock


def listed(manager: TaskManager) -> list[str]:
    return [task.id for task in manager.list_pending_tasks()]


def state(manager: TaskManager, task_id: str) -> tuple[str, str | None]:
    task = manager.get_task(task_id)
    assert task is not None
    return task.state.value, task.error


def complete(manager: TaskManager, task_id: str) -> None:
    assert manager.claim("a", task_id)
    manager.report("a", task_id, None)


# depends_on


def test_a_task_is_listed_and_claimed_when_all_that_it_needs_is_completed(
    manager: TaskManager, open_manager: Callable[[], TaskManager]
) -> None:
    manager.submit_many([Task(id="c", depends_on=["a", "b"]), Task(id="a"), Task(id="b")])
    others = [manager, open_manager()]
    for other in others:
        assert listed(other) == ["a", "b"]
        assert other.claim("x", "c") is False
    complete(manager, "a")
    for other in others:
        assert listed(other) == ["b"]
        assert other.claim("x", "c") is False
    complete(manager, "b")
    for other in (*others, open_manager()):
        assert listed(other) == ["c"]
    assert others[1].claim("x", "c")
    assert manager.progress().done == 2


def test_a_task_submitted_after_what_it_needs_has_ended_is_ready_at_once(manager: TaskManager) -> None:
    manager.submit(Task(id="a"))
    complete(manager, "a")
    manager.submit(Task(id="b", depends_on=["a", "a"]))
    assert listed(manager) == ["b"]
    complete(manager, "b")


@pytest.mark.parametrize("end", ["cancelled", "failed"])
def test_a_failed_dependency_fails_those_that_need_it_and_those_that_need_them(
    end: str, manager: TaskManager, open_manager: Callable[[], TaskManager]
) -> None:
    manager.submit_many([Task(id="a"), Task(id="b", depends_on=["a"]), Task(id="c", depends_on=["b"]), Task(id="d")])
    follower = open_manager()
    assert listed(follower) == ["a", "d"]
    if end == "cancelled":
        assert manager.cancel_task("a")
    else:
        manager.fail_task("a", "broken")
    assert state(manager, "b") == ("failed", f"it depends on task a, which is {end}")
    assert state(manager, "c") == ("failed", "it depends on task b, which is failed")
    assert listed(follower) == ["d"]
    manager.submit(Task(id="e", depends_on=["c"]))
    assert state(manager, "e") == ("failed", "it depends on task c, which is failed")


def test_a_dependency_that_somebody_failed_and_died_is_noticed_by_the_next_one(
    manager: TaskManager, open_manager: Callable[[], TaskManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.submit_many([Task(id="a"), Task(id="b", depends_on=["a"]), Task(id="c", depends_on=["b"])])
    with monkeypatch.context() as patched:
        patched.setattr(manager._steps, "fail_dependents", lambda: (_ for _ in ()).throw(OSError("died")))
        manager.cancel_task("a")
    assert manager.counters["dependents_left"] == 1
    assert state(manager, "b") == ("pending", None)
    assert open_manager().claim("x", "b") is False
    assert state(manager, "b")[0] == "failed"
    assert state(manager, "c")[0] == "failed"


def test_releasing_claims_fails_what_was_left(manager: TaskManager, open_manager: Callable[[], TaskManager]) -> None:
    manager.submit_many(
        [Task(id="a", constraints={"max_attempts": 1, "claim_ttl_sec": 10}), Task(id="b", depends_on=["a"])]
    )
    manager.claim("x", "a")
    reaper = open_manager()
    assert reaper.release_expired_claims() == []
    reaper._steps.clock.advance(11)  # type: ignore[attr-defined]  # the clock of the tests
    assert reaper.release_expired_claims() == ["a", "b"]
    assert state(reaper, "b")[0] == "failed"


def test_a_dependency_that_does_not_exist_or_waits_in_a_circle_is_refused(manager: TaskManager) -> None:
    with pytest.raises(UnknownTask, match="'missing'"):
        manager.submit(Task(id="a", depends_on=["missing"]))
    with pytest.raises(ValueError, match="the tasks a, b, c wait for each other"):
        manager.submit_many(
            [
                Task(id="a", depends_on=["b"]),
                Task(id="b", depends_on=["a"]),
                Task(id="c", depends_on=["a"]),
                Task(id="d"),
            ]
        )
    with pytest.raises(ValueError, match="wait for each other"):
        manager.submit(Task(id="a", depends_on=["a"]))
    with pytest.raises(ValueError, match="depends_on holds ids"):
        manager.submit(Task(id="a", depends_on=[""]))
    assert listed(manager) == []


def test_a_long_chain_becomes_ready_link_by_link(manager: TaskManager) -> None:
    chain = [Task(id="0"), *(Task(id=str(n), depends_on=[str(n - 1)]) for n in range(1, 30))]
    manager.submit_many(reversed(chain))
    for number in range(30):
        assert listed(manager) == [str(number)]
        complete(manager, str(number))


def test_a_record_that_was_written_by_hand_with_an_unknown_dependency_waits() -> None:
    store = MemoryStore()
    manager = TaskManager(store)
    manager.submit(Task(id="a"))
    record = store.get("task:a")
    assert isinstance(record, dict)
    store.compare_and_set_many(
        [Write("task:b", record | {"id": "b", "depends_on": ["gone"]}, 0), Write("open:b", 0, 0)]
    )
    assert listed(TaskManager(store)) == ["a"]
    assert TaskManager(store).claim("x", "b") is False


# Retries with a pause


def test_a_failed_attempt_is_tried_again_after_a_pause_that_doubles(manager: TaskManager, clock: ManualClock) -> None:
    manager.submit(Task(id="t", constraints={"max_retries": 3, "retry_backoff_sec": 10}))
    for pause in (10, 20, 40):
        assert manager.claim("a", "t")
        manager.fail_task("t", "broken", agent_id="a")
        clock.advance(pause - 1)
        assert listed(manager) == []
        assert manager.claim("b", "t") is False
        assert not manager.may_have_changed() or not manager.sync()
        clock.advance(1)
        assert manager.may_have_changed()
        assert listed(manager) == ["t"]
    assert manager.claim("a", "t")
    manager.fail_task("t", "broken", agent_id="a")
    assert state(manager, "t") == ("failed", "broken")


def test_a_pause_is_kept_by_a_manager_that_opens_later_and_told_when_it_is_over(
    manager: TaskManager, open_manager: Callable[[], TaskManager], clock: ManualClock
) -> None:
    manager.submit(Task(id="t", constraints={"max_retries": 1, "retry_backoff_sec": 5}))
    manager.claim("a", "t")
    manager.fail_task("t", "broken", agent_id="a")
    later, told = open_manager(), []
    later.add_listener(lambda: told.append(1))
    assert listed(later) == []
    later.poll()
    told.clear()
    assert later.poll() is False
    clock.advance(5)
    assert later.poll() is True
    assert told == [1]
    assert listed(later) == ["t"]
    assert later.progress().pending == 1


def test_a_paused_task_that_is_cancelled_does_not_come_back(manager: TaskManager, clock: ManualClock) -> None:
    manager.submit(Task(id="t", constraints={"max_retries": 1, "retry_backoff_sec": 5}))
    manager.claim("a", "t")
    manager.fail_task("t", "broken", agent_id="a")
    assert listed(manager) == []
    assert manager.cancel_task("t")
    clock.advance(6)
    assert listed(manager) == []


@pytest.mark.parametrize("pause", [-1, float("nan"), float("inf"), "1", True])
def test_a_pause_that_makes_no_sense_is_refused(pause: object, manager: TaskManager) -> None:
    with pytest.raises(ValueError, match="retry_backoff_sec"):
        manager.submit(Task(id="t", constraints={"retry_backoff_sec": pause}))  # type: ignore[dict-item]  # the point


def test_the_longest_pause_is_an_hour(manager: TaskManager, clock: ManualClock) -> None:
    manager.submit(Task(id="t", constraints={"max_retries": 100, "max_attempts": 200, "retry_backoff_sec": 3000}))
    for _ in range(80):
        assert manager.claim("a", "t")
        manager.fail_task("t", "broken", agent_id="a")
        clock.advance(3600)
    assert manager.claim("a", "t")


# Idempotency keys


def test_the_same_key_finds_the_first_task_from_any_process(
    manager: TaskManager, open_manager: Callable[[], TaskManager]
) -> None:
    first = manager.submit(Task(objective="bill", idempotency_key="invoice-7"))
    assert open_manager().submit(Task(objective="bill", idempotency_key="invoice-7")) == first
    assert listed(manager) == [first]
    complete(manager, first)
    assert manager.submit(Task(objective="bill", idempotency_key="invoice-7")) == first
    task = manager.get_task(first)
    assert task is not None
    assert (task.state, task.idempotency_key) == (TaskState.COMPLETED, "invoice-7")
    with pytest.raises(ValueError, match="is another one"):
        manager.submit(Task(objective="another bill", idempotency_key="invoice-7"))
    assert manager.submit(Task(objective="bill", idempotency_key="invoice-8")) != first


def test_a_key_gives_the_id_and_no_other_may_be_given() -> None:
    derived = Task(idempotency_key="k").id
    assert Task(id=derived, idempotency_key="k").id == derived
    with pytest.raises(ValueError, match=f"the idempotency key 'k' gives the id {derived}, not 'mine'"):
        Task(id="mine", idempotency_key="k")
    assert Task().id != Task().id
