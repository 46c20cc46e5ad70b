"""`FileStore`: a folder of plain files that several processes on one host share."""
# what each method promises stands in Store and VersionedStore

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from attrs import field, frozen

from converge.core.errors import VersionConflict
from converge.core.feed import check_cursor
from converge.core.plain import Plain, pack
from converge.core.store import DELETED, Change, VersionedStore, Write, check_key
from converge.extensions.storage.file.folder import Folder
from converge.extensions.storage.file.ledger import Ledger
from converge.extensions.storage.file.names import place_of
from converge.extensions.storage.file.records import Records
from converge.extensions.storage.file.upkeep import Upkeep

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterable, Iterator, Mapping
    from os import PathLike

    from converge.core.errors import StoreError
    from converge.core.notices import Notices

__all__ = ["FileOptions", "FileStore"]


@frozen
class FileOptions:
    """The options of a file store in a config table."""

    path: Path = field(converter=Path)


class FileStore(VersionedStore):
    """A versioned store in the folder `base_path`, a file per key, made with its parents when it is missing.

    Any number of threads, store objects and processes of one host may use one folder at once. A write that returned
    survives a power cut, if the disk honours a flush. A `changes` cursor stays good for at least `remembered_writes`
    writes, unless the journal is lost in a power cut. The records lie in up to 256 sub-folders. Files that are not the
    store's are left alone.

    Raises OSError as the system gives it, `StoreCorruption` for a damaged record, `StoreFolderError` (a ValueError)
    when an unfinished batch is damaged, and plain `StoreError` after `close()` or in a forked child. A write that
    raised has changed nothing. With a damaged batch the store still opens, so that `check` and `repair` can be called;
    a folder with records beside the sub-folders is refused, as a `StoreFolderError`.

    `check` reads all records, and holds the lock of the folder only while it lists them. `repair` moves what is damaged
    into the sub-folder `.damaged`, under names of its own, one error after the other: stop, and the rest stays as it
    is. A record that goes appears in `changes` as a deletion; where its key is lost, all cursors expire. `compact`
    removes temporary files, sub-folders without records, and what the journal need not remember.
    """

    blocking = True
    shared = True
    converge_options: ClassVar[type[FileOptions]] = FileOptions
    remembered_writes: ClassVar[int] = 10_000

    def __init__(self, base_path: str | PathLike[str]) -> None:
        if not str(base_path):
            raise ValueError("an empty path names no folder; give the path of one")
        self._folder = Folder(Path(base_path))
        self._records = Records(self._folder)
        self._ledger = Ledger(self._folder, self._records, self.remembered_writes)
        self._upkeep = Upkeep(self._folder, self._ledger, self._records)

    @classmethod
    def from_options(cls, options: FileOptions) -> Self:
        """The store that a config table describes."""
        return cls(options.path)

    def __repr__(self) -> str:
        return f"FileStore({str(self._folder.path)!r})"

    def put(self, key: str, value: Plain) -> None:
        self._commit([(check_key(key), pack(value))])

    def get(self, key: str) -> Plain:
        found = self.get_versioned(key)
        return None if found is None else found[0]

    def delete(self, key: str) -> None:
        self.delete_many([key])

    def list(self, prefix: str = "") -> builtins.list[str]:
        with self._ledger.locked():  # a folder that changes while it is listed may leave out what is always there
            names = self._folder.names_by_shard()
        return sorted(self._records.keys(names, prefix))

    def put_if_absent(self, key: str, value: Plain) -> bool:
        packed = pack(value)
        place = place_of(check_key(key))
        with self._ledger.locked():
            if self._folder.exists(place):
                return False
            self._ledger.commit([(key, packed)])
        return True

    def get_versioned(self, key: str) -> tuple[Plain, int] | None:
        check_key(key)
        self._ledger.complete_batch()
        record = self._records.get(key)
        if record is None:
            self._ledger.require_present()
            return None
        return self._records.value(record), record.version

    def compare_and_set(self, key: str, value: Plain, expected: int) -> int:
        packed = pack(value)
        check_key(key)
        with self._ledger.locked():
            actual = self._version_of(key)
            if actual != expected:
                raise VersionConflict(key, expected, actual)
            return self._ledger.commit([(key, packed)])[0]

    def compare_and_set_many(self, writes: Iterable[Write]) -> builtins.list[int | None]:
        encoded = [(check_key(key), pack(value), expected) for key, value, expected in writes]
        with self._ledger.locked() as journal:
            known: dict[str, int] = {}
            accepted: builtins.list[tuple[str, bytes | None]] = []
            results: builtins.list[int | None] = []
            for key, packed, expected in encoded:
                if key not in known:
                    known[key] = self._version_of(key)
                if known[key] != expected:
                    results.append(None)
                    continue
                accepted.append((key, packed))
                known[key] = journal.newest + len(accepted)
                results.append(known[key])
            if accepted:
                self._ledger.commit(accepted)
        return results

    def put_many(self, items: Mapping[str, Plain]) -> None:
        self._commit([(check_key(key), pack(value)) for key, value in items.items()])

    def delete_many(self, keys: Iterable[str]) -> None:
        checked = dict.fromkeys(check_key(key) for key in keys)
        with self._ledger.locked():
            present = [key for key in checked if self._folder.exists(place_of(key))]
            if present:
                self._ledger.commit([(key, None) for key in present])

    def changes(self, cursor: int | None = None, prefix: str = "") -> tuple[int, builtins.list[Change]]:
        with self._ledger.locked() as journal:  # after the write that is under way
            newest = journal.newest
            if cursor is None:
                return newest, []
            check_cursor(cursor, journal.floor, newest)
            announced = {key: version for version, key in journal.since(cursor)} if cursor else {}
        if not cursor:
            announced = dict.fromkeys(self.list(prefix), 0)
        found = [
            self._change(key, version)
            for key, version in announced.items()
            if key and key.startswith(prefix)  # the empty key stands for a version that was skipped
        ]
        return newest, sorted(
            (change for change in found if change.version > cursor), key=lambda change: change.version
        )

    def may_have_changed(self, cursor: int) -> bool:
        self._folder.require_usable()
        return not self._ledger.journal.unchanged_at(cursor)

    def notices(self) -> Notices | None:
        """Of the writes to the journal, which come before those of the records that it announces."""
        from converge.core.file_notices import FileNotices  # here: only those who wait need it, and it takes 3 ms

        self._folder.require_usable()
        return FileNotices.of(self._ledger.journal.path)

    def check(self) -> Iterator[StoreError]:
        return self._upkeep.check()

    def repair(self) -> Iterator[StoreError]:
        return self._upkeep.repair()

    def compact(self) -> int:
        return self._upkeep.compact()

    def close(self) -> None:
        if self._folder.close():
            self._ledger.close()

    def _commit(self, writes: builtins.list[tuple[str, bytes | None]]) -> None:
        with self._ledger.locked():
            if writes:
                self._ledger.commit(writes)

    def _change(self, key: str, announced: int) -> Change:
        record = self._records.get(key)
        if record is None:
            return Change(key, DELETED, announced)
        return Change(key, self._records.value(record), record.version)

    def _version_of(self, key: str) -> int:
        record = self._records.get(key)
        return 0 if record is None else record.version
