"""Claims and reports of one tick in one commit: each is judged as if it stood alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from converge.coordination.errors import ClaimLost, UnknownTask
from converge.coordination.task_manager import Claim, TaskManager
from converge.core.task import Task, TaskState
from converge.extensions.storage.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from converge.core.store import Write


class Interrupted(MemoryStore):
    """Lets somebody else act right before the next commit of several writes, and counts those commits."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Callable[[], object] | None = None
        self.commits = 0

    def compare_and_set_many(self, writes: Iterable[Write]) -> list[int | None]:
        act, self.before = self.before, None
        if act is not None:
            act()
        self.commits += 1
        return super().compare_and_set_many(writes)


@pytest.fixture
def store() -> Interrupted:
    return Interrupted()


@pytest.fixture
def tasks(store: Interrupted) -> TaskManager:
    manager = TaskManager(store)
    manager.submit_many([Task(id=name) for name in ("a", "b", "c")])
    store.commits = 0
    return manager


def state_of(manager: TaskManager, task_id: str) -> TaskState:
    task = manager.get_task(task_id)
    assert task is not None
    return task.state


def test_several_claims_are_one_commit(tasks: TaskManager, store: Interrupted) -> None:
    claims = tasks.claim_many("me", ["a", "b", "c"])
    assert [claim.task_id for claim in claims if claim] == ["a", "b", "c"]
    assert [claim.attempt for claim in claims if claim] == [1, 1, 1]
    assert store.commits == 1


def test_each_claim_has_its_own_answer(tasks: TaskManager) -> None:
    assert tasks.claim("other", "a")
    mine = tasks.claim("me", "b")
    assert tasks.claim_many("me", ["a", "b", "nothing", "c", "c"])[:3] == [False, mine, False]
    again = tasks.claim_many("me", ["c", "c"])
    assert again[0] == again[1]
    assert isinstance(again[0], Claim)
    assert again[0].attempt == 1, "claiming what I hold is the same claim"


def test_a_task_that_does_not_fit_is_not_claimed(tasks: TaskManager) -> None:
    tasks.submit(Task(id="hard", required_capabilities=["flying"]))
    tasks.submit(Task(id="closed", pool_id="club"))
    fitting = tasks.claim_many("me", ["hard", "closed", "a"], pool_ids=[], capabilities=[])
    assert [bool(claim) for claim in fitting] == [False, False, True]


def test_what_somebody_takes_in_between_is_not_mine(tasks: TaskManager, store: Interrupted) -> None:
    store.before = lambda: TaskManager(store).claim("other", "b")
    claims = tasks.claim_many("me", ["a", "b", "c"])
    assert [bool(claim) for claim in claims] == [True, False, True]
    held = tasks.get_task("b")
    assert held is not None
    assert held.assigned_to == "other"
    assert tasks.counters["contended"] == 1


def test_several_reports_are_one_commit_and_submitted_objects_see_them(tasks: TaskManager, store: Interrupted) -> None:
    mine = Task(id="d")
    tasks.submit(mine)
    tasks.claim_many("me", ["a", "d"])
    store.commits = 0
    assert tasks.report_many("me", {"a": 1, "d": {"sum": 2}}) == {}
    assert store.commits == 1
    assert (mine.state, mine.result) == (TaskState.COMPLETED, {"sum": 2})
    assert tasks.open_among(["a", "b", "d"]) == {"b"}


def test_a_report_that_is_refused_does_not_keep_the_others(tasks: TaskManager) -> None:
    tasks.claim_many("me", ["a", "b"])
    tasks.claim("other", "c")
    unplain: Any = {1, 2}
    refused = tasks.report_many("me", {"a": "done", "b": unplain, "c": "stolen", "nothing": 0})
    assert {task_id: type(error) for task_id, error in refused.items()} == {
        "b": TypeError,
        "c": ClaimLost,
        "nothing": UnknownTask,
    }
    assert state_of(tasks, "a") is TaskState.COMPLETED
    assert state_of(tasks, "b") is TaskState.ASSIGNED
    assert tasks.report_many("me", {"a": "done"}) == {}, "the same report again returns"
    assert isinstance(tasks.report_many("me", {"a": "other"})["a"], ClaimLost)


def test_a_claim_that_is_lost_in_between_is_not_reported(tasks: TaskManager, store: Interrupted) -> None:
    tasks.claim_many("me", ["a", "b"])
    store.before = lambda: TaskManager(store).cancel_task("b")
    refused = tasks.report_many("me", {"a": 1, "b": 2})
    assert {task_id: type(error) for task_id, error in refused.items()} == {"b": ClaimLost}
    assert state_of(tasks, "a") is TaskState.COMPLETED
    assert state_of(tasks, "b") is TaskState.CANCELLED


def test_a_commit_that_fails_changes_nothing(tasks: TaskManager, store: Interrupted) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    store.before = full
    with pytest.raises(OSError, match="No space"):
        tasks.claim_many("me", ["a", "b"])
    assert tasks.list_held_tasks("me") == []
    tasks.claim_many("me", ["a", "b"])
    store.before = full
    with pytest.raises(OSError, match="No space"):
        tasks.report_many("me", {"a": 1, "b": 2})
    assert [task.id for task in tasks.list_held_tasks("me")] == ["a", "b"]
    assert tasks.report_many("me", {"a": 1, "b": 2}) == {}


def test_nobody_is_woken_when_nothing_was_stored(tasks: TaskManager) -> None:
    tasks.claim("other", "a")
    tasks.claim("other", "b")
    woken: list[int] = []
    tasks.add_listener(lambda: woken.append(1))
    tasks.claim_many("me", ["a", "b", "nothing"])
    tasks.report_many("me", {"a": 1, "nothing": 2})
    assert woken == []
    tasks.claim_many("me", ["a", "c"])
    assert woken == [1]
