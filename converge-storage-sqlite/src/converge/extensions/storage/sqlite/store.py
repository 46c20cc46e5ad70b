"""`SQLiteStore`: the embedded store that several processes on one host share."""
# what each method promises stands in Store and VersionedStore

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import field, frozen, validators

from converge.core.errors import StoreCorruption, VersionConflict
from converge.core.feed import check_cursor
from converge.core.plain import Plain, pack
from converge.core.store import DELETED, Change, VersionedStore, Write, check_key
from converge.extensions.storage.sqlite.batch import meta
from converge.extensions.storage.sqlite.database import Database
from converge.extensions.storage.sqlite.record import decode

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterable, Mapping
    from os import PathLike

    from apsw import SQLiteValue

__all__ = ["SQLiteOptions", "SQLiteStore"]

_ROW = "SELECT version, crc, value FROM kv WHERE key = ?"
_KEYS = "SELECT key FROM kv WHERE key >= ? AND key < ? AND value IS NOT NULL ORDER BY key"
_PRESENT = "SELECT key, version, crc, value FROM kv WHERE key >= ? AND key < ? AND value IS NOT NULL ORDER BY version"
_SINCE = "SELECT key, version, crc, value FROM kv WHERE version > ? AND +key >= ? AND +key < ? ORDER BY version"


@frozen
class SQLiteOptions:
    """The options of a SQLite store in a config table."""

    path: Path = field(converter=Path)
    durability: Literal["power", "process"] = field(default="power", validator=validators.in_(["power", "process"]))


class SQLiteStore(VersionedStore):
    """A versioned store in the SQLite file `path`, which is made, with its folder, when it is missing.

    Any number of threads, store objects and processes of one host may use one file at once. With
    `durability="power"` a write that returned survives a power cut; with `"process"` it survives the death of the
    process, and a power cut may take the latest writes with it. A `changes` cursor stays good for at least
    `remembered_writes` writes.

    Raises `StoreFileError` (an OSError) when file, folder or disk do not allow an operation, `StoreFormatError`
    (a ValueError) for a file that is no Converge store, `StoreCorruption` for a damaged record, and plain
    `StoreError` after `close()` or in a forked child. An operation that raised has changed nothing.
    """

    blocking = True
    shared = True
    converge_options: ClassVar[type[SQLiteOptions]] = SQLiteOptions
    remembered_writes: ClassVar[int] = 50_000

    def __init__(self, path: str | PathLike[str], durability: Literal["power", "process"] = "power") -> None:
        if durability not in ("power", "process"):
            raise ValueError(f'durability is "power" or "process", not {durability!r}')
        if str(path) in ("", ":memory:"):
            raise ValueError(f"{str(path)!r} names no file; use MemoryStore for a store without one")
        self._database = Database(Path(path), durability)

    def __repr__(self) -> str:
        return f"SQLiteStore({str(self._database.path)!r})"

    def put(self, key: str, value: Plain) -> None:
        packed = pack(value)
        check_key(key)
        with self._database.writing(self.remembered_writes, key) as batch:
            batch.put(key, packed)

    def get(self, key: str) -> Plain:
        found = self.get_versioned(key)
        return None if found is None else found[0]

    def delete(self, key: str) -> None:
        self.delete_many([key])

    def list(self, prefix: str = "") -> builtins.list[str]:
        rows = self._database.read(_KEYS, _span(prefix))
        return [self._text(key) for (key,) in rows]

    def put_if_absent(self, key: str, value: Plain) -> bool:
        packed = pack(value)
        check_key(key)
        with self._database.writing(self.remembered_writes, key) as batch:
            if batch.version_of(key):
                return False
            batch.put(key, packed)
        return True

    def get_versioned(self, key: str) -> tuple[Plain, int] | None:
        rows = self._database.read(_ROW, (check_key(key).encode(),), key)
        if not rows:
            return None
        value, version = decode(str(self._database.path), key, rows[0])
        return None if value is DELETED else (value, version)

    def compare_and_set(self, key: str, value: Plain, expected: int) -> int:
        packed = pack(value)
        check_key(key)
        with self._database.writing(self.remembered_writes, key) as batch:
            actual = batch.version_of(key)
            if actual != expected:
                raise VersionConflict(key, expected, actual)
            return batch.put(key, packed)

    def compare_and_set_many(self, writes: Iterable[Write]) -> builtins.list[int | None]:
        encoded = [(check_key(key), pack(value), expected) for key, value, expected in writes]
        with self._database.writing(self.remembered_writes) as batch:
            return [
                batch.put(key, packed) if batch.version_of(key) == expected else None
                for key, packed, expected in encoded
            ]

    def put_many(self, items: Mapping[str, Plain]) -> None:
        encoded = [(check_key(key), pack(value)) for key, value in items.items()]
        with self._database.writing(self.remembered_writes) as batch:
            for key, packed in encoded:
                batch.put(key, packed)

    def delete_many(self, keys: Iterable[str]) -> None:
        checked = [check_key(key) for key in keys]
        with self._database.writing(self.remembered_writes) as batch:
            for key in checked:
                batch.delete(key)

    def changes(self, cursor: int | None = None, prefix: str = "") -> tuple[int, builtins.list[Change]]:
        if cursor is None:
            return self._database.newest_version(), []
        with self._database.snapshot() as reader:
            floor, newest = meta(reader)
            check_cursor(cursor, floor, newest)
            span = _span(prefix)
            rows = (reader.execute(_SINCE, (cursor, *span)) if cursor else reader.execute(_PRESENT, span)).fetchall()
        found = []
        for raw, *row in rows:
            key = self._text(raw)
            value, version = decode(str(self._database.path), key, row)
            found.append(Change(key, value, version))
        return newest, found

    def may_have_changed(self, cursor: int) -> bool:
        return self._database.newest_version() != cursor

    def close(self) -> None:
        self._database.close()

    def _text(self, raw: SQLiteValue) -> str:
        try:
            return bytes.decode(raw)  # type: ignore[arg-type]  # a damaged file may hold anything; the TypeError tells
        except (TypeError, UnicodeDecodeError) as error:
            raise StoreCorruption(repr(raw), str(self._database.path), "this key is not UTF-8") from error


def _span(prefix: str) -> tuple[bytes, bytes]:
    """The range of keys that start with `prefix`: no UTF-8 has the byte 0xFF, so `prefix` + 0xFF is above them all."""
    start = prefix.encode(errors="surrogatepass")  # no key has a lone surrogate, so such a prefix finds none
    return start, start + b"\xff"
