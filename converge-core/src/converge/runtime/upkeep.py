"""The jobs beside the loop of an agent: messages received, expired claims released, checkpoints written."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from converge.runtime.calls import backoff, contained, described, settled, undo_cancel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from converge.coordination.task_manager import TaskManager
    from converge.core.store import Store

__all__ = ["FailureStreak", "Upkeep"]

_MAX_BACKOFF_SEC = 1.0
_FAILURES_THAT_LAST = 4  # after pauses of 0.1, 0.2 and 0.4 s, so within a second
_log = logging.getLogger(__name__)

_Job: TypeAlias = "Coroutine[Any, Any, None]"


class FailureStreak:
    """How often in a row a job has failed, and when last. `clock` gives seconds, of any beginning."""

    __slots__ = ("_clock", "_last", "failures")  # one an agent

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.failures = 0
        self._clock, self._last = clock, 0.0

    def failed(self) -> None:
        """Note a failure."""
        self.failures += 1
        self._last = self._clock()

    @property
    def lasts(self) -> bool:
        """Whether the job fails again and again, until now.

        A step that has gone on for longer than the longest pause has not failed: it waits for something to come.
        """
        return self.failures >= _FAILURES_THAT_LAST and self._clock() - self._last < 2 * _MAX_BACKOFF_SEC


class Upkeep:
    """The jobs of one agent, each a coroutine that goes on until it is cancelled.

    `count` adds to a metric; `on_store` makes a call that may block where that harms nobody; `ending` tells whether it
    is the runtime that cancels.
    """

    def __init__(
        self,
        agent_id: str,
        count: Callable[[str, int], None],
        on_store: Callable[..., Awaitable[Any]],
        ending: Callable[[], bool],
    ) -> None:
        self._agent_id, self._count, self._on_store, self._ending = agent_id, count, on_store, ending

    async def forever(
        self,
        what: str,
        counter: str,
        step: Callable[[], Awaitable[None]],
        streak: FailureStreak | None = None,
        more: Callable[[], bool] = lambda: True,
    ) -> None:
        """Take `step` again and again, until one has succeeded and there is no `more`.

        A store or a transport that fails is tried again, less and less often.

        A step that cancels the task it runs in has failed as any other. `streak` follows what fails.
        """
        streak = FailureStreak() if streak is None else streak
        while True:  # in one coroutine: each agent may wait in several of these
            try:
                if streak.failures:
                    await asyncio.sleep(backoff(streak.failures, _MAX_BACKOFF_SEC))
                await settled(step)
                streak.failures = 0
                await asyncio.sleep(0)  # a step that never waits must not keep the event loop
                if not more():
                    return
            except Exception as error:  # noqa: BLE001  # counted and logged; tried again
                self._failed(what, counter, streak, error)
            except asyncio.CancelledError as error:
                if self._ending():
                    raise
                undo_cancel()
                self._failed(what, counter, streak, contained(error))

    def _failed(self, what: str, counter: str, streak: FailureStreak, error: Exception) -> None:
        streak.failed()
        self._count(counter, 1)
        _log.warning(
            "%s: %s failed (%d in a row): %s", self._agent_id, what, streak.failures, described(error), exc_info=error
        )

    def releasing(self, tasks: TaskManager, interval: float) -> _Job:
        """Release expired claims, of any agent, every `interval` seconds."""
        step = partial(self._release, tasks, interval)
        return self.forever("releasing expired claims", "converge_release_failures_total", step)

    def checkpoints(self, store: Store, interval: float, activity: Callable[[], float]) -> _Job:
        """Write the Unix time of the last activity every `interval` seconds."""
        step = partial(self._checkpoint, store, interval, activity)
        return self.forever("writing the checkpoint", "converge_checkpoint_failures_total", step)

    async def _release(self, tasks: TaskManager, interval: float) -> None:
        await asyncio.sleep(interval)
        self._count("converge_claims_released_total", len(await self._on_store(tasks.release_expired_claims)))

    async def _checkpoint(self, store: Store, interval: float, activity: Callable[[], float]) -> None:
        await asyncio.sleep(interval)
        await self._on_store(store.put, f"checkpoint:{self._agent_id}", activity())
