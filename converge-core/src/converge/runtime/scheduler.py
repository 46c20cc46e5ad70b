"""Waking the loop of an agent when there is work."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from converge.runtime.shared.alarms import Alarms

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Scheduler"]


class Scheduler:
    """A flag that `notify` raises and `wait_for_work` takes down.

    `notify` may be called from any thread; a notice given while nobody waits is kept for the next wait. One coroutine
    waits at a time. A wait costs a bare future: all of an event loop share one timer.
    """

    __slots__ = (  # one an agent
        "__weakref__", "_alarm", "_due", "_lock", "_loop", "_noticed", "_thread", "_waiter", "rests",
    )  # fmt: skip

    def __init__(self) -> None:
        self.rests: Callable[[], float] | None = None
        """Asked when the time of a wait is over: for how many seconds more it may go on, 0 for none. So an agent that
        has nothing to do sleeps on without being woken. It raises nothing."""
        self._noticed = False
        self._waiter: asyncio.Future[bool] | None = None
        self._due: float | None = None  # of the present wait
        self._alarm: float | None = None  # when it rings, if one is set
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: int | None = None
        self._lock = threading.Lock()

    def notify(self) -> None:
        """Let the present or next `wait_for_work` return True at once."""
        if self._noticed:  # not taken down yet, so what this is about will be seen
            return
        with self._lock:  # between the test and the setting nobody may begin to wait: it would not be woken
            if self._loop is None or self._thread == threading.get_ident():
                self._notice()
                return
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._notice)

    def _notice(self) -> None:
        self._noticed = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(True)

    async def wait_for_work(self, timeout: float | None) -> bool:  # the contract's signature
        """True as soon as there is work, False after `timeout` seconds without (None: waits for work)."""
        if self._loop is None:
            with self._lock:
                self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        if not self._noticed:
            waiter = self._wait(self._loop, timeout)
            try:
                if not await waiter:
                    return False
            finally:
                self._waiter = self._due = None
        self._noticed = False
        return True

    def _wait(self, loop: asyncio.AbstractEventLoop, timeout: float | None) -> asyncio.Future[bool]:
        if self._waiter is not None:
            raise RuntimeError("somebody waits for work already, and a notice is for one")
        self._waiter = loop.create_future()
        if timeout is not None:
            self._due = loop.time() + max(timeout, 0.0)
            if self._alarm is None or self._alarm > self._due:
                self._alarm = self._due
                Alarms.of(loop).set(self, self._due, loop)
        return self._waiter

    def ring(self, now: float) -> float | None:
        """End the wait if its time is over; else when it will be. `Alarms` calls this."""
        if self._alarm is not None and self._alarm > now:
            return None  # of an earlier alarm than this one there is nothing to say
        self._alarm = None
        if self._due is None:
            return None
        if self._due <= now and self.rests is not None:
            self._due = max(self._due, now + self.rests())
        if self._due > now:
            self._alarm = self._due
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(False)
        return self._alarm
