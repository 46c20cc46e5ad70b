"""What waits for one agent of this process."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, Literal, TypeVar

from converge.network.errors import TransportClosed

__all__ = ["Mailbox", "NotTaken"]

_T = TypeVar("_T")
NotTaken = Literal["mailbox_full", "mailbox_closed", "other_event_loop"]
"""Why a mailbox did not take a message."""


class Mailbox(Generic[_T]):
    """A bounded queue of what is to become messages, of the event loop it is made in.

    Who finds something there takes it at once, and who has to wait costs a bare future: a timer only if there is a
    timeout.
    """

    def __init__(self, maxsize: int) -> None:
        if maxsize < 1:
            raise ValueError(f"a mailbox holds at least one message; maxsize {maxsize} does not")
        self.maxsize = maxsize
        self._loop = asyncio.get_running_loop()
        self._items: deque[_T] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._closed = False

    def __len__(self) -> int:
        """How many wait."""
        return len(self._items)

    @property
    def full(self) -> bool:
        """Whether there is no room now."""
        return len(self._items) >= self.maxsize

    def put(self, item: _T) -> NotTaken | None:
        """Add a message; why it was not taken, or None."""
        if asyncio.get_running_loop() is not self._loop:
            return "other_event_loop"
        if self._closed:
            return "mailbox_closed"
        items = self._items
        if len(items) >= self.maxsize:
            return "mailbox_full"
        items.append(item)
        if self._waiters:
            self._wake_one()
        return None

    async def get(self, timeout: float | None = None) -> _T:
        """The oldest one; cancelling loses none. Raises `TimeoutError`, `TransportClosed` once it is closed."""
        if timeout is not None and not self._items:
            async with asyncio.timeout(timeout):
                return await self.get()
        while not self._items:
            if self._closed:
                raise TransportClosed("the transport was stopped; start() it again")
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except BaseException:
                self._leave(waiter)
                raise
        return self._items.popleft()

    def close(self) -> int:
        """Take no more and wake who waits; how many messages were still waiting and are dropped. Once only."""
        self._closed = True
        waiting = len(self._items)
        self._items.clear()
        while self._waiters:
            self._wake_one()
        return waiting

    def _leave(self, waiter: asyncio.Future[None]) -> None:
        """Wait no more; if this one was woken already, let another one take the message."""
        if waiter.cancelled() or not waiter.done():
            self._waiters = deque(other for other in self._waiters if other is not waiter)
        elif self._items:
            self._wake_one()

    def _wake_one(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
