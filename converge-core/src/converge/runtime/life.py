"""From the start of something to its stop: the phases, and the one task that each of them has."""

from __future__ import annotations

import asyncio
import logging
import weakref
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from enum import Enum
from typing import Any, Self, TypeAlias

from converge.runtime.calls import described, why_it_ended
from converge.runtime.errors import CallFailed

__all__ = ["STOP_TIMEOUT_SEC", "Keeper", "Life", "Phase"]

STOP_TIMEOUT_SEC = 10.0
_log = logging.getLogger(__name__)

_Work: TypeAlias = Coroutine[Any, Any, None]


class Phase(Enum):
    """What a `Life` is about to do."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    ENDING = "ending"


class Life(ABC):
    """Starts, works until it has no more to do, fails, or is stopped, and undoes its start; then it may start again.

    One task opens it, and ends with that; one works; one closes it. So what runs and has nothing to do is one task and
    holds neither the frames nor the futures of a task that waits for it: there may be ten thousand in a process.

    For one event loop. When that ends while something runs, what runs is closed before (`Keeper`).
    """

    __slots__ = ("_jobs", "_phase", "_task")

    def __init__(self) -> None:
        self._phase = Phase.STOPPED
        self._task: asyncio.Task[None] | None = None  # of the phase it is in, or was in last
        self._jobs: tuple[asyncio.Task[None], ...] = ()  # beside the work

    # -- what a subclass is

    @property
    @abstractmethod
    def name(self) -> str:
        """Who this is, for errors, logs and the names of tasks."""

    @abstractmethod
    async def _open(self) -> None:
        """Start everything. When this raises or is cancelled, `_undo` is called."""

    @abstractmethod
    async def _work(self) -> None:
        """Go on until there is no more to do. It is cancelled when it is to end before that."""

    @abstractmethod
    def _beside(self) -> list[_Work]:
        """What goes on beside that; the first of all these to end, by itself or by an error, ends them all."""

    @abstractmethod
    async def _finish(self, tasks: list[asyncio.Task[None]]) -> None:
        """End `tasks`, the work first and what goes on beside it, within a bounded time."""

    @abstractmethod
    async def _undo(self) -> None:
        """Undo what has been opened, in a bounded time."""

    # -- its phases

    def _is_ending(self) -> bool:
        """Whether it is to end, or has ended: who cancels its tasks now is itself."""
        return self._phase in (Phase.ENDING, Phase.STOPPED)

    def _is_cut_off(self) -> bool:
        """Whether the event loop ends, and that is why its tasks are cancelled."""
        return Keeper.of(asyncio.get_running_loop()).is_over

    @property
    def running(self) -> bool:
        """Whether it has started and is not about to stop."""
        return self._phase is Phase.RUNNING and self._task is not None and not self._task.done()

    async def start(self) -> None:
        """Start it. When this raises or is cancelled, nothing is left running.

        Starting a running one is a `RuntimeError`, and so is being stopped before the start is over.
        """
        if self._phase is not Phase.STOPPED:
            raise RuntimeError(f"the runtime of {self.name} runs already; stop it first")
        self._phase = Phase.STARTING
        opening = self._task = _task(self._begin(), f"converge-start-{self.name[:8]}")
        opening.add_done_callback(self._opened)
        try:
            await asyncio.wait({opening})
        except asyncio.CancelledError:
            await self.stop()
            raise
        if opening.cancelled():
            raise RuntimeError(f"the runtime of {self.name} was stopped before it had started")
        opening.result()

    async def _begin(self) -> None:
        try:
            await self._open()
            if self._phase is Phase.ENDING:
                raise asyncio.CancelledError  # what was called last has ignored that it was cancelled
            beside = self._beside()
        except BaseException:
            self._phase = Phase.ENDING
            await self._undo()
            raise
        self._phase = Phase.RUNNING
        self._task = _task(self._work(), f"converge-agent-{self.name[:8]}")
        self._jobs = tuple(_task(job) for job in beside)
        for task in (self._task, *self._jobs):
            task.add_done_callback(self._ended)
        Keeper.of(asyncio.get_running_loop()).keep(self)

    def _opened(self, opening: asyncio.Task[None]) -> None:
        if opening.cancelled() or opening.exception() is not None:  # it may have been cancelled before it had begun
            self._phase, self._task = Phase.STOPPED, None

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._close(why_it_ended(task))

    def _close(self, failure: Exception | None = None) -> None:
        """Begin to end, if that has not begun: it has to, or has no more to do, or there was a `failure`."""
        if self._phase is not Phase.RUNNING or self._task is None:
            return
        tasks, self._phase, self._jobs = [self._task, *self._jobs], Phase.ENDING, ()
        if failure is not None:
            _log.error("the runtime of %s has failed: %s", self.name, described(failure), exc_info=failure)
        self._task = _task(self._end(tasks, failure), f"converge-stop-{self.name[:8]}")

    async def _end(self, tasks: list[asyncio.Task[None]], failure: Exception | None) -> None:
        try:
            try:
                await self._finish(tasks)
            finally:
                await self._undo()
        finally:
            self._phase = Phase.STOPPED
            Keeper.of(asyncio.get_running_loop()).forget(self)
        if failure is not None:
            raise failure

    async def stop(self) -> None:
        """Stop it; returns within `STOP_TIMEOUT_SEC` seconds, also when what is called for that hangs. Stopping twice,
        or one that never ran, is no error.
        """
        if self._phase is Phase.STARTING and self._task is not None:
            self._phase = Phase.ENDING
            self._task.cancel()  # once: a second one would end what undoes the start
        self._close()
        await self._closed()

    async def _closed(self) -> None:
        task = self._task
        if task is None:
            return
        done, _ = await asyncio.wait({task}, timeout=STOP_TIMEOUT_SEC)
        if not done:
            _log.error("%s did not stop within %s s; it is cut off", self.name, STOP_TIMEOUT_SEC)
            task.cancel()
        elif not task.cancelled():
            task.exception()  # logged when it happened, and raised by wait_stopped; not lost when nobody waits

    async def wait_stopped(self) -> None:
        """Return when it has stopped, by `stop`, by itself, or by an error, which is raised here.

        That somebody else cancelled it is an error too, `CallFailed`.
        """
        task = None
        while task is not self._task:
            task = self._task
            if task is not None:
                await asyncio.wait({task})
        if task is not None and not task.cancelled():
            task.result()

    async def cut_off(self) -> None:
        """As `stop`, but nobody has asked for it: the event loop ends."""
        self._close(CallFailed(f"the runtime of {self.name} was cancelled, and not by its stop()"))
        await self._closed()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.stop()


def _task(work: _Work, name: str | None = None) -> asyncio.Task[None]:
    """A task that takes its first step later, also where the task factory is an eager one."""
    return asyncio.Task(work, loop=asyncio.get_running_loop(), name=name)


class Keeper:
    """Closes what runs in an event loop when that ends; one task for all. Use `of`.

    `asyncio.run` cancels all tasks at its end. A `Life` whose work is cancelled cannot tell that from what it calls
    having cancelled the task it runs in; the keeper, which calls nobody, can.
    """

    def __init__(self) -> None:
        self._kept: set[Life] = set()
        self._job: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Keeper:
        """The keeper of `loop`."""
        if (keeper := _keepers.get(loop)) is None:
            keeper = _keepers[loop] = cls()
        return keeper

    def keep(self, life: Life) -> None:
        """Close it, unless it is forgotten before."""
        self._kept.add(life)
        if self._job is None:
            self._job = _task(self._keep(), "converge-keeper")

    def forget(self, life: Life) -> None:
        """Undo `keep`; no error when there was none."""
        self._kept.discard(life)
        if not self._kept and self._job is not None and not self.is_over:
            self._job.cancel()
            self._job = None

    @property
    def is_over(self) -> bool:
        """Whether the event loop ends."""
        return self._job is not None and self._job.cancelling() > 0

    async def _keep(self) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            if self._kept:
                await asyncio.wait([asyncio.create_task(life.cut_off()) for life in self._kept])
            self._job = None


_keepers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Keeper] = weakref.WeakKeyDictionary()
