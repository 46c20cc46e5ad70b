"""`MemoryStore`: the store of one process, for tests and for work that may be lost with it."""
# what each method promises stands in Store and VersionedStore

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, ClassVar

from converge.core.errors import StoreError, VersionConflict
from converge.core.feed import Feed
from converge.core.plain import Plain, pack, unpack_own
from converge.core.store import DELETED, Change, VersionedStore, Write, check_key

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterable, Mapping

    from converge.core.notices import Notices

__all__ = ["MemoryStore"]


class MemoryStore(VersionedStore):
    """A versioned store in the memory of this process, safe between threads.

    It holds encoded bytes, so that nobody shares an object with it and the value domain is that of the stores on
    disk. Every writer, the ones for many keys too, takes effect as a whole or not at all. A `changes` cursor expires
    `remembered_deletions` deletions after it was taken.
    """

    remembered_deletions: ClassVar[int] = 10_000

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[str, bytes] = {}
        self._feed = Feed(self.remembered_deletions)
        self._closed = False

    def put(self, key: str, value: Plain) -> None:
        packed = pack(value)
        check_key(key)
        with self._lock:
            self._write(key, packed)

    def get(self, key: str) -> Plain:
        found = self.get_versioned(key)
        return None if found is None else found[0]

    def delete(self, key: str) -> None:
        check_key(key)
        with self._lock:
            self._remove(key)

    def list(self, prefix: str = "") -> builtins.list[str]:
        with self._lock:
            self._require_open()
            keys = [*self._records]
        return sorted(key for key in keys if key.startswith(prefix))

    def put_if_absent(self, key: str, value: Plain) -> bool:
        packed = pack(value)
        check_key(key)
        with self._lock:
            self._require_open()
            if key in self._records:
                return False
            self._write(key, packed)
            return True

    def get_versioned(self, key: str) -> tuple[Plain, int] | None:
        check_key(key)
        with self._lock:
            self._require_open()
            packed, version = self._records.get(key), self._feed.version_of(key)
        return None if packed is None else (unpack_own(packed), version)

    def versions_of(self, keys: Iterable[str]) -> dict[str, int]:
        checked = [check_key(key) for key in keys]
        with self._lock:
            self._require_open()
            return {key: self._feed.version_of(key) for key in checked if key in self._records}

    def compare_and_set(self, key: str, value: Plain, expected: int) -> int:
        packed = pack(value)
        check_key(key)
        with self._lock:
            self._require_open()
            actual = self._feed.version_of(key)
            if actual != expected:
                raise VersionConflict(key, expected, actual)
            return self._write(key, packed)

    def compare_and_set_many(self, writes: Iterable[Write]) -> builtins.list[int | None]:
        encoded = [(check_key(key), pack(value), expected) for key, value, expected in writes]
        with self._lock:
            self._require_open()
            return [
                self._write(key, packed) if self._feed.version_of(key) == expected else None
                for key, packed, expected in encoded
            ]

    def put_many(self, items: Mapping[str, Plain]) -> None:
        encoded = [(check_key(key), pack(value)) for key, value in items.items()]
        with self._lock:
            self._require_open()
            for key, packed in encoded:
                self._write(key, packed)

    def delete_many(self, keys: Iterable[str]) -> None:
        checked = [check_key(key) for key in keys]
        with self._lock:
            self._require_open()
            for key in checked:
                self._remove(key)

    def changes(self, cursor: int | None = None, prefix: str = "") -> tuple[int, builtins.list[Change]]:
        with self._lock:
            self._require_open()
            newer = [] if cursor is None else self._feed.since(cursor, prefix)
            found = [(key, self._records.get(key), version) for version, key in newer]
            present = self._feed.version
        return present, [
            Change(key, DELETED if packed is None else unpack_own(packed), version) for key, packed, version in found
        ]

    def may_have_changed(self, cursor: int) -> bool:
        self._require_open()
        return self._feed.version != cursor

    def notices(self) -> Notices | None:
        return self._feed.notices()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._records.clear()

    # Each public writer works through these two and never through another public one: a subclass that lets one of
    # them fail must not find another half done.

    def _write(self, key: str, packed: bytes) -> int:
        self._require_open()
        self._records[key] = packed
        return self._feed.written(key)

    def _remove(self, key: str) -> None:
        self._require_open()
        if self._records.pop(key, None) is not None:
            self._feed.deleted(key)

    def _require_open(self) -> None:
        if self._closed:
            raise StoreError("this MemoryStore is closed and its content is gone; make a new one")
