"""The tools by which an MCP client submits tasks and gets their results."""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from converge.core.errors import ConvergeError
from converge.core.plain import pack
from converge.core.plain_json import from_json
from converge.core.task import Task
from converge.core.tools import tool

if TYPE_CHECKING:
    from collections.abc import Collection

    from converge.coordination.pool_manager import PoolManager
    from converge.coordination.task_manager import TaskManager
    from converge.core.plain import Plain
    from converge.core.tools import FunctionTool

__all__ = ["MAX_TASK_BYTES", "MAX_WAIT_SEC", "TaskRefused", "TaskTools"]

MAX_WAIT_SEC: Final = 600.0
"""How long one call may wait for a result; a client asks again."""

MAX_TASK_BYTES: Final = 1024 * 1024
_PREFIX: Final = "mcp-"
"""How the ids of tasks begin that came in this way. Others are none of a client's business."""

_MAX_LISTED: Final = 100
_MAX_REMEMBERED: Final = 10_000


class TaskRefused(ConvergeError, ValueError):
    """What a client asked for is not to be had from this server; the text says what is."""


class TaskTools:
    """Tools that submit tasks to `pools`, and look after those that came in this way, by whatever server, before.

    With `pools` a task goes to one of them, without to any pool or none. At most `max_open` tasks of this object are
    open at a time. The managers are called in threads.
    """

    def __init__(
        self, tasks: TaskManager, pools: PoolManager, allowed: Collection[str] = (), *, max_open: int = 100
    ) -> None:
        self._tasks, self._pools, self._allowed, self._max_open = tasks, pools, tuple(allowed), max_open
        self._submitted: OrderedDict[str, None] = OrderedDict()
        self._submitting = asyncio.Lock()

    def tools(self) -> list[FunctionTool[..., Any]]:
        """`submit_task`, `task_result`, `cancel_task` and `list_tasks`."""
        timed = tool(isolation="inline", timeout_sec=MAX_WAIT_SEC + 30)
        return [timed(each) for each in (self.submit_task, self.task_result, self.cancel_task, self.list_tasks)]

    async def submit_task(
        self,
        objective: str,
        inputs: dict[str, Any] = {},  # noqa: B006  # never changed; the schema shows it
        pool: str | None = None,
        required_capabilities: list[str] = [],  # noqa: B006  # as above
        timeout_sec: float | None = None,
        idempotency_key: str | None = None,
        wait_sec: float = 0,
    ) -> dict[str, Any]:
        """Give a task to the agents of a pool. Returns its id and state, and the result if it has one in time.

        Args:
            objective: What is to be done, in words that the agents of the pool understand.
            inputs: What they need for it.
            pool: Which agents do it; needed when this server serves more than one pool.
            required_capabilities: Only agents that have all of these take it.
            timeout_sec: How long an agent may work on it.
            idempotency_key: Submitting again with the same key finds the first task instead of making another.
            wait_sec: Wait so many seconds, at most 600, for the result. Without one, ask task_result later.

        """
        wait = _checked_wait(wait_sec)
        constraints: dict[str, Plain] = {} if timeout_sec is None else {"timeout_sec": timeout_sec}
        pool_id = await self._pool(pool)
        task = Task(
            _id(idempotency_key),
            objective,
            _plain_inputs(inputs),
            constraints=constraints,
            pool_id=pool_id,
            required_capabilities=required_capabilities,
        )
        if (size := len(pack([objective, task.inputs]))) > MAX_TASK_BYTES:
            raise TaskRefused(f"objective and inputs take {size} bytes, and at most {MAX_TASK_BYTES} are taken")
        async with self._submitting:  # so that many at once do not pass the limit together
            await self._check_open(task.id)
            await asyncio.to_thread(self._tasks.submit, task)
            self._remember(task.id)
        return await self._ended(task.id, wait)

    async def task_result(self, task_id: str, wait_sec: float = 0) -> dict[str, Any]:
        """The state of a task that was submitted here, with its result or why it failed.

        Args:
            task_id: What submit_task returned.
            wait_sec: Wait so many seconds, at most 600, for its end.

        """
        wait = _checked_wait(wait_sec)
        await self._mine(task_id)
        return await self._ended(task_id, wait)

    async def cancel_task(self, task_id: str) -> dict[str, Any]:
        """End a task that was submitted here; an agent that works on it is told. Says whether this ended it.

        Args:
            task_id: What submit_task returned.

        """
        await self._mine(task_id)
        cancelled = await asyncio.to_thread(self._tasks.cancel_task, task_id)
        return {"cancelled": cancelled, **_shown(await self._mine(task_id))}

    async def list_tasks(self, only_open: bool = False, limit: int = 20) -> dict[str, Any]:
        """The tasks that were submitted since this server started, the latest first, without their results.

        Args:
            only_open: Leave out those that have ended.
            limit: How many, at most 100.

        """
        if not 1 <= limit <= _MAX_LISTED:
            raise TaskRefused(f"limit is 1 to {_MAX_LISTED}, not {limit}")
        ids = list(reversed(self._submitted))
        if only_open:
            still_open = await asyncio.to_thread(self._tasks.open_among, ids)
            ids = [task_id for task_id in ids if task_id in still_open]
        found = await asyncio.to_thread(lambda: [self._tasks.get_task(task_id) for task_id in ids[:limit]])
        listed = [
            {
                "task_id": task.id,
                "state": task.state.value,
                "pool": task.pool_id,
                "objective": str(task.objective)[:200],
            }
            for task in found
            if task is not None
        ]
        return {"tasks": listed, "left_out": max(0, len(ids) - limit)}

    async def _pool(self, wanted: str | None) -> str | None:
        if wanted is None and len(self._allowed) == 1:
            wanted = self._allowed[0]
        if self._allowed and wanted not in self._allowed:
            raise TaskRefused(f"pool is one of {', '.join(self._allowed)}, not {wanted!r:.100}")
        if wanted is not None and await asyncio.to_thread(self._pools.get_pool, wanted) is None:
            raise TaskRefused(f"there is no pool {wanted!r:.100} yet; it is made when its agents are started")
        return wanted

    async def _check_open(self, task_id: str) -> None:
        if task_id in self._submitted:
            return
        still_open = await asyncio.to_thread(self._tasks.open_among, list(self._submitted))
        if len(still_open) >= self._max_open:
            raise TaskRefused(f"{len(still_open)} tasks are open, and no more are taken; wait, or cancel some")

    def _remember(self, task_id: str) -> None:
        self._submitted[task_id] = None
        if len(self._submitted) > _MAX_REMEMBERED:
            self._submitted.popitem(last=False)

    async def _mine(self, task_id: str) -> Task:
        task = await asyncio.to_thread(self._tasks.get_task, task_id) if task_id.startswith(_PREFIX) else None
        if task is None or (self._allowed and task.pool_id not in self._allowed):
            raise TaskRefused(f"no task {task_id!r:.100} was submitted here")
        return task

    async def _ended(self, task_id: str, wait_sec: float) -> dict[str, Any]:
        if wait_sec:
            try:
                return _shown(await self._tasks.wait_async(task_id, wait_sec))
            except TimeoutError:
                pass  # its state says that it goes on
        return _shown(await self._mine(task_id))


def _id(key: str | None) -> str:
    unique = uuid.uuid4() if key is None else uuid.uuid5(uuid.NAMESPACE_URL, f"converge-mcp:{key}")
    return f"{_PREFIX}{unique}"


def _checked_wait(wait_sec: float) -> float:
    if not 0 <= wait_sec <= MAX_WAIT_SEC:
        raise TaskRefused(f"wait_sec is 0 to {MAX_WAIT_SEC:.0f}, not {wait_sec}")
    return wait_sec


def _plain_inputs(inputs: dict[str, Any]) -> dict[str, Any]:
    plain = from_json(inputs)
    if not isinstance(plain, dict):
        raise TaskRefused("inputs is an object")
    return plain


def _shown(task: Task) -> dict[str, Any]:
    shown: dict[str, Any] = {"task_id": task.id, "state": task.state.value}
    if task.state.is_final:
        shown |= {"result": task.result} if task.error is None else {"error": task.error}
    return shown
