"""The writes of one transaction."""

from __future__ import annotations

import apsw

from converge.extensions.storage.sqlite.record import checksum

__all__ = ["Batch", "meta"]

_PRUNE_AT_ONCE = 1_000
_VERSION = "SELECT version FROM kv WHERE key = ? AND value IS NOT NULL"
_PUT = """
INSERT INTO kv(key, version, crc, value) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT(key) DO UPDATE SET version = ?2, crc = ?3, value = ?4
"""
_RAISE_FLOOR = "UPDATE meta SET floor = (SELECT max(version) FROM kv WHERE value IS NULL AND version <= ?)"
_FORGET = "DELETE FROM kv WHERE value IS NULL AND version <= ?"


def meta(connection: apsw.Connection) -> tuple[int, int]:
    """The version up to which deletions may be forgotten, and the newest version."""
    ((floor, seq),) = connection.execute("SELECT floor, seq FROM meta").fetchall()
    if not isinstance(floor, int) or not isinstance(seq, int):
        raise apsw.CorruptError("the counters of the store are no numbers")
    return floor, seq


class Batch:
    """What one transaction writes, with versions from the one counter of the database.

    A deletion stays as a row without a value for the next `remembered` writes, for those who follow the feed.
    """

    def __init__(self, connection: apsw.Connection, remembered: int) -> None:
        self._connection = connection
        self._remembered = remembered
        self._first = self._seq = meta(connection)[1]
        self._deletes = False

    def version_of(self, key: str) -> int:
        """The version of `key`, 0 when it is absent."""
        version: int | None = self._connection.execute(_VERSION, (key.encode(),)).get
        return version or 0

    def put(self, key: str, packed: bytes) -> int:
        """Write an encoded value; its version."""
        return self._write(key.encode(), packed)

    def delete(self, key: str) -> None:
        """Remove `key` if it is there."""
        if self.version_of(key):
            self._write(key.encode(), None)
            self._deletes = True

    def finish(self) -> None:
        """Store the counter and drop the deletions that are too old to remember; the last act before the commit."""
        if self._seq != self._first:
            self._connection.execute("UPDATE meta SET seq = ?", (self._seq,))
        if self._deletes:
            self._prune()

    def _write(self, key: bytes, value: bytes | None) -> int:
        self._seq += 1
        self._connection.execute(_PUT, (key, self._seq, checksum(key, self._seq, value), value))
        return self._seq

    def _prune(self) -> None:
        oldest = self._connection.execute("SELECT min(version) FROM kv WHERE value IS NULL").get
        limit = self._seq - self._remembered
        if oldest is not None and oldest <= limit - min(_PRUNE_AT_ONCE, self._remembered):
            self._connection.execute(_RAISE_FLOOR, (limit,))
            self._connection.execute(_FORGET, (limit,))
