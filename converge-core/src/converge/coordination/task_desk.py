"""Where the coroutines of an event loop hand in moves of tasks, to be committed together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, cast
from weakref import WeakKeyDictionary

from converge.coordination.task_index import Filter
from converge.coordination.task_moves import ClaimMove, Move, MoveResult, ReportMove, SubmitMove
from converge.observability.tracing import get_current_traceparent

if TYPE_CHECKING:
    from converge.coordination.claims import Claim
    from converge.coordination.task_manager import TaskManager
    from converge.core.plain import Plain
    from converge.core.task import Task

__all__ = ["MAX_TOGETHER", "InThread", "TaskDesk"]

MAX_TOGETHER = 1_000
"""Requests that are committed together at most."""

_Results: TypeAlias = list[MoveResult]
InThread: TypeAlias = Callable[[Callable[[], list["_Results | Exception"]]], Awaitable[list["_Results | Exception"]]]
"""Calls a function in a thread and gives what it returns, as `asyncio.to_thread` does."""


class _Request(NamedTuple):
    moves: Callable[[], Sequence[Move]]
    answer: asyncio.Future[_Results]
    in_thread: InThread


class TaskDesk:
    """The front of a task manager for many agents in one event loop.

    While one commit is under way, in a thread when the manager is `blocking`, what the others want is collected, and
    goes into the next: a hundred agents share a flush of the disk. Nobody waits for anything but the commit before.
    `submit`, `claim` and `report` are those of `TaskManager`, with its errors.

    Cancelling who waits leaves out what has not begun, and nothing else. For the coroutines of one event loop.
    """

    def __init__(self, tasks: TaskManager) -> None:
        self._tasks = tasks
        self._waiting: deque[_Request] = deque()
        self._work: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, tasks: TaskManager) -> TaskDesk:
        """The one desk of `tasks` in the running event loop."""
        desks = _desks.setdefault(asyncio.get_running_loop(), WeakKeyDictionary())
        if (desk := desks.get(tasks)) is None:
            desk = desks[tasks] = cls(tasks)
        return desk

    async def submit(self, task: Task) -> str:
        """Store `task`; its id. See `TaskManager.submit`."""
        return cast("str", await self._one(SubmitMove(task, get_current_traceparent())))

    async def claim(
        self,
        agent_id: str,
        task_id: str,
        *,
        pool_ids: Collection[str] | None = None,
        capabilities: Collection[str] | None = None,
    ) -> Claim | Literal[False]:
        """A lease on the task, or False. See `TaskManager.claim`."""
        result = await self._one(ClaimMove(agent_id, task_id, Filter(pool_ids, capabilities)))
        return cast("Claim | Literal[False]", result)

    async def report(self, agent_id: str, task_id: str, result: Plain, *, claim: Claim | None = None) -> None:
        """Store the result. See `TaskManager.report`."""
        await self._one(ReportMove(agent_id, task_id, result, claim))

    async def carry_out(
        self, moves: Callable[[], Sequence[Move]], in_thread: InThread = asyncio.to_thread
    ) -> list[MoveResult]:
        """What became of each of the moves that `moves()` gives. See `TaskManager.carry_out`.

        `moves` is called in the thread that commits; what it raises is raised here. When the manager does not block,
        all of it happens at once.
        """
        if not self._tasks.blocking:
            return self._tasks.carry_out(moves())
        answer: asyncio.Future[_Results] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Request(moves, answer, in_thread))
        if self._work is None:
            self._work = asyncio.create_task(self._serve(), name="converge-task-desk")
        return await answer

    async def _one(self, move: Move) -> MoveResult:
        (result,) = await self.carry_out(lambda: (move,))
        if isinstance(result, Exception):
            raise result
        return result

    async def _serve(self) -> None:
        """Commit what waits until nothing does. A task of its own, it begins when all that run now have queued up."""
        requests: list[_Request] = []
        try:
            while self._waiting:
                taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_TOGETHER))]
                requests = [request for request in taken if not request.answer.done()]  # the others were cancelled
                if requests:
                    _settle(requests, await requests[0].in_thread(lambda these=requests: self._commit(these)))  # type: ignore[misc]  # a default binds the loop's value
        except BaseException as error:
            left = error if isinstance(error, Exception) else RuntimeError("the commit of task moves was cut off")
            _settle([*requests, *self._waiting], [left] * (len(requests) + len(self._waiting)))
            self._waiting.clear()
            if not isinstance(error, Exception):
                raise
        finally:
            self._work = None

    def _commit(self, requests: Sequence[_Request]) -> list[_Results | Exception]:
        """What became of the moves of each request, or why they could not even be asked for."""
        asked: list[Sequence[Move] | Exception] = []
        for request in requests:
            try:
                asked.append(request.moves())
            except Exception as error:  # noqa: BLE001  # raised where it was asked for
                asked.append(error)
        moves = [move for each in asked if not isinstance(each, Exception) for move in each]
        results = iter(self._tasks.carry_out(moves))
        return [each if isinstance(each, Exception) else [next(results) for _ in each] for each in asked]


_desks: WeakKeyDictionary[asyncio.AbstractEventLoop, WeakKeyDictionary[TaskManager, TaskDesk]] = WeakKeyDictionary()


def _settle(requests: Sequence[_Request], answers: Sequence[_Results | Exception]) -> None:
    for request, answer in zip(requests, answers, strict=True):
        if request.answer.done():
            continue
        if isinstance(answer, Exception):
            request.answer.set_exception(answer)
        else:
            request.answer.set_result(answer)
