"""A copy of what a store holds, kept by following its change feed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from converge.core.errors import CursorExpired
from converge.core.plain import pack
from converge.core.store import DELETED

if TYPE_CHECKING:
    from converge.core.store import Change, VersionedStore

__all__ = ["Replica"]


class Replica:
    """Follows the feed of `store` from its first call of `follow` on; `held` is key → packed value.

    Besides copying it checks what every feed promises and raises `AssertionError` where one breaks it. Not safe
    between threads: each follower has its own.
    """

    def __init__(self, store: VersionedStore) -> None:
        self.store = store
        self.cursor = 0
        self.held: dict[str, bytes] = {}
        self._told: dict[str, int] = {}

    def follow(self) -> None:
        """Take in what has happened since the last call; after `CursorExpired` list anew."""
        if self.cursor and not self.store.may_have_changed(self.cursor):
            return
        try:
            newest, changes = self.store.changes(self.cursor)
        except CursorExpired:
            self.cursor = 0
            self.held.clear()
            newest, changes = self.store.changes(0)
        self._check(newest, changes)
        for key, value, _ in changes:
            if value is DELETED:
                self.held.pop(key, None)
            else:
                self.held[key] = pack(value)
        self.cursor = newest

    def _check(self, newest: int, changes: list[Change]) -> None:
        versions = [change.version for change in changes]
        assert newest >= self.cursor, f"the cursor went back from {self.cursor} to {newest}"
        assert versions == sorted(set(versions)), f"the changes are not in the order of their versions: {versions}"
        assert len({change.key for change in changes}) == len(changes), "a key has two entries in one answer"
        for key, _, version in changes:
            # A state may be told twice when it is newer than the cursor that came with it, and never an older one.
            assert version > self.cursor, f"{key}: version {version} is not after the cursor {self.cursor}"
            assert version >= self._told.get(key, 0), f"{key}: version {version} was told after {self._told[key]}"
            self._told[key] = version
