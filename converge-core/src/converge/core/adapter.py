"""The adapter behind `converge.core.store.versioned`."""
# ruff: noqa: D102  # what each method promises stands in Store and VersionedStore

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

from converge.core.errors import VersionConflict
from converge.core.feed import Feed
from converge.core.plain import Plain, check
from converge.core.store import DELETED, Change, Deleted, Store, VersionedStore, check_item, check_key

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterable, Iterator, Mapping

    from converge.core.errors import StoreError
    from converge.core.notices import Notices

__all__ = ["LockingAdapter", "adapter_of"]


def adapter_of(store: Store) -> LockingAdapter:
    """The one adapter for this store object; it is made anew when nobody holds the last one any more."""
    with _adapters_lock:
        adapter = _adapters.get(id(store))
        if adapter is None or adapter.inner is not store:
            adapter = _adapters[id(store)] = LockingAdapter(store)
        return adapter


class LockingAdapter(VersionedStore):
    """Versions and a feed for a store that has neither; see `versioned`."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.blocking = inner.blocking
        self._lock = threading.RLock()
        self._feed = Feed()
        for key in inner.list():
            self._feed.written(key)

    def put(self, key: str, value: Plain) -> None:
        check_item(key, value)
        with self._lock:
            self.inner.put(key, value)
            self._feed.written(key)

    def get(self, key: str) -> Plain:
        return self.inner.get(check_key(key))

    def delete(self, key: str) -> None:
        check_key(key)
        with self._lock:
            self.inner.delete(key)
            if self._feed.version_of(key):
                self._feed.deleted(key)

    def list(self, prefix: str = "") -> builtins.list[str]:
        return self.inner.list(prefix)

    def put_if_absent(self, key: str, value: Plain) -> bool:
        check_item(key, value)
        with self._lock:
            won = self.inner.put_if_absent(key, value)
            if won:
                self._feed.written(key)
            return won

    def get_versioned(self, key: str) -> tuple[Plain, int] | None:
        check_key(key)
        with self._lock:
            if not self._exists(key):
                return None
            return self.inner.get(key), self._feed.version_of(key) or self._feed.written(key)

    def compare_and_set(self, key: str, value: Plain, expected: int) -> int:
        check(value)
        with self._lock:
            found = self.get_versioned(key)
            actual = found[1] if found else 0
            if actual != expected:
                raise VersionConflict(key, expected, actual)
            self.inner.put(key, value)
            return self._feed.written(key)

    def put_many(self, items: Mapping[str, Plain]) -> None:
        for item in items.items():
            check_item(*item)
        with self._lock:
            for item in items.items():
                self.put(*item)

    def delete_many(self, keys: Iterable[str]) -> None:
        keys = [check_key(key) for key in keys]
        with self._lock:
            for key in keys:
                self.delete(key)

    def changes(self, cursor: int | None = None, prefix: str = "") -> tuple[int, builtins.list[Change]]:
        with self._lock:
            newer = [] if cursor is None else self._feed.since(cursor, prefix)
            found = [Change(key, self._present(key), version) for version, key in newer]
            return self._feed.version, [change for change in found if cursor or change.value is not DELETED]

    def may_have_changed(self, cursor: int) -> bool:
        return self._feed.version != cursor

    def notices(self) -> Notices | None:
        return self._feed.notices()

    def check(self) -> Iterator[StoreError]:
        return self.inner.check()

    def repair(self) -> Iterator[StoreError]:
        return self.inner.repair()

    def compact(self) -> int:
        return self.inner.compact()

    def close(self) -> None:
        self.inner.close()

    def _exists(self, key: str) -> bool:
        return self.inner.get(key) is not None or key in self.inner.list(key)

    def _present(self, key: str) -> Plain | Deleted:
        return self.inner.get(key) if self._feed.version_of(key) and self._exists(key) else DELETED


_adapters: weakref.WeakValueDictionary[int, LockingAdapter] = weakref.WeakValueDictionary()
_adapters_lock = threading.Lock()
