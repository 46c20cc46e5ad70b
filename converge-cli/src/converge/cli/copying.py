"""Copying one store into another while the source is in use.

The copy reads key after key, and between its batches what has changed since. When the last key is read it follows
the feed until two readings in a row find nothing between them: what the source held then is what the copy holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from attrs import frozen

from converge.cli.errors import DestinationNotEmpty, SourceTooBusy
from converge.core.errors import CursorExpired, StoreCorruption
from converge.core.plain import pack
from converge.core.store import DELETED

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.core.plain import Plain
    from converge.core.store import Change, VersionedStore

__all__ = ["Copied", "OnProgress", "copy"]

OnProgress: TypeAlias = "Callable[[int, int], None]"
"""Called after each batch with the number of keys read so far, and of those that there are."""

_BATCH_KEYS: Final = 500
_BATCH_BYTES: Final = 4_000_000
_PASSES: Final = 5
_READINGS: Final = 10_000


@frozen
class Copied:
    """What a copy did: how many keys the destination has of the source, the bytes (as msgpack) that were written for
    them, how many keys were deleted because the source does not have them, and the damaged records left out.
    """

    keys: int
    size: int
    deleted: int
    damaged: tuple[StoreCorruption, ...]


def copy(
    source: VersionedStore,
    destination: VersionedStore,
    prefix: str = "",
    *,
    overwrite: bool = False,
    skip_damaged: bool = False,
    on_progress: OnProgress | None = None,
) -> Copied:
    """Make `destination` hold under `prefix` what `source` holds at one instant near the end of the copy.

    Others may write to the source meanwhile, not to the destination. Values are held one batch at a time (500 keys
    or 4 MB); the keys are held all at once. With `overwrite` the destination may have keys already: they are replaced
    as the copy goes, and those that the source does not have are deleted at its end. So a copy that was interrupted is
    completed by another one with `overwrite`. With `skip_damaged` a damaged record is left out; what the destination
    has of its key stays.

    Raises `DestinationNotEmpty` before anything is written; `StoreCorruption` for a damaged record; `SourceTooBusy`
    when the source does not stand still between two readings, or forgets its changes before they are read.
    """
    if not overwrite and (present := destination.list(prefix)):
        raise DestinationNotEmpty(len(present), prefix)
    job = _Copying(source, destination, prefix, skip_damaged=skip_damaged, on_progress=on_progress)
    for _ in range(_PASSES):
        try:
            job.read_all()
            job.follow()
        except _ChangesLost:
            continue
        return job.finish()
    raise SourceTooBusy(f"the source forgot what changed in it before that could be read, {_PASSES} times in a row")


class _ChangesLost(Exception):
    """The feed cannot be followed from the cursor any more; every key has to be read again."""


class _Batch:
    """The newest that is known of some keys, not written yet."""

    def __init__(self, destination: VersionedStore) -> None:
        self.written = 0
        self._destination = destination
        self._items: dict[str, tuple[Plain, int]] = {}
        self._size = 0

    def add(self, key: str, value: Plain) -> None:
        self.drop(key)
        size = len(pack(value))
        self._items[key] = value, size
        self._size += size
        if len(self._items) >= _BATCH_KEYS or self._size >= _BATCH_BYTES:
            self.flush()

    def drop(self, key: str) -> None:
        self._size -= self._items.pop(key, (None, 0))[1]

    def flush(self) -> None:
        if self._items:
            self._destination.put_many({key: value for key, (value, _) in self._items.items()})
        self.written += self._size
        self._items, self._size = {}, 0

    def __len__(self) -> int:
        return len(self._items)


class _Copying:
    def __init__(
        self,
        source: VersionedStore,
        destination: VersionedStore,
        prefix: str,
        *,
        skip_damaged: bool,
        on_progress: OnProgress | None,
    ) -> None:
        self._source, self._destination, self._prefix = source, destination, prefix
        self._skip_damaged, self._on_progress = skip_damaged, on_progress
        self._batch = _Batch(destination)
        self._cursor = 0
        self._expected: set[str] = set()
        self._damaged: dict[str, StoreCorruption] = {}

    def read_all(self) -> None:
        """Read every key that is there, and after each batch what has changed meanwhile.

        So the changes to be held at once are those of one batch's time, and the feed has no time to forget them.
        """
        self._cursor, _ = self._source.changes()
        # A feed from 0 tells of no deletion, and of all the rest: nothing needs to be read before it.
        keys = self._source.list(self._prefix) if self._cursor else []
        self._expected, self._damaged = set(keys), {}
        for number, key in enumerate(keys, 1):
            self._read(key)
            if not self._batch:  # it has just been written
                self._apply(self._changes())
                self._report(number, len(keys))
        self._batch.flush()
        self._report(len(keys), len(keys))

    def follow(self) -> None:
        """Apply what has changed, until nothing has since the reading before."""
        for _ in range(_READINGS):
            changes = self._changes()
            if not changes:
                self._batch.flush()
                return
            self._apply(changes)  # mostly kept for later: the sooner the next reading, the likelier it finds nothing
        raise SourceTooBusy(f"the source changed between any two of {_READINGS} readings")

    def finish(self) -> Copied:
        """Delete what the source does not have: what was there before, and what was copied and is gone since."""
        extra = [key for key in self._destination.list(self._prefix) if key not in self._expected]
        for start in range(0, len(extra), _BATCH_KEYS):
            self._destination.delete_many(extra[start : start + _BATCH_KEYS])
        copied = len(self._expected) - len(self._damaged)
        return Copied(copied, self._batch.written, len(extra), tuple(self._damaged.values()))

    def _read(self, key: str) -> None:
        try:
            found = self._source.get_versioned(key)
        except StoreCorruption as error:
            if not self._skip_damaged:
                raise
            self._damaged[key] = error
            return
        if found is None:  # deleted since the keys were listed
            self._expected.discard(key)
        else:
            self._batch.add(key, found[0])

    def _changes(self) -> list[Change]:
        if not self._source.may_have_changed(self._cursor):
            return []
        try:
            self._cursor, changes = self._source.changes(self._cursor, self._prefix)
        except CursorExpired as error:
            raise _ChangesLost from error
        except StoreCorruption as error:  # damaged since the cursor was taken; from a later cursor it is passed over
            if not self._skip_damaged:
                raise
            raise _ChangesLost from error
        return changes

    def _apply(self, changes: list[Change]) -> None:
        for key, value, _ in changes:
            self._damaged.pop(key, None)
            if value is DELETED:
                self._expected.discard(key)
                self._batch.drop(key)
            else:
                self._expected.add(key)
                self._batch.add(key, value)

    def _report(self, done: int, total: int) -> None:
        if self._on_progress is not None:
            self._on_progress(done, total)
