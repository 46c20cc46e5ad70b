"""What is damaged in a folder, how it is taken out of the way, and what of it nobody needs."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from converge.core.errors import StoreCorruption
from converge.extensions.storage.file.counters import ROOT, greatest, number_in
from converge.extensions.storage.file.errors import StoreFolderError
from converge.extensions.storage.file.folder import Irregular
from converge.extensions.storage.file.journal import JournalDamaged, newest_in
from converge.extensions.storage.file.ledger import BATCH, DAMAGED, JOURNAL, read_batch, temporaries
from converge.extensions.storage.file.names import SHARDS, identify, place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from converge.core.errors import StoreError
    from converge.extensions.storage.file.folder import Folder
    from converge.extensions.storage.file.ledger import Ledger
    from converge.extensions.storage.file.records import Records

__all__ = ["Upkeep"]


class _Finding(NamedTuple):
    """A damage, and what takes it out of the way: False when it is gone already."""

    error: StoreError
    fix: Callable[[], bool]


class Upkeep:
    """Check, repair and compaction of a folder. No lock is held while the caller has an error in hand."""

    def __init__(self, folder: Folder, ledger: Ledger, records: Records) -> None:
        self._folder = folder
        self._ledger = ledger
        self._records = records

    def check(self) -> Iterator[StoreError]:
        """What is damaged."""
        for finding in self._findings():
            yield finding.error

    def repair(self) -> Iterator[StoreError]:
        """What was damaged and is in `.damaged` now.

        Each damage is looked at again and taken out of the way under one lock, so that what another has put anew
        meanwhile stays, and a kill leaves the rest for the next repair.
        """
        for finding in self._findings():
            if finding.fix():
                yield finding.error

    def compact(self) -> int:
        """Remove temporary files, shards without records and what the journal need not remember; the bytes."""
        with self._ledger.locked() as journal:
            names = self._names()
            left = temporaries(names)
            freed = sum(self._folder.size(place) for place in left)
            for place in left:
                self._folder.remove(place)
            if len(journal) > self._ledger.remembered:
                freed += self._ledger.shorten_journal()
            idle = [shard for shard in names if shard != ROOT and self._is_idle(shard, names[shard], left)]
            return freed + self._ledger.drop_shards(idle)

    def _findings(self) -> Iterator[_Finding]:
        with self._alone():
            names = self._names()
            own = [*self._own_files(names), *self._strays(names)]
        yield from own
        newest, newest_place = 0, ""
        for place, key in self._records.listed({shard: names[shard] for shard in names if shard != ROOT}):
            try:
                version = self._version_at(place)
            except StoreCorruption as error:
                yield _Finding(error, partial(self._remove_record, place, key))
            else:
                newest, newest_place = max((newest, newest_place), (version, place))
        with self._alone():
            missing = newest and newest >= max(map(greatest, self._names().values()))
        if missing:
            reason = f"its version {newest} is above all counters (.next-…); has one been removed? repair the store"
            yield self._found(newest_place, reason, partial(self._settle, newest + 1))

    def _found(self, place: str, reason: str, fix: Callable[[], bool]) -> _Finding:
        return _Finding(StoreFolderError(self._folder.place(place), reason), fix)

    def _own_files(self, names: dict[str, list[str]]) -> Iterator[_Finding]:
        """Damage to the batch, the counters and the journal; while the store is locked."""
        try:
            read_batch(self._folder)
        except StoreFolderError as error:
            yield _Finding(error, self._remove_batch)
        counter = max(map(greatest, names.values()))
        if not counter:
            reason = "no file tells which versions were given out; repair the store to go on after its newest record"
            yield self._found(".next-…", reason, self._settle)
        if reason := self._damage_of_journal(counter):
            reason += "; the next write begins a new one, and cursors of before expire"
            yield self._found(JOURNAL, reason, partial(self._remove_journal, counter))

    def _strays(self, names: dict[str, list[str]]) -> Iterator[_Finding]:
        """Files that stand where records do, and are of no use there."""
        for name in names[ROOT]:
            if name in SHARDS and name not in names:
                reason = "it is in the place of a sub-folder for records"
                yield self._found(name, reason, partial(self._remove_stray, name, blocking=True))
        for folder, found in names.items():
            for name in found:
                if (identity := identify(name)) and identity[0] != folder:
                    place = f"{folder}/{name}" if folder else name
                    reason = f"a record of this name belongs into the sub-folder {identity[0]}, and is not read here"
                    yield self._found(place, reason, partial(self._remove_stray, place, blocking=False))

    def _damage_of_journal(self, counter: int) -> str:
        try:
            data = self._folder.read(JOURNAL)
            if data is None:
                return "the journal is missing"
            newest = newest_in(data)
        except (Irregular, JournalDamaged) as error:
            return f"the journal is damaged ({error})"
        if newest + 1 < counter:
            return f"the journal is damaged (it ends after version {newest}, and {counter - 1} was given out)"
        return ""

    def _version_at(self, place: str) -> int:
        """The version of the record at `place`, all of which is sound; 0 when it has just been removed."""
        record = self._records.at(place)
        if record is None:
            return 0
        self._records.value(record)
        return record.version

    def _remove_record(self, place: str, key: str | None) -> bool:
        with self._ledger.locked() as journal:
            try:
                self._version_at(place)
            except StoreCorruption:
                pass
            else:
                return False
            if key is None:
                told = (found for _, found in journal.since(journal.floor) if found and place_of(found) == place)
                key = next(told, None)
            aside = self._aside(place)
            if key is not None:
                self._ledger.remove(key, aside)
            else:
                self._ledger.set_aside(place, aside)
                self._ledger.forget_changes()
        return True

    def _remove_batch(self) -> bool:
        with self._alone():
            try:
                read_batch(self._folder)
            except StoreFolderError:
                self._ledger.set_aside(BATCH, self._aside(BATCH))
                self._ledger.settle()
                return True
        return False

    def _remove_journal(self, counter: int) -> bool:
        with self._alone():
            if not self._damage_of_journal(counter):
                return False
            if self._folder.exists(JOURNAL):
                self._ledger.set_aside(JOURNAL, self._aside(JOURNAL))
            self._ledger.settle()
        return True

    def _remove_stray(self, place: str, *, blocking: bool) -> bool:
        with self._ledger.locked():
            if not self._folder.exists(place):
                return False
            self._ledger.set_aside(place, self._aside(place))
            if blocking:
                self._ledger.forget_changes()
        return True

    def _settle(self, least: int = 0) -> bool:
        with self._alone():
            self._ledger.settle(least)
        return True

    def _is_idle(self, shard: str, names: list[str], left: list[str]) -> bool:
        """Whether there is no more in `shard` than its counter and temporary files; no link to another disk is."""
        needed = (name for name in names if number_in(name) is None and f"{shard}/{name}" not in left)
        return not any(needed) and not self._folder.is_link(shard)

    def _aside(self, place: str) -> str:
        """A name in `.damaged` that is not taken, for the file `place`."""
        self._folder.make_folder(DAMAGED)
        self._folder.sync()
        base = name = f"{DAMAGED}/{place.replace('/', '-')}"
        number = 1
        while self._folder.exists(name):
            number += 1
            name = f"{base}.{number}"
        return name

    def _names(self) -> dict[str, list[str]]:
        return {ROOT: self._folder.names()} | self._folder.names_by_shard()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """The block has the folder to itself, in whatever state it is."""
        self._folder.acquire()
        try:
            yield
        finally:
            self._folder.release()
