"""The store contract: a map from str keys to plain data, with versions and a change feed beyond the minimum.

`Store` is what a third party has to implement (four methods); `VersionedStore` is what every first-party store
offers; `versioned()` lifts the first to the second inside one process.
"""

from __future__ import annotations

import threading
import weakref
from abc import ABC, abstractmethod
from enum import Enum
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Self

from converge.core.errors import StoreCorruption, StoreError, VersionConflict
from converge.core.plain import Plain, check

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterable, Iterator, Mapping

    from converge.core.notices import Notices

__all__ = [
    "DELETED",
    "MAX_KEY_BYTES",
    "Change",
    "Deleted",
    "Store",
    "VersionedStore",
    "Write",
    "check_item",
    "check_key",
    "versioned",
]

MAX_KEY_BYTES = 1024


class Deleted(Enum):
    """The type of `DELETED`."""

    DELETED = "deleted"

    def __repr__(self) -> str:
        return "DELETED"


DELETED: Final[Literal[Deleted.DELETED]] = Deleted.DELETED
"""Stands in a change for a value that is gone."""


class Change(NamedTuple):
    """One entry of the change feed: the newest state of a key."""

    key: str
    value: Plain | Deleted
    version: int


class Write(NamedTuple):
    """One conditional write of `compare_and_set_many`; `expected=0` means "must be absent"."""

    key: str
    value: Plain
    expected: int


def check_key(key: str) -> str:
    """`key` itself; `TypeError` unless it is a str, `ValueError` when it is empty, too long or not UTF-8."""
    if not isinstance(key, str):
        raise TypeError(f"a store key is a str, not {type(key).__name__}")
    if not key:
        raise ValueError("a store key cannot be empty")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise ValueError(f"the store key {key!r} has a lone surrogate and cannot be encoded as UTF-8") from None
    if size > MAX_KEY_BYTES:
        raise ValueError(f"the store key {key[:40]!r}… has {size} bytes; at most {MAX_KEY_BYTES} are allowed")
    return key


def check_item(key: str, value: Plain) -> None:
    """Raise what `check_key` and `converge.core.plain.check` raise, before anything is written."""
    check_key(key)
    check(value)


class Store(ABC):
    """A map from non-empty str keys (at most 1,024 bytes of UTF-8) to plain data.

    To implement one, write `put`, `get`, `delete` and `list`; all are synchronous and may be called from any thread.
    A value that is not plain data is a `TypeError` before anything is written (`converge.core.plain.pack` does that).
    What `get` returns belongs to the caller: changing it changes nothing in the store. A store that can lose the
    race in `put_if_absent` between processes overrides it.
    """

    blocking: bool = False
    """Whether a call may wait for a disk or a network. The runtime calls such a store from a thread of its own."""

    shared: bool = False
    """Whether several processes can open the same data, each with a store object of its own."""

    @abstractmethod
    def put(self, key: str, value: Plain) -> None:
        """Store `value` under `key`, replacing what was there; when this returns, the value is accepted."""

    @abstractmethod
    def get(self, key: str) -> Plain:
        """The value of `key`, or None when the key is absent. A damaged record raises; it is never None."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove `key`; an absent key is no error."""

    @abstractmethod
    def list(self, prefix: str = "") -> builtins.list[str]:
        """The keys that start with `prefix` (case matters), sorted."""

    def put_if_absent(self, key: str, value: Plain) -> bool:
        """Store `value` unless `key` exists; True for exactly one caller.

        This default holds a lock of the object: it is exact between the threads that share this object, and no
        further. A store that several processes open must override it.
        """
        check_item(key, value)
        with _lock_of(self):
            if key in self.list(key):
                return False
            self.put(key, value)
            return True

    def check(self) -> Iterator[StoreError]:
        """Read everything there is and yield what is damaged, as the error that its reader gets; sound: nothing.

        Changes nothing, and others may use the store meanwhile. This default gets every key; a store that keeps
        anything beside its values looks at that too.
        """
        for key in self.list():
            try:
                self.get(key)
            except StoreCorruption as error:
                yield error

    def repair(self) -> Iterator[StoreError]:
        """Take what `check` finds out of the way, so that the rest can be used, and yield it.

        Damaged bytes are moved aside, never destroyed. This default refuses with `StoreError`.
        """
        raise StoreError(f"{self!r} cannot repair itself; copy what can be read to a new store, or restore a backup")

    def compact(self) -> int:
        """Give the space of what is gone back to the system; how many bytes. Others may use the store meanwhile.

        When this raises, nothing has changed. This default has nothing to give back.
        """
        return 0

    def close(self) -> None:  # noqa: B027  # a store without resources has nothing to do here
        """Release files and connections. Closing twice is no error; using a closed store is."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class VersionedStore(Store):
    """A store whose keys carry versions and whose changes can be followed.

    A version is a positive int that grows with every write to the store and is never used twice, also not after a
    key was deleted and made again.
    """

    @abstractmethod
    def get_versioned(self, key: str) -> tuple[Plain, int] | None:
        """The value of `key` and its version, or None when the key is absent."""

    def versions_of(self, keys: Iterable[str]) -> dict[str, int]:
        """The versions of those of `keys` that are there, without their values.

        This default reads one after the other; a store that can answer for many at once overrides it.
        """
        found = {key: self.get_versioned(key) for key in keys}
        return {key: entry[1] for key, entry in found.items() if entry is not None}

    @abstractmethod
    def compare_and_set(self, key: str, value: Plain, expected: int) -> int:
        """Store `value` if the version of `key` is `expected` (0: the key is absent); the new version.

        Raises `VersionConflict`, with nothing written, when the version is another one.
        """

    def compare_and_set_many(self, writes: Iterable[Write]) -> list[int | None]:
        """Each write on its own merit, in order: the new version, or None where the version was another one.

        A refused key or value is an error before any write. This default is a loop; a store that has transactions
        overrides it with one commit.
        """
        writes = [Write(*write) for write in writes]
        for write in writes:
            check_item(write.key, write.value)
        results: list[int | None] = []
        for write in writes:
            try:
                results.append(self.compare_and_set(*write))
            except VersionConflict:
                results.append(None)
        return results

    @abstractmethod
    def put_many(self, items: Mapping[str, Plain]) -> None:
        """Store all items in one commit: after a crash all of them are there, or none."""

    @abstractmethod
    def delete_many(self, keys: Iterable[str]) -> None:
        """Remove all keys in one commit; absent ones are no error."""

    @abstractmethod
    def changes(self, cursor: int | None = None, prefix: str = "") -> tuple[int, list[Change]]:
        """What happened after `cursor`, oldest first, one entry a key with its newest state; and the new cursor.

        `None` asks for the present cursor and no changes; 0 gives every key there is. A cursor is a number of this
        store and means nothing to another. Raises `CursorExpired` when deletions after `cursor` are no longer
        remembered: take `changes()` as the new cursor, then list again.
        """

    def may_have_changed(self, cursor: int) -> bool:
        """Whether `changes(cursor)` could return anything: never a false no. Cheap enough to ask every 5 ms."""
        return True

    def notices(self) -> Notices | None:
        """Something that tells when `may_have_changed` is worth asking, to be closed by who asked for it.

        It tells of each write by any process that shares the store. None, as in this default: the store cannot tell,
        and has to be asked all the time.
        """
        return None


def versioned(store: Store) -> VersionedStore:
    """`store` itself when it has versions, else the one adapter for this store object.

    The adapter gives a four-method store versions and a change feed *inside this process*: one lock around each
    write, versions and feed in memory. What is lost: writes by other processes, or past the adapter, are not seen
    in `changes` and not fenced by `compare_and_set`; versions begin anew with each process; `put_many`,
    `delete_many` and `compare_and_set_many` are one write after the other, so that a failure may leave the first of
    them done. So a manager on such a store is correct in one process only. The adapter lives while somebody holds it.
    """
    if isinstance(store, VersionedStore):
        return store
    from converge.core.adapter import adapter_of  # here, because the adapter derives from VersionedStore

    return adapter_of(store)


_locks: dict[int, threading.RLock] = {}  # by identity: a store may be unhashable, and its lock must not stop a pickle
_locks_lock = threading.Lock()


def _lock_of(store: Store) -> threading.RLock:
    with _locks_lock:
        if id(store) not in _locks:
            _locks[id(store)] = threading.RLock()
            weakref.finalize(store, _locks.pop, id(store), None)
        return _locks[id(store)]
