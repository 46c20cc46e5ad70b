"""The stores on disk that the tests run over, and mistakes that the tests have to catch."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, Literal

from converge.core.store import DELETED, Deleted, VersionedStore
from converge.extensions.storage.file import FileStore
from converge.extensions.storage.sqlite import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike
    from pathlib import Path

    from converge.core.plain import Plain

__all__ = ["KINDS", "MISTAKES", "REMEMBERED", "open_store", "stored"]

REMEMBERED = 6
"""How many writes the feed of these stores keeps, so that few are enough to make them forget."""


class ForgetfulFileStore(FileStore):
    remembered_writes: ClassVar[int] = REMEMBERED


class ForgetfulSQLiteStore(SQLiteStore):
    remembered_writes: ClassVar[int] = REMEMBERED


class SwallowsErrors(ForgetfulFileStore):
    """A mistake: a put that failed is reported as done."""

    def put(self, key: str, value: Plain) -> None:
        with suppress(OSError):
            super().put(key, value)


class RemembersTooEarly(ForgetfulFileStore):
    """A mistake: the cache is changed before the disk is."""

    def __init__(self, base_path: str | PathLike[str]) -> None:
        super().__init__(base_path)
        self._cache: dict[str, Plain] = {}

    def put(self, key: str, value: Plain) -> None:
        self._cache[key] = value
        super().put(key, value)

    def put_many(self, items: Mapping[str, Plain]) -> None:
        super().put_many(items)
        self._cache.update(items)

    def get(self, key: str) -> Plain:
        found = super().get(key)
        return None if found is None else self._cache.get(key, found)


class ReadsNothingForAnError(ForgetfulFileStore):
    """A mistake: what cannot be read is reported as absent."""

    def get(self, key: str) -> Plain:
        try:
            return super().get(key)
        except OSError:
            return None


class PutsOneByOne(ForgetfulSQLiteStore):
    """A mistake: a write to several keys is several writes."""

    def put_many(self, items: Mapping[str, Plain]) -> None:
        for key, value in items.items():
            self.put(key, value)


MISTAKES: dict[str, type[VersionedStore]] = {
    mistake.__name__: mistake for mistake in (SwallowsErrors, RemembersTooEarly, ReadsNothingForAnError, PutsOneByOne)
}
KINDS = ("file", "sqlite-power", "sqlite-process")


def open_store(kind: str, place: Path) -> VersionedStore:
    """The store of a kind, or of a mistake, in `place`, whose parent need not exist."""
    if kind == "file":
        return ForgetfulFileStore(place)
    if kind in MISTAKES:
        mistake = MISTAKES[kind]
        path = place / "store.db" if issubclass(mistake, SQLiteStore) else place
        return mistake(path)  # type: ignore[call-arg]  # each of them takes its path
    durability: Literal["power", "process"] = "power" if kind == "sqlite-power" else "process"
    return ForgetfulSQLiteStore(place / "store.db", durability)


def stored(store: VersionedStore) -> dict[str, Plain]:
    """All that a store holds, read in each way there is; AssertionError where two ways differ."""
    keys = store.list()
    got = {key: store.get(key) for key in keys}
    versions = {key: store.get_versioned(key) for key in keys}
    newest, changes = store.changes(0)
    assert {key: found and found[0] for key, found in versions.items()} == got, "get and get_versioned differ"
    fed: dict[str, Plain | Deleted] = {change.key: change.value for change in changes if change.value is not DELETED}
    assert fed == got, "list and changes differ"
    for change in changes:
        found = versions.get(change.key)
        assert change.version <= newest, "a change is newer than the newest version"
        assert found is None or found[1] == change.version, "get_versioned and changes differ"
    return got
