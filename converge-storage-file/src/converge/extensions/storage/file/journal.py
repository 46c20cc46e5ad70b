"""The journal: which key each version went to, in one append-only file.

It is a hint. An entry is written *before* the record that it announces and is not flushed, so it may tell of a write
that never happened; the record decides. A torn end is of such a write, and is cut off. When more than that is lost,
which the counters of the store tell, the store begins a new journal, and cursors of before expire.

The file is a header (mark, CRC-32 of the floor, floor, finished) and then entries of CRC-32, length of the key,
version and key, of the versions floor + 1, floor + 2, … without a gap. All numbers are little-endian. `finished` is
the newest version whose write is durable, for the processes of now: when it is not that of the newest entry, its writer
failed or was killed. A power cut may take it as it likes, because after one every process begins by settling.
"""

from __future__ import annotations

import os
import struct
import weakref
from array import array
from contextlib import suppress
from typing import TYPE_CHECKING
from zlib import crc32

from converge.extensions.storage.file.folder import write_all

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["Journal", "JournalDamaged", "blank", "newest_in"]

_MARK = b"cvjournl"
_HEADER = struct.Struct("<8sIQQ")
_FINISHED_AT = 20
_FLOOR = struct.Struct("<Q")
_ENTRY = struct.Struct("<IHQ")
_COVERED = 4  # the checksum of an entry is over all that follows it


class JournalDamaged(ValueError):
    """The file is no whole journal, or not the one that was read before."""


def blank(floor: int) -> bytes:
    """The content of a journal that begins after version `floor`."""
    return _HEADER.pack(_MARK, crc32(_FLOOR.pack(floor)), floor, 0)


def newest_in(data: bytes) -> int:
    """The newest version that the content `data` of a journal tells of before a torn end; `JournalDamaged` if none."""
    newest = _floor_of(data)
    with suppress(JournalDamaged):
        for _ in _entries(data[_HEADER.size :], newest + 1):
            newest += 1
    return newest


class Journal:
    """The journal in the file `path`, cut after its last whole entry; to be made and used under the store's lock.

    Only `unchanged_at` may be asked without it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._path = str(path)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.close = weakref.finalize(self, os.close, self._descriptor)
        self._inode = os.fstat(self._descriptor).st_ino  # not used again while the descriptor is open
        self.floor = _floor_of(os.pread(self._descriptor, _HEADER.size, 0))
        self.newest = self.floor
        """The newest version that has an entry, or the floor."""
        self._starts = array("Q")  # where each entry begins
        self._end = _HEADER.size
        self.seen: tuple[int, int, int]
        self._note()
        try:
            self.catch_up()
        except JournalDamaged:
            os.ftruncate(self._descriptor, self._end)

    def __len__(self) -> int:
        return len(self._starts)

    def catch_up(self) -> list[tuple[int, str]]:
        """Read what was appended since, as `since` has it.

        `JournalDamaged` or `FileNotFoundError` when this is no longer the journal. Whole entries before a damage have
        been read then.
        """
        found = os.stat(self._path)  # noqa: PTH116  # a Path costs more than the call, which each write makes
        if found.st_ino != self._inode or found.st_size < self._end:
            raise JournalDamaged("another file")
        news: list[tuple[int, str]] = []
        if found.st_size > self._end:
            data = os.pread(self._descriptor, found.st_size - self._end, self._end)
            begin = self._end
            try:
                for start, end, key in _entries(data, self.newest + 1):
                    self._starts.append(begin + start)
                    self._end = begin + end
                    self.newest += 1
                    news.append((self.newest, key))
            finally:
                self._note()
        return news

    def append(self, keys: Sequence[str]) -> None:
        """Announce a write to each key, with the next versions; all of it or nothing."""
        pieces = [_entry(version, key) for version, key in enumerate(keys, self.newest + 1)]
        os.lseek(self._descriptor, self._end, os.SEEK_SET)
        try:
            write_all(self._descriptor, b"".join(pieces))
        except BaseException:
            os.ftruncate(self._descriptor, self._end)
            raise
        for piece in pieces:
            self._starts.append(self._end)
            self._end += len(piece)
            self.newest += 1
        self._note()

    def finish(self) -> None:
        """Note for all processes that the write of the newest entry is durable."""
        os.pwrite(self._descriptor, _FLOOR.pack(self.newest), _FINISHED_AT)

    def is_finished(self) -> bool:
        """Whether the write of the newest entry is known to be durable."""
        return os.pread(self._descriptor, _FLOOR.size, _FINISHED_AT) == _FLOOR.pack(self.newest)

    def since(self, version: int) -> Iterator[tuple[int, str]]:
        """(version, key) of each entry after `version`, which is not below the floor."""
        index = version - self.floor
        if index < len(self._starts):
            start = self._starts[index]
            data = os.pread(self._descriptor, self._end - start, start)
            for number, (*_, key) in enumerate(_entries(data, version + 1), version + 1):
                yield number, key

    def tail(self, entries: int) -> bytes:
        """The content of a journal with only the newest `entries`, of which there are that many, and one at least."""
        start = self._starts[-entries]
        return blank(self.newest - entries) + os.pread(self._descriptor, self._end - start, start)

    @property
    def size(self) -> int:
        """The bytes of the file up to its last whole entry."""
        return self._end

    def unchanged_at(self, version: int) -> bool:
        """Whether `version` is the newest one of any process; one stat."""
        inode, end, newest = self.seen
        try:
            found = os.stat(self._path)  # noqa: PTH116  # as in catch_up
        except FileNotFoundError:
            return False
        return found.st_size == end and found.st_ino == inode and newest == version

    def _note(self) -> None:
        self.seen = (self._inode, self._end, self.newest)


def _floor_of(data: bytes) -> int:
    if len(data) < _HEADER.size:
        raise JournalDamaged("no header")
    floor: int
    mark, crc, floor, _ = _HEADER.unpack_from(data)
    if mark != _MARK or crc32(_FLOOR.pack(floor)) != crc:
        raise JournalDamaged("a damaged header")
    return floor


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
