"""The journal: which key each version went to, in one append-only file.

It is a hint. An entry is written *before* the record that it announces and is not flushed, so it may tell of a write
that never happened; the record decides. A torn end is of such a write, and is cut off. When more than that is lost,
which the counter of the store tells, the store begins a new journal, and cursors of before expire.

The file is a header (mark, CRC-32, floor) and then entries of CRC-32, length of the key, version and key, of the
versions floor + 1, floor + 2, … without a gap. All numbers are little-endian.
"""

from __future__ import annotations

import os
import struct
import weakref
from array import array
from typing import TYPE_CHECKING
from zlib import crc32

from converge.extensions.storage.file.folder import write_all

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["Journal", "JournalDamaged", "blank"]

_MARK = b"cvjournl"
_HEADER = struct.Struct("<8sIQ")
_FLOOR = struct.Struct("<Q")
_ENTRY = struct.Struct("<IHQ")
_COVERED = 4  # the checksum of an entry is over all that follows it


class JournalDamaged(ValueError):
    """The file is no whole journal, or not the one that was read before."""


def blank(floor: int) -> bytes:
    """The content of a journal that begins after version `floor`."""
    return _HEADER.pack(_MARK, crc32(_FLOOR.pack(floor)), floor)


class Journal:
    """The journal in the file `path`, cut after its last whole entry; to be made and used under the store's lock.

    Only `unchanged_at` may be asked without it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        self.close = weakref.finalize(self, os.close, self._descriptor)
        self._inode = os.fstat(self._descriptor).st_ino  # not used again while the descriptor is open
        header = os.pread(self._descriptor, _HEADER.size, 0)
        if len(header) < _HEADER.size:
            raise JournalDamaged("no header")
        floor: int
        mark, crc, floor = _HEADER.unpack(header)
        if mark != _MARK or crc32(_FLOOR.pack(floor)) != crc:
            raise JournalDamaged("a damaged header")
        self.floor = floor
        self._starts = array("Q")  # where each entry begins
        self._end = _HEADER.size
        self.seen: tuple[int, int, int]
        self._note()
        try:
            self.catch_up()
        except JournalDamaged:
            os.ftruncate(self._descriptor, self._end)

    @property
    def newest(self) -> int:
        """The newest version that has an entry, or the floor."""
        return self.floor + len(self._starts)

    def __len__(self) -> int:
        return len(self._starts)

    def catch_up(self) -> None:
        """Read what was appended since; `JournalDamaged` or `FileNotFoundError` when this is no longer the journal.

        Whole entries before a damage have been read then.
        """
        found = self._path.stat()
        if found.st_ino != self._inode or found.st_size < self._end:
            raise JournalDamaged("another file")
        if found.st_size > self._end:
            data = os.pread(self._descriptor, found.st_size - self._end, self._end)
            begin = self._end
            try:
                for start, end, _ in _entries(data, self.newest + 1):
                    self._starts.append(begin + start)
                    self._end = begin + end
            finally:
                self._note()

    def append(self, keys: Sequence[str]) -> None:
        """Announce a write to each key, with the next versions; all of it or nothing."""
        pieces = [_entry(version, key) for version, key in enumerate(keys, self.newest + 1)]
        try:
            write_all(self._descriptor, b"".join(pieces))
        except BaseException:
            os.ftruncate(self._descriptor, self._end)
            raise
        for piece in pieces:
            self._starts.append(self._end)
            self._end += len(piece)
        self._note()

    def since(self, version: int) -> Iterator[tuple[int, str]]:
        """(version, key) of each entry after `version`, which is not below the floor."""
        index = version - self.floor
        if index < len(self._starts):
            start = self._starts[index]
            data = os.pread(self._descriptor, self._end - start, start)
            for number, (*_, key) in enumerate(_entries(data, version + 1), version + 1):
                yield number, key

    def tail(self, entries: int) -> bytes:
        """The content of a journal with only the newest `entries`, of which there are that many."""
        start = self._starts[-entries]
        return blank(self.newest - entries) + os.pread(self._descriptor, self._end - start, start)

    def unchanged_at(self, version: int) -> bool:
        """Whether `version` is the newest one of any process; one stat."""
        inode, end, newest = self.seen
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return False
        return found.st_size == end and found.st_ino == inode and newest == version

    def _note(self) -> None:
        self.seen = (self._inode, self._end, self.newest)


def _entry(version: int, key: str) -> bytes:
    raw = key.encode()
    covered = _ENTRY.pack(0, len(raw), version)[_COVERED:] + raw
    return crc32(covered).to_bytes(4, "little") + covered


def _entries(data: bytes, version: int) -> Iterator[tuple[int, int, str]]:
    """Where each entry begins and ends, and its key; `JournalDamaged` where they stop counting up from `version`."""
    start = 0
    while start < len(data):
        if start + _ENTRY.size > len(data):
            raise JournalDamaged("a torn entry")
        crc, size, found = _ENTRY.unpack_from(data, start)
        end = start + _ENTRY.size + size
        key = data[start + _ENTRY.size : end]
        if len(key) < size or found != version or crc32(data[start + _COVERED : start + _ENTRY.size] + key) != crc:
            raise JournalDamaged("a torn entry")
        yield start, end, key.decode()
        start, version = end, version + 1
