"""The index behind a change feed: for a store that keeps its versions in this process, and the cursor rule of all."""

from __future__ import annotations

import socket
import threading
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING

from converge.core.errors import CursorExpired
from converge.core.notices import Notices

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Bell", "Feed", "check_cursor"]


def check_cursor(cursor: int, floor: int, newest: int) -> int:
    """`cursor` itself, if a feed that ends at `newest` and remembers deletions after `floor` can be read from it.

    `ValueError` for a negative one; `CursorExpired` when it is older than `floor`, or newer than the feed (it
    comes from another store, or from before this one was restored from a backup). 0 never expires.
    """
    if cursor < 0:
        raise ValueError(f"a cursor is 0 or what changes() returned, not {cursor}")
    if 0 < cursor < floor or cursor > newest:
        raise CursorExpired(
            f"cursor {cursor} is outside of what this store remembers ({floor} to {newest}); "
            "take changes() as the new cursor and then list again"
        )
    return cursor


class Feed:
    """The versions and the change feed of a store that lives in one process, deletions kept up to a bound.

    For authors of such stores. It knows no values and takes no lock: call it under the lock that guards the data.
    """

    def __init__(self, remembered_deletions: int = 10_000) -> None:
        self.version = 0
        self._floor = 0
        self._remembered = remembered_deletions
        self._live: OrderedDict[str, int] = OrderedDict()  # both from the oldest change to the newest
        self._gone: OrderedDict[str, int] = OrderedDict()

        self._bells: tuple[Bell, ...] = ()
        self._bells_lock = threading.Lock()

    def notices(self) -> Notices:
        """What tells of each change. For any thread, as is closing it."""
        bell = Bell(self._remove)
        with self._bells_lock:
            self._bells = (*self._bells, bell)
        return bell

    def _remove(self, closed: Bell) -> None:
        with self._bells_lock:
            self._bells = tuple(bell for bell in self._bells if bell is not closed)

    def written(self, key: str) -> int:
        """Note that `key` was written; its new version."""
        self._gone.pop(key, None)
        return self._append(self._live, key)

    def deleted(self, key: str) -> int:
        """Note that `key`, which was there, is gone; the version of its deletion."""
        self._live.pop(key, None)
        version = self._append(self._gone, key)
        if len(self._gone) > self._remembered:
            self._floor = self._gone.popitem(last=False)[1]
        return version

    def version_of(self, key: str) -> int:
        """The version of `key`; 0 when it is absent."""
        return self._live.get(key, 0)

    def since(self, cursor: int, prefix: str = "") -> list[tuple[int, str]]:
        """(version, key) of each change after `cursor`, oldest first; after 0 only of keys that are there."""
        check_cursor(cursor, self._floor, self.version)
        newer = []
        for entries in (self._live, self._gone) if cursor else (self._live,):
            for key, version in reversed(entries.items()):
                if version <= cursor:
                    break
                if key.startswith(prefix):
                    newer.append((version, key))
        return sorted(newer)

    def _append(self, entries: OrderedDict[str, int], key: str) -> int:
        self.version += 1
        entries[key] = self.version
        entries.move_to_end(key)
        for bell in self._bells:
            bell.ring()
        return self.version


class Bell(Notices):
    """Notices within a process: readable from the first `ring` until `clear`. `closed` is called with it at its end.

    `ring` may be called from any thread.
    """

    def __init__(self, closed: Callable[[Bell], None]) -> None:
        self._here, self._there = socket.socketpair()
        for end in (self._here, self._there):
            end.setblocking(False)
        self._lock = threading.Lock()
        self._rung, self._closed = False, closed

    def ring(self) -> None:
        """Tell of a change, if nobody has yet."""
        if self._rung:
            return
        with self._lock, suppress(BlockingIOError):  # full of what was not cleared: it is readable
            if self._there.fileno() >= 0:
                self._rung = True
                self._there.send(b"!")

    def fileno(self) -> int:
        """The descriptor, -1 when this is closed."""
        return self._here.fileno()

    def clear(self) -> None:
        """Forget what was told."""
        with self._lock, suppress(BlockingIOError):
            self._rung = False
            while self._here.recv(1024):
                pass

    def close(self) -> None:
        """Tell no more, and give the descriptors back."""
        self._closed(self)
        with self._lock:
            self._here.close()
            self._there.close()
