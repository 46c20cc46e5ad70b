"""How writes become versions and files, and how a store gets back in order after a crash.

Besides the records a folder holds:

`.journal`     the change feed, see `journal`
`.next-N`      an empty file whose name counts: no version above N has been given out yet. Its renaming is made durable
               by the sync that each write ends with anyway, and it precedes the record in the folder, so whatever a
               crash leaves, a version that a record or a reader may have seen is not given out again
`.batch`       while a write to several keys is under way: what is to be done, written once all new records are on the
               disk under temporary names. From then on the batch is accepted, and whoever comes next completes it
`.new-*`       temporary files; what a dead writer left is removed when a store opens
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from converge.extensions.storage.file.errors import StoreFolderError
from converge.extensions.storage.file.journal import Journal, JournalDamaged, blank
from converge.extensions.storage.file.names import file_name
from converge.extensions.storage.file.record import decode_record, encode_record, seal, unseal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from converge.extensions.storage.file.folder import Folder

__all__ = ["Ledger"]

_JOURNAL, _BATCH, _COUNTER, _NEW = ".journal", ".batch", ".next-", ".new-"
_BATCH_MARK = b"cv-batch"


class _Step(NamedTuple):
    """One record of a commit; without a value it is removed."""

    key: str
    version: int
    stays: bool

    @property
    def temporary(self) -> str:
        return f"{_NEW}{self.version}"


class Ledger:
    """The folder with its journal and its counter."""

    def __init__(self, folder: Folder, remembered: int) -> None:
        self._folder = folder
        self._remembered = remembered
        self._journal: Journal | None = None
        with folder.locked():
            self._settle()

    @property
    def journal(self) -> Journal:
        """The journal; a settled ledger has one."""
        assert self._journal is not None
        return self._journal

    @contextmanager
    def locked(self) -> Iterator[Journal]:
        """The block has the store to itself, in order, with nothing half done and the journal read to its end."""
        with self._folder.locked():
            if not self._in_order():
                self._settle()
            yield self.journal

    def complete_batch(self) -> None:
        """Wait for a write to several keys that has been accepted, and complete it if its writer has died."""
        self._folder.require_usable()
        if self._folder.exists(_BATCH):
            with self.locked():
                pass

    def require_present(self) -> None:
        """Raise OSError when the folder is gone: then a missing file does not mean an absent key."""
        if not self._folder.exists(_JOURNAL):
            with self.locked():
                pass

    def commit(self, writes: Sequence[tuple[str, bytes | None]]) -> list[int]:
        """Write packed values, or remove keys, as one; their versions. To be called within `locked`.

        Of several writes to one key the last one counts. When this raises, nothing has changed.
        """
        self._shorten_journal()
        first = self.journal.newest + 1
        versions = [*range(first, first + len(writes))]
        last = {key: (version, packed) for version, (key, packed) in zip(versions, writes, strict=True)}
        steps = [_Step(key, version, packed is not None) for key, (version, packed) in last.items()]
        try:
            for key, (version, packed) in last.items():
                if packed is not None:
                    self._folder.create(f"{_NEW}{version}", encode_record(key, version, packed))
            self.journal.append([key for key, _ in writes])
            self._folder.move(f"{_COUNTER}{first}", f"{_COUNTER}{first + len(writes)}")
            if len(steps) == 1:
                self._replace(steps[0])
            else:
                self._accept(steps)
        except BaseException:
            for step in steps:
                self._folder.remove(step.temporary)
            raise
        if len(steps) > 1:
            # The batch is on the disk. An error here leaves `.batch`, and meets the next one who uses the store.
            with suppress(OSError):
                self._complete(steps)
        return versions

    def close(self) -> None:
        """Close the journal, once the folder is closed."""
        if self._journal is not None:
            self._journal.close()

    def _replace(self, step: _Step) -> None:
        name = file_name(step.key)
        with self._folder.undone_on_error(name):
            self._apply(step, name)
            self._folder.sync()

    def _apply(self, step: _Step, name: str) -> None:
        if step.stays:
            self._folder.move(step.temporary, name)
        else:
            self._folder.remove(name)

    def _accept(self, steps: list[_Step]) -> None:
        for step in steps:
            self._folder.require_no_folder(file_name(step.key))
        temporary = f"{_NEW}batch"
        self._folder.create(temporary, seal(_BATCH_MARK, [list(step) for step in steps]))
        try:
            self._folder.move(temporary, _BATCH)
            self._folder.sync()
        except BaseException:
            self._folder.remove(temporary)
            self._folder.remove(_BATCH)  # before the new records: half of them must never be taken for the batch
            raise

    def _complete(self, steps: list[_Step]) -> None:
        for step in steps:
            with suppress(FileNotFoundError):  # moved already, by a writer that died after it
                self._apply(step, file_name(step.key))
        self._folder.sync()
        self._folder.remove(_BATCH)

    def _shorten_journal(self) -> None:
        if len(self.journal) >= 2 * self._remembered:
            self._replace_journal(self.journal.tail(self._remembered))

    def _replace_journal(self, content: bytes) -> None:
        self._folder.create(f"{_NEW}journal", content)
        self._folder.move(f"{_NEW}journal", _JOURNAL)
        self._open_journal()

    def _open_journal(self) -> None:
        former = self._journal
        self._journal = Journal(self._folder.path / _JOURNAL)
        if former is not None:
            former.close()

    def _in_order(self) -> bool:
        if self._journal is None or self._folder.exists(_BATCH):
            return False
        try:
            self._journal.catch_up()
        except (JournalDamaged, FileNotFoundError):
            return False
        return self._folder.exists(f"{_COUNTER}{self._journal.newest + 1}")

    def _settle(self) -> None:
        """Complete what was accepted, drop what was not, and go on after every version that may have been seen.

        The write that was under way at a crash may have shown version N of `.next-N` to a reader, so N is skipped.
        """
        self._complete_batch()
        names = self._folder.names()
        for name in names:
            if name.startswith(_NEW):
                self._folder.remove(name)
        counters = {int(name.removeprefix(_COUNTER)) for name in names if _is_counter(name)}
        counter = max(counters, default=0) or self._newest_record(names) + 1
        try:
            self._open_journal()
            whole = self.journal.newest + 1 >= counter
        except (JournalDamaged, FileNotFoundError):
            whole = False
        if not whole:
            self._replace_journal(blank(counter))
        elif self.journal.newest < counter:
            self.journal.append([""])
        if not counters:
            self._folder.create(f"{_COUNTER}{counter}", b"")
        self._folder.move(f"{_COUNTER}{counter}", f"{_COUNTER}{self.journal.newest + 1}")
        for surplus in counters - {counter}:
            self._folder.remove(f"{_COUNTER}{surplus}")
        self._folder.sync()

    def _complete_batch(self) -> None:
        data = self._folder.read(_BATCH)
        if data is None:
            return
        try:
            steps = [_Step(*step) for step in unseal(_BATCH_MARK, data)]
        except (TypeError, ValueError) as error:
            raise StoreFolderError(
                self._folder.place(_BATCH),
                f"the list of an unfinished write to several keys is damaged ({error}); restore it from a backup, "
                "or remove it to go on with those of its keys that are written",
            ) from error
        self._complete(steps)

    def _newest_record(self, names: list[str]) -> int:
        """The newest version of a readable record, for a folder that has lost its counter."""
        newest = 0
        for name in names:
            if name.endswith(".record"):
                with suppress(ValueError):  # the reader of this record will be told
                    newest = max(newest, decode_record(self._folder.read(name) or b"").version)
        return newest


def _is_counter(name: str) -> bool:
    digits = name.removeprefix(_COUNTER)
    return name.startswith(_COUNTER) and digits.isascii() and digits.isdigit()
