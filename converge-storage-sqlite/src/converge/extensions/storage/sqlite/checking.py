"""Reading a whole database to see whether it is sound, and copying it while it is in use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import apsw

from converge.core.errors import StoreCorruption, StoreError
from converge.extensions.storage.sqlite.errors import (
    StoreFileError,
    StoreFormatError,
    again_if_corrupt,
    raise_if_unreadable,
    translated,
    translation,
)
from converge.extensions.storage.sqlite.opening import SCHEMA, sync_folder
from converge.extensions.storage.sqlite.record import decode
from converge.extensions.storage.sqlite.writer import floor_of, newest_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from converge.extensions.storage.sqlite.database import Database

__all__ = ["back_up", "problems"]

_AT_ONCE = 500
_REPORTED = 100
_TABLES = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"
_ODD_KEYS = "SELECT key FROM kv WHERE key < x''"  # what is no blob sorts before every blob
_ROWS = "SELECT key, version, crc, value FROM kv WHERE key > ? ORDER BY key LIMIT ?"


def problems(database: Database) -> Iterator[StoreError]:
    """What is damaged in the file: its structure and indexes, its own marks, and each record.

    Others may write meanwhile: no transaction spans more than one question. Raises `StoreFileError` when the disk
    refuses to read.
    """
    place = str(database.path)
    if _structure(database) != ["ok"]:
        for found in _structure(database):  # once more: SQLite calls a page damaged that it could not read just now
            if found != "ok":
                raise_if_unreadable(database.path)
                yield _structural(place, found)
    with database.apart() as connection:
        try:
            tables = again_if_corrupt(lambda: connection.execute(_TABLES).fetchall())
            if {sql for (sql,) in tables} != {*SCHEMA}:
                yield _structural(place, "its tables are not those of a store")
            floor, newest = again_if_corrupt(lambda: (floor_of(connection), newest_of(connection)))
            if floor > newest:
                yield _structural(place, f"it claims to have forgotten deletions up to {floor}, but ends at {newest}")
            yield from _records(place, connection)
        except (apsw.NotADBError, apsw.CorruptError, UnicodeDecodeError) as error:
            yield _as_store_error(translation(error, database.path))


def _structure(database: Database) -> list[str]:
    """What SQLite finds in a connection of its own, with nothing in its cache; `["ok"]` when the file is sound."""
    with database.apart() as connection:
        try:
            return [str(found) for (found,) in connection.execute(f"PRAGMA integrity_check({_REPORTED})").fetchall()]
        except apsw.CorruptError as error:
            return [str(error)]


def back_up(database: Database, target: Path) -> None:
    """A copy of the database as it is at one instant, whole and on the disk once `target` exists.

    `StoreFileError` when there is something at `target` already, or when the disk does not take the copy.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{os.urandom(4).hex()}.new")
    with database.apart() as source, translated(target):
        try:
            os.close(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            _copy(source, temporary)
            _name(temporary, target)
        finally:
            for left in (temporary, Path(f"{temporary}-journal")):
                left.unlink(missing_ok=True)
        sync_folder(target.parent)


def _copy(source: apsw.Connection, temporary: Path) -> None:
    copy = apsw.Connection(str(temporary), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        copy.pragma("synchronous", "FULL")
        with copy.backup("main", source, "main") as backup:
            backup.step(-1)  # one read transaction: in a write-ahead log it holds up no writer
    finally:
        copy.close()


def _name(temporary: Path, target: Path) -> None:
    try:
        target.hardlink_to(temporary)  # unlike a rename, it never replaces anything
    except FileExistsError as error:
        raise StoreFileError(str(target), "there is a file already; name another path", error.errno) from error


def _records(place: str, connection: apsw.Connection) -> Iterator[StoreError]:
    for (key,) in again_if_corrupt(lambda: connection.execute(_ODD_KEYS).fetchall()):
        yield StoreCorruption(repr(key), place, "the key is not a byte string")
    last = b""
    while rows := again_if_corrupt(lambda after=last: connection.execute(_ROWS, (after, _AT_ONCE)).fetchall()):  # type: ignore[misc]  # a default binds the loop's value
        for key, *row in rows:
            if not isinstance(key, bytes) or key <= last:
                yield _structural(place, "its keys are out of order")
                return  # the walk would never end
            last = key
            try:
                decode(place, key.decode(), row)
            except UnicodeDecodeError:
                yield StoreCorruption(repr(key), place, "the key is not UTF-8")
            except StoreCorruption as error:
                yield error


def _structural(place: str, what: str) -> StoreFormatError:
    return StoreFormatError(
        place, f"the file is damaged: {what}; copy what can be read to a new store, or restore a backup"
    )


def _as_store_error(error: Exception) -> StoreError:
    """`error` as something to be yielded; raised when it is no damage, but a disk that does not read."""
    if isinstance(error, StoreFileError) or not isinstance(error, StoreError):
        raise error
    return error
