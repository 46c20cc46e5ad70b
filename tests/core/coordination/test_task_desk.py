"""Moves of many agents in one event loop: committed together, each with its own answer."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from converge.coordination.errors import ClaimLost, TaskConflict, UnknownTask
from converge.coordination.task_desk import MAX_TOGETHER, TaskDesk
from converge.coordination.task_manager import Claim, TaskManager
from converge.coordination.task_moves import ClaimMove, Move, ReportMove, SubmitMove
from converge.core.task import Task, TaskState
from converge.extensions.storage.memory import MemoryStore
from converge.extensions.storage.sqlite import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from converge.core.store import Write


class Slow(MemoryStore):
    """A store that blocks: each commit waits until `go` is set, and is noted by its number of records."""

    blocking = True

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.go.set()
        self.began = threading.Event()
        self.commits: list[int] = []
        self.full = False

    def compare_and_set_many(self, writes: Iterable[Write]) -> list[int | None]:
        writes = list(writes)
        self.began.set()
        assert self.go.wait(10)
        self.commits.append(sum(write.key.startswith("task:") for write in writes))
        if self.full:
            raise OSError(28, "No space left on device")
        return super().compare_and_set_many(writes)


@pytest.fixture
def store() -> Slow:
    return Slow()


@pytest.fixture
def tasks(store: Slow) -> TaskManager:
    return TaskManager(store)


async def cycle(desk: TaskDesk, agent: str, task_id: str) -> None:
    assert await desk.submit(Task(id=task_id)) == task_id
    claim = await desk.claim(agent, task_id)
    assert isinstance(claim, Claim)
    await desk.report(agent, task_id, agent, claim=claim)


async def test_a_hundred_agents_share_their_commits(tmp_path: Path) -> None:
    with SQLiteStore(tmp_path / "t.db") as sqlite:
        commits = list[int]()

        def committed() -> bool:
            commits.append(1)
            return False

        sqlite._database._writer.connection.set_commit_hook(committed)
        tasks = TaskManager(sqlite)
        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(cycle(TaskDesk.of(tasks), f"agent{number}", f"t{number}"))
        found = [tasks.get_task(f"t{number}") for number in range(100)]
        assert [task and task.result for task in found] == [f"agent{number}" for number in range(100)]
        assert len(commits) < 20


async def test_what_comes_during_a_commit_goes_together_into_the_next(tasks: TaskManager, store: Slow) -> None:
    desk = TaskDesk(tasks)
    store.go.clear()
    first = asyncio.create_task(desk.submit(Task(id="first")))
    await asyncio.to_thread(store.began.wait, 10)
    others = [asyncio.create_task(desk.submit(Task(id=f"t{number}"))) for number in range(MAX_TOGETHER + 5)]
    await asyncio.sleep(0)
    store.go.set()
    await asyncio.gather(first, *others)
    assert store.commits == [1, MAX_TOGETHER, 5]


async def test_each_move_has_its_own_answer(tasks: TaskManager) -> None:
    desk = TaskDesk(tasks)
    tasks.submit(Task(id="known"))
    tasks.submit(Task(id="held", pool_id="club"))
    answers = await asyncio.gather(
        desk.submit(Task(id="new")),
        desk.submit(Task(id="known", objective="another")),
        desk.claim("me", "held", pool_ids=[]),
        desk.claim("me", "known"),
        desk.report("me", "held", 1),
        desk.report("me", "nothing", 1),
        desk.submit(Task(id="bad", objective=object())),  # type: ignore[arg-type]  # the point of the test
        return_exceptions=True,
    )
    new, conflict, unfit, claim, lost, unknown, unplain = answers
    assert new == "new"
    assert isinstance(conflict, TaskConflict)
    assert unfit is False
    assert isinstance(claim, Claim)
    assert (claim.agent_id, claim.attempt) == ("me", 1)
    assert isinstance(lost, ClaimLost)
    assert isinstance(unknown, UnknownTask)
    assert isinstance(unplain, TypeError)
    assert {task.id for task in tasks.list_pending_tasks()} == {"new", "held"}


async def test_moves_of_one_task_are_made_in_their_order(tasks: TaskManager) -> None:
    task = Task(id="t")
    results = await TaskDesk(tasks).carry_out(
        lambda: [SubmitMove(task), ClaimMove("me", "t"), ReportMove("me", "t", 1), ClaimMove("you", "t")]
    )
    assert results[0] == "t"
    assert isinstance(results[1], Claim)
    assert results[2:] == [None, False]
    assert (task.state, task.result) == (TaskState.COMPLETED, 1)


async def test_a_task_that_waits_for_one_reported_in_the_same_commit_can_be_claimed(tasks: TaskManager) -> None:
    tasks.submit_many([Task(id="a"), Task(id="b", depends_on=["a"])])
    tasks.claim("me", "a")
    results = tasks.carry_out([ClaimMove("me", "b"), ReportMove("me", "a", 1), ClaimMove("you", "b")])
    assert isinstance(results[0], Claim), "what cannot be judged before the commit is judged after it"
    assert results[1:] == [None, False]


@pytest.mark.parametrize("tries", [1, 3])
async def test_a_commit_that_fails_is_told_to_each_and_changes_nothing(
    tasks: TaskManager, store: Slow, tries: int
) -> None:
    tasks.submit(Task(id="known"))
    desk = TaskDesk(tasks)
    store.full = True
    for _ in range(tries):
        answers = await asyncio.gather(desk.submit(Task(id="new")), desk.claim("me", "known"), return_exceptions=True)
        assert [type(answer) for answer in answers] == [OSError, OSError]
        assert tasks.get_task("new") is None
        assert tasks.list_held_tasks("me") == []
    store.full = False
    assert await desk.submit(Task(id="new")) == "new"
    assert await desk.claim("me", "known")


async def test_a_request_that_cannot_say_what_it_wants_hurts_itself_only(tasks: TaskManager) -> None:
    def broken() -> list[Move]:
        raise LookupError("no such thing")

    desk = TaskDesk(tasks)
    answers = await asyncio.gather(desk.submit(Task(id="a")), desk.carry_out(broken), return_exceptions=True)
    assert answers[0] == "a"
    assert isinstance(answers[1], LookupError)


async def test_who_is_cancelled_before_the_commit_has_done_nothing_and_during_it_everything(
    tasks: TaskManager, store: Slow
) -> None:
    desk = TaskDesk(tasks)
    store.go.clear()
    begun = asyncio.create_task(desk.submit(Task(id="begun")))
    await asyncio.to_thread(store.began.wait, 10)
    waiting = asyncio.create_task(desk.submit(Task(id="waiting")))
    beside = asyncio.create_task(desk.submit(Task(id="beside")))
    await asyncio.sleep(0)
    begun.cancel()
    waiting.cancel()
    await asyncio.wait([begun, waiting])
    store.go.set()
    assert await beside == "beside"
    assert {task.id for task in tasks.list_pending_tasks()} == {"begun", "beside"}


async def test_a_desk_that_loses_its_thread_tells_who_waits_and_works_again(tasks: TaskManager) -> None:
    async def gone(_: Callable[[], object]) -> list[object]:
        raise RuntimeError("the store thread is closed")

    desk = TaskDesk(tasks)
    with pytest.raises(RuntimeError, match="thread is closed"):
        await desk.carry_out(lambda: [SubmitMove(Task(id="a"))], gone)  # type: ignore[arg-type]  # it returns nothing
    assert await desk.submit(Task(id="a")) == "a"


async def test_there_is_one_desk_of_a_manager_in_a_loop(tasks: TaskManager) -> None:
    assert TaskDesk.of(tasks) is TaskDesk.of(tasks)
    assert TaskDesk.of(TaskManager()) is not TaskDesk.of(tasks)


def test_another_loop_has_a_desk_of_its_own(tasks: TaskManager) -> None:
    async def desk() -> TaskDesk:
        return TaskDesk.of(tasks)

    assert asyncio.run(desk()) is not asyncio.run(desk())


async def test_a_manager_that_does_not_block_is_asked_at_once() -> None:
    tasks = TaskManager()
    desk = TaskDesk(tasks)
    coroutine = desk.submit(Task(id="a"))
    with pytest.raises(StopIteration):  # it has not waited for anything
        coroutine.send(None)
    assert tasks.get_task("a") is not None


@pytest.fixture(autouse=True)
def nothing_is_left_waiting(store: Slow) -> Iterator[None]:
    yield
    store.go.set()
