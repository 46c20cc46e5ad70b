"""Following a part of a store through its change feed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from converge.core.errors import CursorExpired

if TYPE_CHECKING:
    from converge.core.store import Change, VersionedStore

__all__ = ["Follower"]


class Follower:
    """What changes under one prefix of a store, so that a manager keeps its cache without listing again."""

    def __init__(self, store: VersionedStore, prefix: str) -> None:
        self._store, self._prefix = store, prefix
        self._cursor: int | None = None  # 0 is the cursor of a store that nobody has written to

    def may_have_changed(self) -> bool:
        """Whether `poll` could tell anything: cheap, never a false no."""
        return self._cursor is None or self._store.may_have_changed(self._cursor)

    def poll(self) -> tuple[bool, list[Change]]:
        """Whether the cache has to be emptied first, and what to put into it.

        The first time it is all there is, and so it is when the cursor has expired: neither tells of deletions, hence
        the emptying. Costs little when nothing changed. Not for several threads at once. A poll that raised has moved
        nothing: the next one tells the same again.
        """
        if self._cursor is not None:
            if not self._store.may_have_changed(self._cursor):
                return False, []
            try:
                self._cursor, changes = self._store.changes(self._cursor, self._prefix)
            except CursorExpired:
                pass
            else:
                return False, changes
        self._cursor, changes = self._store.changes(0, self._prefix)
        return True, changes
