"""The messages that wait for an agent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from converge.core.message import Message

__all__ = ["DEFAULT_INBOX_SIZE", "Inbox"]

DEFAULT_INBOX_SIZE = 1024


class Inbox:
    """A bounded queue of messages; `maxsize` None means `DEFAULT_INBOX_SIZE`.

    When it is full, `push` waits, so that the transport's own bound comes into play; with `drop_when_full` the new
    message is dropped and counted in `dropped`. For the coroutines of one event loop.
    """

    def __init__(self, maxsize: int | None = None, drop_when_full: bool = False) -> None:
        if maxsize is not None and maxsize < 1:
            raise ValueError(f"an inbox holds at least one message; maxsize {maxsize} does not")
        self._queue: asyncio.Queue[Message] = asyncio.Queue(DEFAULT_INBOX_SIZE if maxsize is None else maxsize)
        self._drop_when_full = drop_when_full
        self.dropped = 0

    async def push(self, message: Message) -> None:
        """Add a message; waits, or drops it, when the inbox is full."""
        if self._drop_when_full and self._queue.full():
            self.dropped += 1
            return
        await self._queue.put(message)

    def poll(self, batch_size: int = 10) -> list[Message]:
        """Up to `batch_size` messages, the oldest first; an empty list when there is none. Never waits."""
        return [self._queue.get_nowait() for _ in range(min(batch_size, self._queue.qsize()))]

    def __len__(self) -> int:
        return self._queue.qsize()
