"""Opening the files of a store: the folder, the lock file, the database and its schema."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

import apsw

from converge.core.errors import StoreError
from converge.extensions.storage.sqlite.errors import StoreFormatError
from converge.extensions.storage.sqlite.record import floor_checksum

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "SCHEMA",
    "SCHEMA_VERSION",
    "TOUCH",
    "connect",
    "make_folder",
    "open_lock_file",
    "prepare",
    "require_sound_wal",
    "sync_folder",
]

SCHEMA_VERSION = 3
_BUSY_MS = 10_000
_FIXED_WAL = (3, 51, 3)
SCHEMA = (
    "CREATE TABLE meta(schema INTEGER NOT NULL, floor INTEGER NOT NULL, crc INTEGER NOT NULL,"
    " touched INTEGER NOT NULL)",
    # With a rowid, new values lie together at the end of the table, and one that grows moves nothing in the tree of the
    # keys. In a table WITHOUT ROWID each write touches, and often splits, a leaf of its own.
    "CREATE TABLE kv(key BLOB UNIQUE NOT NULL, version INTEGER NOT NULL, crc INTEGER NOT NULL, value BLOB)",
    "CREATE UNIQUE INDEX kv_version ON kv(version)",
    "CREATE INDEX kv_deleted ON kv(version) WHERE value IS NULL",
)


TOUCH = "UPDATE meta SET touched = (touched + 1) % 1000000"  # to write what is there already would write nothing


def require_sound_wal(version: str) -> None:
    """`StoreError` for a SQLite before 3.51.3.

    3.7.0 to 3.51.2 can corrupt a WAL database that two connections share (sqlite.org/wal.html#walresetbug).
    """
    if tuple(int(part) for part in version.split(".")[:3]) < _FIXED_WAL:
        raise StoreError(
            f"apsw runs SQLite {version}, which can corrupt a database that several connections share; "
            "a SQLite store needs 3.51.3 or later: pip install --upgrade apsw (its wheels carry their own SQLite)"
        )


def make_folder(folder: Path) -> None:
    """Make `folder` and its missing parents, each durable in the one above."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        sync_folder(place.parent)


def open_lock_file(path: Path) -> int:
    """A descriptor of `<path>.lock`, made with mode 0600; whoever writes holds `flock` on it."""
    return os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def prepare(path: Path, shown: Path, durability: Literal["power", "process"]) -> apsw.Connection:
    """The connection that writes to `path`, made and given its schema if it is new; call it under the lock.

    A database that is something else is refused before anything in it changes.
    """
    created = _create(path)
    connection = connect(path)
    try:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        if tables:
            _require_ours(connection, tables, shown)
        if connection.pragma("journal_mode", "wal") != "wal":
            raise StoreFormatError(str(shown), "SQLite cannot use a write-ahead log here; use a local disk")
        connection.pragma("synchronous", "FULL" if durability == "power" else "NORMAL")
        connection.pragma("fullfsync", durability == "power")
        _write_something(connection, new=not tables)
    except BaseException:
        connection.close()
        raise
    if created:
        sync_folder(path.parent)
    return connection


def connect(path: Path, *, reads_only: bool = False) -> apsw.Connection:
    """A connection to the existing file `path` that waits for a busy database and trusts no schema."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    connection.set_busy_timeout(_BUSY_MS)
    connection.pragma("trusted_schema", False)
    if reads_only:
        connection.pragma("query_only", True)
    return connection


def _create(path: Path) -> bool:
    # Only a file that was not there may be opened and closed here: closing any descriptor of a database drops the
    # POSIX locks that SQLite holds on it elsewhere in this process (sqlite.org/howtocorrupt.html, section 2.2).
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return False
    return True


def _write_something(connection: apsw.Connection, *, new: bool) -> None:
    """Give a new database its schema, and write something to an old one.

    SQLite opens a file or a log for reading only when it may not write it, even if that was so for a moment; then
    no write of this connection would ever succeed.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        if new:
            for statement in SCHEMA:
                connection.execute(statement)
            connection.execute("INSERT INTO meta VALUES (?, 0, ?, 0)", (SCHEMA_VERSION, floor_checksum(0)))
        else:
            connection.execute(TOUCH)
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _require_ours(connection: apsw.Connection, tables: set[apsw.SQLiteValue], shown: Path) -> None:
    if not {"kv", "meta"} <= tables:
        raise StoreFormatError(str(shown), "this SQLite database is not a Converge store; name another path")
    found = list(connection.execute("SELECT * FROM meta"))
    if len(found) != 1 or found[0][0] != SCHEMA_VERSION:
        raise StoreFormatError(
            str(shown),
            f"this store has schema {found[0][0] if found else 'nothing'}, this version of converge-storage-sqlite "
            f"reads schema {SCHEMA_VERSION}; use the version that wrote it, or name another path",
        )


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
