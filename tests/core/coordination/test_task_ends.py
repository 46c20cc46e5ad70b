"""Waiting for the end of a task, its history, dead tasks and requeueing them."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from converge.coordination.errors import InvalidTransition, UnknownTask
from converge.coordination.task_manager import TaskManager
from converge.core.task import Task, TaskState
from converge.extensions.storage.memory import MemoryStore
from converge.extensions.storage.sqlite import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tests.core.coordination.conftest import ManualClock


def dead(manager: TaskManager) -> list[str]:
    return [task.id for task in manager.list_dead()]


# wait


def test_waiting_ends_when_somebody_else_ends_the_task(tmp_path: Path) -> None:
    with SQLiteStore(tmp_path / "s.db") as one, SQLiteStore(tmp_path / "s.db") as two:
        here, there = TaskManager(one), TaskManager(two)
        here.submit(Task(id="t"))

        def work() -> None:
            assert there.claim("a", "t")
            there.report("a", "t", {"sum": 3})

        worker = threading.Timer(0.05, work)
        worker.start()
        task = here.wait("t", timeout=30)
        worker.join()
        assert (task.state, task.result) == (TaskState.COMPLETED, {"sum": 3})
        assert here.wait("t", timeout=0).state is TaskState.COMPLETED


def test_an_event_loop_waits_without_being_blocked(open_store: Callable[[], object]) -> None:
    store = open_store()
    here, there = TaskManager(store), TaskManager(store)  # type: ignore[arg-type]  # a store
    here.submit(Task(id="t"))

    async def run() -> None:
        waiting = asyncio.create_task(here.wait_async("t", timeout=30))
        await asyncio.sleep(0.03)
        assert not waiting.done()
        there.cancel_task("t")
        assert (await waiting).state is TaskState.CANCELLED
        with pytest.raises(UnknownTask):
            await here.wait_async("missing")
        here.submit(Task(id="u"))
        with pytest.raises(TimeoutError, match=r"task u has not ended within 0\.02 s"):
            await here.wait_async("u", timeout=0.02)
        forever = asyncio.create_task(here.wait_async("u"))
        await asyncio.sleep(0.01)
        forever.cancel()
        with pytest.raises(asyncio.CancelledError):
            await forever

    asyncio.run(run())
    assert not here._steps._listeners


def test_a_wait_that_makes_no_sense_is_refused() -> None:
    manager = TaskManager()
    with pytest.raises(UnknownTask):
        manager.wait("t")
    manager.submit(Task(id="t"))
    with pytest.raises(TimeoutError):
        manager.wait("t", timeout=0)
    for timeout in (-1, float("nan")):
        with pytest.raises(ValueError, match="a timeout is"):
            manager.wait("t", timeout)


# history


def test_the_history_tells_every_transition(manager: TaskManager, clock: ManualClock) -> None:
    manager.submit(Task(id="t", constraints={"max_retries": 1}))
    clock.advance(1)
    manager.claim("a", "t")
    clock.advance(1)
    manager.fail_task("t", "broken", agent_id="a")
    manager.claim("b", "t")
    manager.report("b", "t", 1)
    events = manager.history("t")
    assert [tuple(event[1:]) for event in events] == [
        ("submitted", None, 0, None),
        ("claimed", "a", 1, None),
        ("failed", "a", 1, "broken"),
        ("claimed", "b", 2, None),
        ("completed", "b", 2, None),
    ]
    assert events[2].at - events[0].at == 2
    with pytest.raises(UnknownTask):
        manager.history("missing")


# dead


def test_dead_are_all_that_failed_in_the_order_of_their_ends(
    manager: TaskManager, open_manager: Callable[[], TaskManager], clock: ManualClock
) -> None:
    manager.submit_many(
        [
            Task(id="broken", pool_id="p"),
            Task(id="late", constraints={"deadline": clock.time() + 5}),
            Task(id="poison", constraints={"max_attempts": 1, "claim_ttl_sec": 10}),
            Task(id="needs", depends_on=["broken"]),
            Task(id="fine"),
            Task(id="cancelled"),
        ]
    )
    manager.claim("a", "fine")
    manager.report("a", "fine", 1)
    manager.cancel_task("cancelled")
    manager.claim("a", "poison")
    clock.advance(6)
    manager.release_expired_claims()
    clock.advance(6)
    manager.release_expired_claims()
    clock.advance(1)
    manager.claim("a", "broken")
    manager.fail_task("broken", "no", agent_id="a")
    assert dead(manager) == dead(open_manager()) == ["late", "poison", "broken", "needs"]
    assert [task.id for task in manager.list_dead("p")] == ["broken"]
    assert [task.error for task in manager.list_dead()] == [
        "the deadline has passed: no attempt may start any more",
        "lease expired at attempt 1 of 1",
        "no",
        "it depends on task broken, which is failed",
    ]


def test_a_requeued_task_asks_for_the_same_and_the_first_stays_as_it_ended(manager: TaskManager) -> None:
    manager.submit(
        Task(id="t", objective="o", inputs={"n": [1]}, priority=3, constraints={"deadline": 1.0, "cpu": 0.5})
    )
    assert manager.claim("a", "t") is False
    assert manager.requeue("t", constraints={"deadline": None}) == "t~2"
    again = manager.get_task("t~2")
    assert again is not None
    assert (again.objective, again.inputs, again.priority) == ("o", {"n": [1]}, 3)
    assert again.constraints == {"deadline": None, "cpu": 0.5}
    assert (again.state, again.attempt, again.error, again.result) == (TaskState.PENDING, 0, None, None)
    assert manager.get_task("t").state is TaskState.FAILED  # type: ignore[union-attr]  # it is there
    assert dead(manager) == []
    manager.fail_task("t~2", "again")
    assert dead(manager) == ["t~2"]
    assert manager.requeue("t~2") == "t~3"


def test_requeueing_twice_makes_one_new_task(manager: TaskManager, open_manager: Callable[[], TaskManager]) -> None:
    manager.submit(Task(id="t"))
    manager.cancel_task("t")
    assert {each.requeue("t") for each in (manager, open_manager(), manager)} == {"t~2"}
    assert [task.id for task in manager.list_pending_tasks()] == ["t~2"]


def test_a_hint_that_cannot_be_removed_hides_neither_new_nor_dead_tasks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Stuck(MemoryStore):
        full = False

        def delete_many(self, keys: Iterable[str]) -> None:
            if self.full:
                raise OSError(28, "No space left on device")
            super().delete_many(keys)

    store = Stuck()
    manager = TaskManager(store)
    for name in ("a", "b"):
        manager.submit(Task(id=name))
        manager.fail_task(name, "broken")
    store.full = True
    assert manager.requeue("a") == "a~2"
    assert dead(manager) == ["b"]
    assert manager.counters["hints_left"] == 2
    assert "could not remove 1 hints" in caplog.text
    store.full = False
    assert dead(manager) == ["b"]
    assert store.list("dead:") == ["dead:b"]


def test_a_requeued_task_depends_on_what_its_dependencies_were_requeued_as(manager: TaskManager) -> None:
    manager.submit_many([Task(id="a"), Task(id="b", depends_on=["a"])])
    manager.fail_task("a", "broken")
    assert manager.requeue("a") == "a~2"
    assert manager.requeue("b") == "b~2"
    manager.claim("x", "a~2")
    manager.report("x", "a~2", 1)
    assert [task.id for task in manager.list_pending_tasks()] == ["b~2"]


def test_only_what_failed_is_requeued(manager: TaskManager) -> None:
    manager.submit(Task(id="t"))
    with pytest.raises(InvalidTransition, match="only a FAILED or CANCELLED one is requeued"):
        manager.requeue("t")
    manager.claim("a", "t")
    manager.report("a", "t", 1)
    with pytest.raises(InvalidTransition):
        manager.requeue("t")
    with pytest.raises(UnknownTask):
        manager.requeue("missing")
