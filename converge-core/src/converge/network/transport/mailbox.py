"""What waits for one agent of this process."""

from __future__ import annotations

import asyncio
from typing import Literal

from converge.network.errors import TransportClosed

__all__ = ["Mailbox", "NotTaken"]

NotTaken = Literal["mailbox_full", "mailbox_closed", "other_event_loop"]
"""Why a mailbox did not take a message."""


class Mailbox:
    """A bounded queue of encoded messages, of the event loop it is made in.

    It holds bytes, so that every receiver decodes a copy of its own.
    """

    def __init__(self, maxsize: int) -> None:
        if maxsize < 1:
            raise ValueError(f"a mailbox holds at least one message; maxsize {maxsize} does not")
        self.maxsize = maxsize
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize)  # None: closed
        self._closed = False

    @property
    def full(self) -> bool:
        """Whether there is no room now."""
        return self._queue.full()

    def put(self, frame: bytes) -> NotTaken | None:
        """Add a message; why it was not taken, or None."""
        if asyncio.get_running_loop() is not self._loop:
            return "other_event_loop"
        if self._closed:
            return "mailbox_closed"
        if self._queue.full():
            return "mailbox_full"
        self._queue.put_nowait(frame)
        return None

    async def get(self, timeout: float | None = None) -> bytes:
        """The oldest message; cancelling loses none. Raises `TimeoutError`, `TransportClosed` once it is closed."""
        if self._queue.empty():
            async with asyncio.timeout(timeout):
                frame = await self._queue.get()
        else:
            frame = self._queue.get_nowait()
        if frame is None:
            self._queue.put_nowait(None)  # for the others who wait
            raise TransportClosed("the transport was stopped; start() it again")
        return frame

    def close(self) -> int:
        """Take no more and wake who waits; how many messages were still waiting and are dropped. Once only."""
        self._closed = True
        waiting = self._queue.qsize()
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(None)
        return waiting
