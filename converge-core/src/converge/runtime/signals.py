"""SIGTERM and SIGINT as one request to stop, from the first line of a command to the end of its process."""

from __future__ import annotations

import asyncio
import faulthandler
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = ["StopRequest", "stop_signals"]

_STDERR = 2


class StopRequest:
    """Whether the process was told to stop. `number` is the first signal that said so."""

    def __init__(self, limit_sec: float) -> None:
        self.number: int | None = None
        self._limit = limit_sec
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    def sets(self, event: asyncio.Event) -> None:
        """Let the request set `event` of the running event loop; at once if it has come already."""
        self._waiting = asyncio.get_running_loop(), event
        if self.number is not None:
            event.set()

    def handle(self, number: int, frame: FrameType | None = None) -> None:
        """The signal handler. Only the first signal says anything new."""
        if self.number is not None:
            return
        self.number = number
        faulthandler.dump_traceback_later(self._limit, exit=True, file=_STDERR)
        if self._waiting is not None and not self._waiting[0].is_closed():
            loop, event = self._waiting
            loop.call_soon_threadsafe(event.set)


@contextmanager
def stop_signals(*numbers: signal.Signals, limit_sec: float) -> Iterator[StopRequest]:
    """Take `numbers` as requests to stop; for the main thread.

    The first one is the request, and those that follow say nothing new, also when the block is over: until the process
    is gone they are ignored. A process that is still there `limit_sec` seconds after the request, because something
    blocks it, writes where its threads are to standard error and ends with exit code 1. Without a request, the block
    restores what handled the signals before.
    """
    request = StopRequest(limit_sec)
    before = {number: signal.signal(number, request.handle) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            # a handler in Python would be taken away before the interpreter has ended; being ignored is not
            signal.signal(number, handler if request.number is None else signal.SIG_IGN)
