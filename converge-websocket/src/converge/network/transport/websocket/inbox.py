"""What came for an agent and was not received yet, bounded by count and by bytes."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from converge.network.errors import TransportClosed

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Inbox"]


class Inbox:
    """A queue of frames. Whoever fills it waits for `room` after it; what one packet brings is always taken.

    `full` is set while `room` is not. For one event loop.
    """

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages, self._max_bytes = max_messages, max_bytes
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._ended: str | None = None
        self._is_closed = False
        self.room, self.full = asyncio.Event(), asyncio.Event()
        self.room.set()
        self.dropped = 0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._frames)

    def extend(self, frames: Sequence[bytes]) -> None:
        """Add what came in one packet; drop and count it once the box is closed."""
        if self._is_closed:
            self.dropped += len(frames)
            return
        self._frames.extend(frames)
        self._bytes += sum(map(len, frames))
        if len(self._frames) >= self._max_messages or self._bytes >= self._max_bytes:
            self.room.clear()
            self.full.set()
        self._arrived.set()

    async def get(self, timeout: float | None) -> bytes:
        """The oldest frame; cancelling loses none. Raises `TimeoutError`, and `TransportClosed` once it has ended."""
        if not self._frames:
            if timeout is None:
                await self._wait()
            else:
                async with asyncio.timeout(timeout):
                    await self._wait()
        frame = self._frames.popleft()
        self._bytes -= len(frame)
        if not self.room.is_set() and len(self._frames) < self._max_messages and self._bytes < self._max_bytes:
            self._make_room()
        return frame

    async def _wait(self) -> None:
        while not self._frames:
            if self._ended is not None:
                raise TransportClosed(self._ended)
            self._arrived.clear()
            await self._arrived.wait()

    def end(self, reason: str) -> None:
        """Nothing comes any more: what waits can be received still, then `get` raises with `reason`."""
        self._ended = reason
        self._arrived.set()
        self._make_room()

    def close(self, reason: str) -> None:
        """As `end`, but what waits, and what comes still, is dropped and counted in `dropped`."""
        self._is_closed = True
        self.dropped += len(self._frames)
        self._frames.clear()
        self._bytes = 0
        self.end(reason)

    def _make_room(self) -> None:
        self.full.clear()
        self.room.set()
