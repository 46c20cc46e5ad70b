"""The worker processes that all agents of an event loop share."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from converge.core.errors import ToolFailed
from converge.runtime.tools.limits import MAX_RESULT_BYTES, ToolLimits
from converge.runtime.tools.process import ToolGuard, ToolProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from converge.core.tool_call import ToolCall
    from converge.core.tool_reference import ToolReference

__all__ = ["DEFAULT_WORKERS", "IDLE_SEC", "ToolPool"]

DEFAULT_WORKERS = 32
"""How many tools run in processes at one time; further calls wait their turn."""
IDLE_SEC = 60.0
"""A worker that has had nothing to do for this long is ended."""

_log = logging.getLogger(__name__)


class ToolPool:
    """Up to `workers` processes under `limits`, forked when they are needed and used again while they are sound.

    Each runs one tool at a time. A tool that is not done in time, or whose call is cancelled, is killed with everything
    it has started, and so is one that leaves a process behind. Nothing is left when the pool is closed, or when the
    process that it belongs to ends in whatever way. On Linux only. For the coroutines of one event loop; `shared` gives
    the one that the agents of a loop share.
    """

    def __init__(self, workers: int = DEFAULT_WORKERS, limits: ToolLimits | None = None) -> None:
        if workers < 1:
            raise ValueError(f"a pool has at least one worker, not {workers}")
        self.limits = ToolLimits() if limits is None else limits
        self._slots = asyncio.Semaphore(workers)
        self._idle: list[tuple[float, ToolProcess]] = []  # when it came to be idle; the latest at the end
        self._guard: ToolGuard | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._users = 0

    @classmethod
    def shared(cls, limits: ToolLimits) -> ToolPool:
        """The pool of the running event loop for these limits, opened once more: `release` undoes that."""
        pools = _shared.setdefault(asyncio.get_running_loop(), {})
        if (pool := pools.get(limits)) is None:
            pool = pools[limits] = cls(limits=limits)
        pool._users += 1
        return pool

    async def release(self) -> None:
        """Undo one `shared`; the last one closes the pool."""
        self._users -= 1
        if self._users == 0:
            pools = _shared.get(asyncio.get_running_loop(), {})
            if pools.get(self.limits) is self:
                del pools[self.limits]
            await self.close()

    async def call(
        self,
        reference: ToolReference,
        call: ToolCall,
        params: object,
        *,
        timeout: float | None,
        max_result_bytes: int = MAX_RESULT_BYTES,
    ) -> object:
        """What the tool returns, in a worker process.

        `timeout` seconds begin when its `run` does; then it is killed, and this is a `TimeoutError`. What it raises, or
        how its process ends, is a `ToolFailed`; parameters that are not plain data are a `TypeError`. When this is
        cancelled, the tool is killed.
        """
        async with self._slots, self._worker() as worker:
            return await worker.call(reference, call, params, max_result_bytes=max_result_bytes, timeout=timeout)

    async def close(self) -> None:
        """Kill what runs, and end all processes. The pool can be used again."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        idle, self._idle = self._idle, []
        guard, self._guard = self._guard, None
        for _, worker in idle:
            self._end(worker)
        if self._ending:
            await asyncio.wait(self._ending)
        if guard is not None:
            await guard.close()

    @asynccontextmanager
    async def _worker(self) -> AsyncIterator[ToolProcess]:
        worker = self._idle.pop()[1] if self._idle else self._fork()
        try:
            yield worker
        finally:
            if worker.reusable and self._guard is not None:
                self._idle.append((asyncio.get_running_loop().time(), worker))
                self._sweep_later()
            else:
                await asyncio.shield(self._end(worker))

    def _fork(self) -> ToolProcess:
        for attempt in range(2):
            if self._guard is not None and not self._guard.alive:
                self._guard.discard()
                self._guard = None
            if self._guard is None:
                self._guard = ToolGuard()
            try:
                return self._guard.fork(self.limits)
            except OSError as error:
                _log.warning("the guard of the tools' processes is gone (%s); another one is started", error)
                self._guard.discard()
                self._guard = None
                if attempt:
                    raise ToolFailed(f"no process can be started for it: {error}") from error
        raise AssertionError("not reached")

    def _sweep_later(self) -> None:
        if self._sweep is None and self._idle:
            loop = asyncio.get_running_loop()
            self._sweep = loop.call_at(self._idle[0][0] + IDLE_SEC, self._end_idle)

    def _end_idle(self) -> None:
        self._sweep = None
        limit = asyncio.get_running_loop().time() - IDLE_SEC
        while self._idle and self._idle[0][0] <= limit:
            self._end(self._idle.pop(0)[1])
        self._sweep_later()

    def _end(self, worker: ToolProcess) -> asyncio.Task[None]:
        task = asyncio.create_task(worker.end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task


_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[ToolLimits, ToolPool]] = WeakKeyDictionary()
