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
from converge.extensions.storage.sqlite.checking import back_up, problems
from converge.extensions.storage.sqlite.database import Database
from converge.extensions.storage.sqlite.record import decode
from converge.extensions.storage.sqlite.writer import floor_of, newest_of

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterable, Iterator, Mapping
    from os import PathLike

    from apsw import Connection, SQLiteValue

    from converge.core.errors import StoreError
    from converge.core.notices import Notices
    from converge.extensions.storage.sqlite.writer import Writer

__all__ = ["SQLiteOptions", "SQLiteStore"]

_ROW = "SELECT version, crc, value FROM kv WHERE key = ?"
_VERSIONS = "SELECT key, version FROM kv WHERE key IN (?{}) AND value IS NOT NULL"
_ASKED_AT_ONCE = 500
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
    process, and a power cut may take the latest writes with it. Threads that write through one object at the same
    time share a commit, and so a flush of the disk; each still returns when its own write is safe. A `changes`
    cursor stays good for at least `remembered_writes` writes.

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
        self._database = Database(Path(path), durability, self.remembered_writes)

    def __repr__(self) -> str:
        return f"SQLiteStore({str(self._database.path)!r})"

    def put(self, key: str, value: Plain) -> None:
        packed = pack(value)
        raw = check_key(key).encode()
        self._database.write(lambda writer: writer.put(raw, packed), key, single=True)

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
        raw = check_key(key).encode()
        return self._database.write(lambda writer: writer.compare_and_set(raw, packed, 0), key, single=True) is not None

    def get_versioned(self, key: str) -> tuple[Plain, int] | None:
        rows = self._database.read(_ROW, (check_key(key).encode(),), key)
        if not rows:
            return None
        value, version = decode(str(self._database.path), key, rows[0])
        return None if value is DELETED else (value, version)

    def versions_of(self, keys: Iterable[str]) -> dict[str, int]:
        raw = [check_key(key).encode() for key in keys]
        found: dict[str, int] = {}
        for start in range(0, len(raw), _ASKED_AT_ONCE):
            some = raw[start : start + _ASKED_AT_ONCE]
            rows = self._database.read(_VERSIONS.format(", ?" * (len(some) - 1)), tuple(some))
            for key, version in rows:
                if not isinstance(version, int):
                    raise StoreCorruption(self._text(key), str(self._database.path), "a column has the wrong type")
                found[self._text(key)] = version
        return found

    def compare_and_set(self, key: str, value: Plain, expected: int) -> int:
        packed = pack(value)
        raw = check_key(key).encode()

        def act(writer: Writer) -> tuple[int | None, int]:
            version = writer.compare_and_set(raw, packed, expected)
            return version, 0 if version else writer.version_of(raw)

        version, actual = self._database.write(act, key, single=True)
        if version is None:
            raise VersionConflict(key, expected, actual)
        return version

    def compare_and_set_many(self, writes: Iterable[Write]) -> builtins.list[int | None]:
        encoded = [(check_key(key).encode(), pack(value), expected) for key, value, expected in writes]
        return self._database.write(lambda writer: [writer.compare_and_set(*each) for each in encoded])

    def put_many(self, items: Mapping[str, Plain]) -> None:
        encoded = [(check_key(key).encode(), pack(value)) for key, value in items.items()]
        self._database.write(lambda writer: writer.put_all(encoded))

    def delete_many(self, keys: Iterable[str]) -> None:
        encoded = [check_key(key).encode() for key in keys]

        def act(writer: Writer) -> None:
            for raw in encoded:
                writer.delete(raw)

        self._database.write(act, single=len(encoded) == 1)

    def changes(self, cursor: int | None = None, prefix: str = "") -> tuple[int, builtins.list[Change]]:
        if cursor is None:
            return self._database.newest_version(), []

        def read(reader: Connection) -> tuple[int, builtins.list[tuple[SQLiteValue, ...]]]:
            newest = newest_of(reader)
            check_cursor(cursor, floor_of(reader), newest)
            span = _span(prefix)
            rows = reader.execute(_SINCE, (cursor, *span)) if cursor else reader.execute(_PRESENT, span)
            return newest, rows.fetchall()

        newest, rows = self._database.read_at_once(read)
        found = []
        for raw, *row in rows:
            key = self._text(raw)
            value, version = decode(str(self._database.path), key, row)
            found.append(Change(key, value, version))
        return newest, found

    def may_have_changed(self, cursor: int) -> bool:
        return self._database.newest_version() != cursor

    def notices(self) -> Notices | None:
        """Of the writes to the log. A commit can be read when it is flushed, which may be a while after its notice."""
        from converge.core.file_notices import FileNotices  # here: only those who wait need it, and it takes 3 ms

        return FileNotices.of(self._database.log())

    def check(self) -> Iterator[StoreError]:
        return problems(self._database)

    def compact(self) -> int:
        """Rebuild the file without gaps, and empty its log: the bytes given back.

        Readers go on, writers of all processes wait until it is done: some seconds for a gigabyte. It needs free
        space of twice the size of the file for that time.
        """
        return self._database.compact()

    def backup(self, path: str | PathLike[str]) -> None:
        """Write a copy of this store, as it is at one instant, to the new file `path`.

        Nobody waits for it. The file is there when it is whole and on the disk, and is a store to be opened like any
        other, with the same versions and cursors. `StoreFileError` when `path` exists or cannot be written.
        """
        back_up(self._database, Path(path))

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
