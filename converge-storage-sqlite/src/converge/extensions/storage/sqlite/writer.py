"""The statements that write, and the versions that they give."""

from __future__ import annotations

from typing import TYPE_CHECKING

import apsw

from converge.extensions.storage.sqlite.opening import TOUCH
from converge.extensions.storage.sqlite.record import checksum, floor_checksum

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Writer", "floor_of", "newest_of"]

_PRUNE_AT_ONCE = 1_000
_PUT_IF_ABSENT = """
INSERT INTO kv(key, version, crc, value) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT(key) DO UPDATE SET version = ?2, crc = ?3, value = ?4 WHERE kv.value IS NULL
"""
_PUT = _PUT_IF_ABSENT.removesuffix(" WHERE kv.value IS NULL\n")
_REPLACE = "UPDATE kv SET version = ?2, crc = ?3, value = ?4 WHERE key = ?1 AND version = ?5 AND value IS NOT NULL"
_DELETE = "UPDATE kv SET version = ?2, crc = ?3, value = NULL WHERE key = ?1 AND value IS NOT NULL"
_VERSION = "SELECT version FROM kv WHERE key = ? AND value IS NOT NULL"
_OLDEST_DELETION = "SELECT min(version) FROM kv WHERE value IS NULL"
_NEWEST_FORGOTTEN = "SELECT max(version) FROM kv WHERE value IS NULL AND version <= ?"
_FORGET = "DELETE FROM kv WHERE value IS NULL AND version <= ?"


def newest_of(cursor: apsw.Connection | apsw.Cursor) -> int:
    """The newest version in the database: the row that has it is never removed, a deletion stays as a row."""
    ((newest,),) = cursor.execute("SELECT max(version) FROM kv").fetchall()
    if not isinstance(newest, int | None):
        raise apsw.CorruptError("the newest version is no number")
    return newest or 0


def floor_of(connection: apsw.Connection) -> int:
    """The version up to which deletions may be forgotten."""
    ((floor, crc),) = connection.execute("SELECT floor, crc FROM meta").fetchall()
    if not isinstance(floor, int) or crc != floor_checksum(floor):
        raise apsw.CorruptError("the mark up to which deletions are forgotten does not match its checksum")
    return floor


class Writer:
    """The one connection that writes; whoever uses it holds the lock file and leads the queue of this process.

    Each write takes the next version, of one counter for the whole database. A deletion stays as a row without a
    value for the next `remembered` writes, for those who follow the feed.
    """

    def __init__(self, connection: apsw.Connection, remembered: int) -> None:
        self.connection = connection
        self.newest: int | None = None
        """The newest version, None when it has to be read again: after an error, or when another may have written."""
        self._cursor = connection.cursor()
        self._remembered = remembered
        self._prune_after = min(_PRUNE_AT_ONCE, remembered)
        self._deletions = self._prune_after  # the first deletion looks what others have left

    def put(self, key: bytes, packed: bytes) -> int:
        """Write a packed value; its version."""
        version = self._next()
        self._cursor.execute(_PUT, (key, version, checksum(key, version, packed), packed))
        self.newest = version
        return version

    def put_all(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Write packed values, one version each."""
        first = self._next()
        rows = [
            (key, version, checksum(key, version, packed), packed) for version, (key, packed) in enumerate(items, first)
        ]
        self._cursor.executemany(_PUT, rows)
        self.newest = first - 1 + len(rows)

    def compare_and_set(self, key: bytes, packed: bytes, expected: int) -> int | None:
        """Write a packed value if the version of `key` is `expected`, 0 for absent; its version, else None."""
        version = self._next()
        row = (key, version, checksum(key, version, packed), packed)
        if expected:
            self._cursor.execute(_REPLACE, (*row, expected))
        else:
            self._cursor.execute(_PUT_IF_ABSENT, row)
        return self._given(version)

    def delete(self, key: bytes) -> None:
        """Remove `key` if it is there."""
        version = self._next()
        self._cursor.execute(_DELETE, (key, version, checksum(key, version, None)))
        if self._given(version) is not None:
            self._deletions += 1

    def version_of(self, key: bytes) -> int:
        """The version of `key`, 0 when it is absent."""
        found: int | None = self._cursor.execute(_VERSION, (key,)).get
        return found or 0

    @property
    def prunes(self) -> bool:
        """Whether it is time to look for deletions that need not be remembered any more."""
        return self._deletions >= self._prune_after

    def prune(self) -> None:
        """Forget deletions older than the remembered writes, if there are enough to be worth it."""
        self._deletions = 0
        oldest = self._cursor.execute(_OLDEST_DELETION).get
        limit = self._next() - 1 - self._remembered
        if oldest is not None and oldest <= limit - self._prune_after:
            floor = self._cursor.execute(_NEWEST_FORGOTTEN, (limit,)).get
            self._cursor.execute("UPDATE meta SET floor = ?, crc = ?", (floor, floor_checksum(floor)))
            self._cursor.execute(_FORGET, (limit,))

    def begin(self) -> None:
        """Begin a transaction that writes."""
        self._cursor.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Commit it."""
        self._cursor.execute("COMMIT")

    def undo(self) -> None:
        """Roll back what is not committed; the newest version has to be read again."""
        self.newest = None
        self._deletions = self._prune_after
        if self.connection.in_transaction:
            self._cursor.execute("ROLLBACK")

    def bury(self) -> bool:
        """Write something else over what a failed commit has left in the log; False when the disk refuses that too.

        A commit whose last step, the flush, failed is undone for everybody who has the database open; but all of it
        stands in the log, and who opens the log after a crash would take it for committed. Frames are chained by
        their checksums, so one new frame in the place of the first ends the chain.
        """
        try:
            self._cursor.execute(TOUCH)
        except apsw.Error:
            self.undo()
            return False
        return True

    def _next(self) -> int:
        if self.newest is None:
            self.newest = newest_of(self._cursor)
        return self.newest + 1

    def _given(self, version: int) -> int | None:
        if not self.connection.changes():
            return None
        self.newest = version
        return version
