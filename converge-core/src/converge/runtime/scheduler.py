"""Waking the loop of an agent when there is work."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

__all__ = ["Scheduler"]


class Scheduler:
    """A flag that `notify` raises and `wait_for_work` takes down.

    `notify` may be called from any thread; a notice given while nobody waits is kept for the next wait.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: int | None = None
        self._lock = threading.Lock()

    def notify(self) -> None:
        """Let the present or next `wait_for_work` return True at once."""
        if self._event.is_set():  # not taken down yet, so what this is about will be seen
            return
        with self._lock:  # between the test and the setting nobody may begin to wait: it would not be woken
            if self._loop is None or self._thread == threading.get_ident():
                self._event.set()
                return
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait_for_work(self, timeout: float | None) -> bool:  # the contract's signature
        """True as soon as there is work, False after `timeout` seconds without (None: waits for work)."""
        if self._loop is None:
            with self._lock:
                self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        if not self._event.is_set():
            try:
                async with asyncio.timeout(timeout):
                    await self._event.wait()
            except TimeoutError:
                return False
        self._event.clear()
        return True
