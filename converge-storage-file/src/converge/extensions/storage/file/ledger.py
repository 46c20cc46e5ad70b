"""How writes become versions and files, and how a store gets back in order after a crash.

Besides the shards with the records a folder holds:

`.journal`     the change feed, see `journal`
`.next-N`      the counter of the root; each shard has one too, see `counters`
`.batch`       while a write to several keys is under way: all of it, values included. Once it is durable the batch is
               accepted, and whoever comes next completes it
`.new-*`       temporary files, each in the folder of the file that it becomes; what a dead writer left is removed when
               a store opens
`.damaged`     a folder, where `repair` moved what was damaged; nothing here reads it
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, Self

from converge.extensions.storage.file.counters import ROOT, Counters
from converge.extensions.storage.file.errors import StoreFolderError
from converge.extensions.storage.file.folder import Irregular
from converge.extensions.storage.file.journal import Journal, JournalDamaged, blank
from converge.extensions.storage.file.names import identify, place_of, shard_of
from converge.extensions.storage.file.record import encode_record, seal, unseal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from converge.extensions.storage.file.folder import Folder
    from converge.extensions.storage.file.records import Records

__all__ = ["BATCH", "DAMAGED", "JOURNAL", "Ledger", "read_batch", "temporaries"]

JOURNAL = ".journal"
BATCH = ".batch"
DAMAGED = ".damaged"
_NEW = ".new-"
_OPEN_AT_ONCE = 50


class _Step(NamedTuple):
    """One record of a batch, its value packed; without one it is removed."""

    key: str
    version: int
    packed: bytes | None


class Ledger:
    """The folder with its journal and its counters; as a context manager, the store's lock.

    The block has the store to itself, in order, with nothing half done and the journal read to its end.
    """

    def __init__(self, folder: Folder, records: Records, remembered: int) -> None:
        self._folder = folder
        self._records = records
        self.remembered = remembered
        self._counters = Counters(folder)
        self._journal: Journal | None = None
        self._settled = False
        folder.acquire()
        try:
            self._require_shards()
            with suppress(StoreFolderError):  # each use raises it again, but for check and repair, which have to open
                self.settle()
        finally:
            folder.release()

    @property
    def journal(self) -> Journal:
        """The journal."""
        if self._journal is None:  # the store was damaged when it was opened
            with self.locked():
                pass
        assert self._journal is not None
        return self._journal

    def locked(self) -> Self:
        """The ledger as a context manager."""
        return self

    def __enter__(self) -> Journal:
        self._folder.acquire()
        try:
            if not self._in_order():
                self.settle()
        except BaseException:
            self._folder.release()
            raise
        return self._journal or self.journal

    def __exit__(self, *exception: object) -> None:
        self._folder.release()

    def complete_batch(self) -> None:
        """Wait for a write to several keys that has been accepted, and complete it if its writer has died."""
        self._folder.require_usable()
        if self._folder.exists(BATCH):
            with self.locked():
                pass

    def require_present(self) -> None:
        """Raise OSError when the folder is gone: then a missing file does not mean an absent key."""
        if not self._folder.exists(JOURNAL):
            with self.locked():
                pass

    def commit(self, writes: Sequence[tuple[str, bytes | None]]) -> list[int]:
        """Write packed values, or remove keys, as one; their versions. To be called within `locked`.

        Of several writes to one key the last one counts. When this raises, nothing has changed.
        """
        journal = self.journal
        if journal.newest - journal.floor >= 2 * self.remembered:
            self.shorten_journal()
        first = journal.newest + 1
        if len(writes) == 1:
            self._write(*writes[0], first)
            return [first]
        self._write_batch(writes, first)
        return [*range(first, first + len(writes))]

    def close(self) -> None:
        """Close the journal, once the folder is closed."""
        if self._journal is not None:
            self._journal.close()

    def shorten_journal(self) -> int:
        """Keep the entries that have to be remembered, in a new file; by how many bytes that is shorter."""
        journal = self.journal
        kept = min(len(journal), self.remembered)
        before = journal.size
        self._replace_journal(journal.tail(kept) if kept else blank(journal.newest))
        self._finish()
        return before - self.journal.size

    def drop_shards(self, shards: Sequence[str]) -> int:
        """Remove sub-folders that hold no more than a counter; their bytes. To be called within `locked`."""
        if not shards:
            return 0
        self._count_in_root()  # durably, before theirs are gone
        self.shorten_journal()  # a new file: the others see that, and read again which shards there are
        freed = 0
        for shard in shards:
            freed += self._folder.size(shard)
            self._counters.forget(shard)
            for name in self._folder.names(shard):
                self._folder.remove(f"{shard}/{name}")
            self._folder.remove_folder(shard)
        return freed

    def forget_changes(self) -> None:
        """Begin a new journal: a deletion that cannot be told lets all cursors expire. Within `locked`."""
        self.settle(self.journal.newest + 2)

    def settle(self, least: int = 0) -> None:
        """Complete what was accepted, drop what was not, and go on after every version that may have been seen.

        The write that was under way at a crash may have shown version N of the greatest counter to a reader, so N is
        skipped; and what is below `least`. Whatever this process knew of the folder is read again.
        """
        self._settled = False
        names = {ROOT: self._folder.names()} | self._folder.names_by_shard()
        for place in temporaries(names):
            self._folder.remove(place)
        counter = self._counters.read(names)
        self._complete_batch(counter)
        counter = max(counter or self._newest_record(names) + 1, least)
        try:
            self._open_journal()
            whole = self.journal.newest + 1 >= counter
        except (JournalDamaged, FileNotFoundError):
            whole = False
        if not whole:
            self._replace_journal(blank(counter))
        elif self.journal.newest < counter:
            self.journal.append([""])
        self._count_in_root()
        self._finish()

    def remove(self, key: str, aside: str) -> None:
        """Give the record of `key` the name `aside`, as a deletion. To be called within `locked`."""
        self._begin([key])
        self._counters.move(shard_of(key), self.journal.newest + 1)
        self.set_aside(place_of(key), aside)
        self._finish()

    def set_aside(self, place: str, aside: str) -> None:
        """Give the file `place` the name `aside`, so that at any time one of the names is durable."""
        try:
            self._folder.link(place, aside)
        except OSError:  # no second name for a folder, nor on every file system: there a move has to do
            self._folder.move(place, aside)
        self._folder.sync(DAMAGED)
        if self._folder.exists(place):
            self._folder.remove(place)
        self._folder.sync(_folder_of(place))

    def _write(self, key: str, packed: bytes | None, version: int) -> None:
        place = place_of(key)
        shard = place[:2]
        temporary = None
        try:
            if packed is not None:
                temporary = f"{shard}/{_NEW}{version}"
                self._create(temporary, encode_record(key, version, packed))
            self._begin([key])
            self._counters.move(shard, version + 1)
            self._replace(place, shard, temporary)
        except BaseException:
            if temporary is not None:
                self._folder.remove(temporary)
            raise
        self._finish()

    def _begin(self, keys: Sequence[str]) -> None:
        self.journal.append(keys)
        self._settled = False

    def _finish(self) -> None:
        """Note that the newest write is durable.

        Without that, who comes next settles before it writes. So never two writes may have been seen of which the
        disk knows nothing.
        """
        try:
            self.journal.finish()
        except OSError:
            return
        self._settled = True

    def _replace(self, place: str, shard: str, temporary: str | None) -> None:
        """Put the file `temporary`, or nothing, in the place of a record, and make that durable."""
        former = self._folder.content(place)
        self._apply(place, temporary)
        try:
            self._folder.sync(shard)
        except BaseException as error:
            try:
                self._folder.restore(place, former, f"{shard}/{_NEW}undo")
            except OSError:
                error.add_note(f"{self._folder.place(place)}: the disk fails still; readers may see the refused write")
            raise

    def _apply(self, place: str, temporary: str | None) -> None:
        if temporary is None:
            self._folder.remove(place)
        else:
            self._folder.move(temporary, place)

    def _create(self, place: str, data: bytes) -> None:
        try:
            self._folder.create(place, data)
        except FileNotFoundError:  # the first record in its shard
            self._folder.make_folder(_folder_of(place))
            self._folder.create(place, data)

    def _begin_file(self, place: str, data: bytes) -> int:
        try:
            return self._folder.begin(place, data)
        except FileNotFoundError:  # as above
            self._folder.make_folder(_folder_of(place))
            return self._folder.begin(place, data)

    def _write_batch(self, writes: Sequence[tuple[str, bytes | None]], first: int) -> None:
        steps = [*{key: _Step(key, first + index, packed) for index, (key, packed) in enumerate(writes)}.values()]
        for step in steps:
            self._folder.require_no_folder(place_of(step.key))
        temporary = f"{_NEW}batch"
        try:
            self._folder.create(temporary, seal(_BATCH_MARK, [list(step) for step in steps]))
            self._begin([key for key, _ in writes])
            self._counters.move(ROOT, first + len(writes))
            self._accept(temporary)
        except BaseException:
            self._folder.remove(temporary)
            raise
        # The batch is on the disk. An error here leaves `.batch`, and meets the next one who uses the store.
        with suppress(OSError):
            self._complete(steps)
        self._finish()

    def _accept(self, temporary: str) -> None:
        try:
            self._folder.move(temporary, BATCH)
            self._folder.sync()
        except BaseException:
            self._folder.remove(BATCH)
            raise

    def _complete(self, steps: Sequence[_Step]) -> None:
        """Do what a durable batch says, durably, and then drop it. Doing it again does no harm."""
        for start in range(0, len(steps), _OPEN_AT_ONCE):
            self._complete_some(steps[start : start + _OPEN_AT_ONCE])
        shards = {shard_of(step.key) for step in steps}
        for shard in shards:
            with suppress(FileNotFoundError):  # one without records, from which one was to be removed
                self._folder.sync(shard)
        if not all(self._counters.has(shard) for shard in shards):
            self._folder.sync()  # new shards
        self._folder.remove(BATCH)

    def _complete_some(self, steps: Sequence[_Step]) -> None:
        """Write records, and flush them last: until `.batch` goes it makes them good after a crash."""
        begun: list[int] = []
        try:
            for step in steps:
                place = place_of(step.key)
                temporary = None
                if step.packed is not None:
                    temporary = f"{_folder_of(place)}/{_NEW}{step.version}"
                    begun.append(self._begin_file(temporary, encode_record(step.key, step.version, step.packed)))
                self._apply(place, temporary)
        finally:
            self._folder.finish(begun)

    def _complete_batch(self, counter: int) -> None:
        """Complete a batch that was accepted; `counter` is the greatest one of all.

        The removal of `.batch` becomes durable with a later sync of the root, so that a power cut can bring back one
        that was completed long ago. The counters tell: a later write has moved one beyond its versions.
        """
        steps = read_batch(self._folder)
        if steps is None:
            return
        if counter > max((step.version for step in steps), default=0) + 1:
            self._folder.remove(BATCH)
            return
        self._folder.sync()  # its writer may have been killed before it did
        self._complete(steps)

    def _count_in_root(self) -> None:
        self._counters.move(ROOT, self.journal.newest + 1)
        self._folder.sync()

    def _replace_journal(self, content: bytes) -> None:
        self._folder.create(f"{_NEW}journal", content)
        self._folder.move(f"{_NEW}journal", JOURNAL)
        self._open_journal()

    def _open_journal(self) -> None:
        former = self._journal
        self._journal = Journal(self._folder.path / JOURNAL)
        if former is not None:
            former.close()

    def _in_order(self) -> bool:
        """Whether nothing is half done, when all that was announced is read.

        A writer announces what it does in the journal first, and says there when that is durable.
        """
        if not self._settled or self._journal is None or self._folder.exists(BATCH):
            return False
        try:
            news = self._journal.catch_up()
        except (JournalDamaged, FileNotFoundError):
            return False
        if not news:
            return True
        self._counters.learn(news)
        return self._journal.is_finished()

    def _require_shards(self) -> None:
        for name in self._folder.names():
            if identify(name) is not None:
                raise StoreFolderError(
                    self._folder.place(name),
                    "a record lies beside the sub-folders in which this store keeps them; move such files away, "
                    "or name another folder",
                )

    def _newest_record(self, names: Mapping[str, Sequence[str]]) -> int:
        """The newest version of a readable record, for a folder that has lost its counters."""
        newest = 0
        for place, _ in self._records.listed(names):
            with suppress(ValueError):  # the reader of this record will be told
                record = self._records.at(place)
                newest = max(newest, record.version if record else 0)
        return newest


_BATCH_MARK = b"cv-batch"


def read_batch(folder: Folder) -> list[_Step] | None:
    """What an unfinished batch says, None when there is none; `StoreFolderError` when it is damaged."""
    try:
        data = folder.read(BATCH)
        return None if data is None else [_step(step) for step in unseal(_BATCH_MARK, data)]
    except (Irregular, TypeError, ValueError) as error:
        raise StoreFolderError(
            folder.place(BATCH),
            f"the list of an unfinished write to several keys is damaged ({error}); restore it from a backup, "
            "or repair the store to go on with those of its keys that are written",
        ) from error


def temporaries(names: Mapping[str, Sequence[str]]) -> list[str]:
    """The places of temporary files among the names in each folder. Nobody needs them while the store is locked."""
    return [
        f"{folder}/{name}" if folder else name
        for folder, found in names.items()
        for name in found
        if name.startswith(_NEW)
    ]


def _step(found: object) -> _Step:
    match found:
        case [str(key), int(version), (bytes() | None) as packed] if key:
            return _Step(key, version, packed)
    raise ValueError("it holds something else than keys, versions and values")


def _folder_of(place: str) -> str:
    return place.rpartition("/")[0]
