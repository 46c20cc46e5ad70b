"""Being told that a store has changed, and how often to ask one that tells nobody."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["POLL_INTERVAL_SEC", "QUIET_INTERVAL_SEC", "QUIET_SEC", "TOLD_INTERVAL_SEC", "Notices", "Pace"]

POLL_INTERVAL_SEC = 0.005
"""How often a store is asked while things happen. A wake of the process costs more than the question."""

QUIET_SEC = 1.0
"""How long nothing has to happen before a store that gives no notices is asked less often."""

QUIET_INTERVAL_SEC = 0.01
"""How often it is asked then: what comes is still seen well within 20 ms."""

TOLD_INTERVAL_SEC = 0.5
"""How often one that gives notices is asked all the same: a write may be told of long before it can be read, and a file
system may not tell of it at all."""

_SOON_SEC = 0.0005  # what was told of can be read when it is on the disk
_LONGER = 1.25  # from one question in vain to the next: what comes late is then seen late by a third of that time


class Notices(ABC):
    """Tells that a store may have been written, by whichever process: its descriptor is readable then.

    That may be a moment before the write can be read, and it may be for nothing. For one thread; to be closed.
    """

    @abstractmethod
    def fileno(self) -> int:
        """The descriptor, for `select` and event loops."""

    @abstractmethod
    def clear(self) -> None:
        """Forget what was told until now. Never waits."""

    @abstractmethod
    def close(self) -> None:
        """Tell no more. Closing twice is no error."""


class Pace:
    """When to ask a store next whether it has changed, in an event loop.

    Every 5 ms while things happen. Without `notices` every 10 ms when nothing has for a second. With them at once when
    one comes, for which `wake` is called, and then less and less often. They are closed with this.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, notices: Notices | None, wake: Callable[[], None]) -> None:
        self._loop, self._notices, self._wake = loop, notices, wake
        self._in_vain = 0  # questions in a row that found nothing
        self._next = POLL_INTERVAL_SEC
        self._listens = False

    def pause(self, *, changed: bool) -> float:
        """Seconds until the next question, after one that has found a change or not."""
        self._in_vain = 0 if changed else self._in_vain + 1
        pause = POLL_INTERVAL_SEC if changed else self._next
        if pause <= POLL_INTERVAL_SEC:  # a commit may be several writes, and many may come in 5 ms: one wake is enough
            self._stop_listening()
            self._next = min(2 * pause, POLL_INTERVAL_SEC) if pause < POLL_INTERVAL_SEC else _LONGER * pause
            return pause
        if self._listens or self._listen():
            self._next = min(_LONGER * pause, TOLD_INTERVAL_SEC)
            return pause
        return POLL_INTERVAL_SEC if self._in_vain * POLL_INTERVAL_SEC <= QUIET_SEC else QUIET_INTERVAL_SEC

    def close(self) -> None:
        """Call `wake` no more."""
        self._stop_listening()
        if self._notices is not None:
            self._notices.close()
            self._notices = None

    def _listen(self) -> bool:
        if self._notices is not None:
            try:
                self._loop.add_reader(self._notices.fileno(), self._told)
            except NotImplementedError:  # not every event loop can wait for a descriptor
                self.close()
            else:
                self._listens = True
        return self._listens

    def _stop_listening(self) -> None:
        if self._listens and self._notices is not None:
            self._loop.remove_reader(self._notices.fileno())
        self._listens = False

    def _told(self) -> None:
        self._stop_listening()
        self._in_vain, self._next = 0, _SOON_SEC
        if self._notices is not None:
            self._notices.clear()  # before the question: what comes after this is told again
        self._wake()
