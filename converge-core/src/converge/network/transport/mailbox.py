"""What waits for one agent of this process."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from converge.network.errors import TransportClosed

if TYPE_CHECKING:
    from collections.abc import Callable

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
        self._items: deque[_T] | None = None  # made when needed: an empty one takes 760 bytes
        self._waiters: deque[asyncio.Future[None]] | None = None
        self.on_item: Callable[[], None] | None = None
        """Called after an item was added and nobody waits in `get`."""
        self._closed = False

    def __len__(self) -> int:
        """How many wait."""
        return 0 if self._items is None else len(self._items)

    @property
    def full(self) -> bool:
        """Whether there is no room now."""
        return len(self) >= self.maxsize

    def put(self, item: _T) -> NotTaken | None:
        """Add a message; why it was not taken, or None."""
        if asyncio.get_running_loop() is not self._loop:
            return "other_event_loop"
        if self._closed:
            return "mailbox_closed"
        items = self._items
        if items is None:
            items = self._items = deque()
        elif len(items) >= self.maxsize:
            return "mailbox_full"
        items.append(item)
        if self._waiters:
            self._wake_one()
        elif self.on_item is not None:
            self.on_item()
        return None

    async def get(self, timeout: float | None = None) -> _T:
        """The oldest one; cancelling loses none. Raises `TimeoutError`, `TransportClosed` once it is closed."""
        if timeout is not None and not self._items:
            async with asyncio.timeout(timeout):
                return await self.get()
        while not (items := self._items):
            if self._closed:
                raise TransportClosed("the transport was stopped; start() it again")
            waiter = self._loop.create_future()
            if self._waiters is None:
                self._waiters = deque()
            self._waiters.append(waiter)
            try:
                await waiter
            except BaseException:
                self._leave(waiter)
                raise
        return items.popleft()

    def close(self) -> int:
        """Take no more and wake who waits; how many messages were still waiting and are dropped. Once only."""
        self._closed = True
        waiting = len(self)
        self._items = None
        while self._waiters:
            self._wake_one()
        return waiting

    def _leave(self, waiter: asyncio.Future[None]) -> None:
        """Wait no more; if this one was woken already, let another one take the message."""
        if waiter.cancelled() or not waiter.done():
            self._waiters = deque(other for other in self._waiters or () if other is not waiter)
        elif self._items:
            self._wake_one()

    def _wake_one(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
