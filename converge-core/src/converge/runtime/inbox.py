"""The messages that wait for an agent."""

from __future__ import annotations

import asyncio
from collections import deque
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

    __slots__ = ("_drop_when_full", "_maxsize", "_messages", "_pushers", "dropped")  # one an agent

    def __init__(self, maxsize: int | None = None, drop_when_full: bool = False) -> None:
        if maxsize is not None and maxsize < 1:
            raise ValueError(f"an inbox holds at least one message; maxsize {maxsize} does not")
        self._maxsize = DEFAULT_INBOX_SIZE if maxsize is None else maxsize
        self._messages: deque[Message] | None = None  # an empty one takes more room than all else of an idle agent
        self._pushers: deque[asyncio.Future[None]] | None = None
        self._drop_when_full = drop_when_full
        self.dropped = 0

    async def push(self, message: Message) -> None:
        """Add a message; waits, or drops it, when the inbox is full. A cancelled push has added nothing."""
        while (messages := self._messages) is not None and len(messages) >= self._maxsize:
            if self._drop_when_full:
                self.dropped += 1
                return
            await self._wait_for_room()
        if messages is None:
            messages = self._messages = deque()
        messages.append(message)

    def poll(self, batch_size: int = 10) -> list[Message]:
        """Up to `batch_size` messages, the oldest first; an empty list when there is none. Never waits."""
        messages = self._messages
        if not messages:
            return []
        taken = [messages.popleft() for _ in range(min(batch_size, len(messages)))]
        if self._pushers:
            self._wake_pushers(self._maxsize - len(messages))
        return taken

    def __len__(self) -> int:
        return 0 if self._messages is None else len(self._messages)

    async def _wait_for_room(self) -> None:
        room = asyncio.get_running_loop().create_future()
        if self._pushers is None:
            self._pushers = deque()
        self._pushers.append(room)
        try:
            await room
        except BaseException:
            if room in self._pushers:
                self._pushers.remove(room)
            elif not room.cancelled():
                self._wake_pushers(1)  # the room this one was woken for is another's
            raise

    def _wake_pushers(self, most: int) -> None:
        while most > 0 and self._pushers:
            room = self._pushers.popleft()
            if not room.done():
                room.set_result(None)
                most -= 1
