"""The folder of a store: its lock, and the few things done to files in it."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from converge.core.errors import StoreError
from converge.extensions.storage.file.names import SHARDS

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Folder", "Irregular", "write_all"]

_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: its fsync leaves data in the drive's cache

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_READ_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_WRITE_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_ADVISE = getattr(os, "posix_fadvise", None)  # on Linux, "not needed" begins to write the file back


class Irregular(ValueError):
    """A file that should hold a record is a folder, a pipe or a device."""


class Folder:
    """An open folder, made with mode 0700 when it is missing; its files have mode 0600.

    A name may be that of a file in a sub-folder: `ab/x.record`. No sub-folder has to be open.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path))  # noqa: PTH100  # links stay as given, `..` must go
        self._start = f"{self.path}/"
        self._process = os.getpid()
        self._closed = False
        self._lock = threading.Lock()
        _make(self.path)
        self._descriptor = os.open(self.path, _READ_FOLDER)
        self.drop = weakref.finalize(self, os.close, self._descriptor)
        _folders.add(self)

    def place(self, name: str) -> str:
        """The path of the file `name`."""
        return self._start + name

    def require_usable(self) -> None:
        """Raise `StoreError` when the folder is closed or another process opened it."""
        if self._closed:
            raise StoreError(f"{self.path}: this store is closed; open it again")
        if os.getpid() != self._process:
            raise StoreError(f"{self.path}: this store was opened before a fork; open it in the child, after the fork")

    def acquire(self) -> None:
        """Have the folder to oneself until `release`, among all threads and processes.

        The kernel frees the lock of a process that dies.
        """
        self.require_usable()
        self._lock.acquire()
        try:
            if self._closed:
                self.require_usable()
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        except BaseException:
            self._lock.release()
            raise

    def release(self) -> None:
        """Let the next one have the folder."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        finally:
            self._lock.release()

    def close(self) -> bool:
        """Close after the operation under way; False when there is nothing to close."""
        if self._closed or os.getpid() != self._process:
            return False
        with self._lock:
            self._closed = True
            self.drop()
        return True

    def names(self, shard: str = "") -> list[str]:
        """The names of all files in the folder itself or in one of its sub-folders, in no order."""
        return os.listdir(self.place(shard))  # noqa: PTH208  # ten times as fast as Paths of all

    def shards(self) -> list[str]:
        """The sub-folders for records that there are."""
        with os.scandir(self.path) as found:
            return sorted(entry.name for entry in found if entry.name in SHARDS and entry.is_dir())

    def names_by_shard(self) -> dict[str, list[str]]:
        """The names of all files in each sub-folder for records; whole only while nobody writes."""
        return {shard: self.names(shard) for shard in self.shards()}

    def exists(self, name: str) -> bool:
        """Whether there is a file `name`, of whatever kind; OSError when the system cannot tell."""
        return self._mode(name, os.lstat) is not None

    def is_link(self, name: str) -> bool:
        """Whether `name` is a symbolic link."""
        mode = self._mode(name, os.lstat)
        return mode is not None and stat.S_ISLNK(mode)

    def _mode(self, name: str, ask: Callable[[str], os.stat_result]) -> int | None:
        try:
            return ask(self._start + name).st_mode
        except FileNotFoundError:
            return None

    def size(self, name: str) -> int:
        """The bytes that the file `name` holds."""
        return os.lstat(self.place(name)).st_size

    def read(self, name: str) -> bytes | None:
        """The content of the file `name`, None when there is none; `Irregular` when it is no file."""
        try:
            descriptor = os.open(self._start + name, _READ)
        except FileNotFoundError:
            return None
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise Irregular("it is not a regular file")
            return _read_all(descriptor, found.st_size)
        finally:
            os.close(descriptor)

    def require_no_folder(self, name: str) -> None:
        """Raise `IsADirectoryError` when a folder has the name `name`, and so no file can take it."""
        mode = self._mode(name, os.stat)
        if mode is not None and stat.S_ISDIR(mode):
            raise IsADirectoryError(
                errno.EISDIR, "a folder is in the place of a record; move it away", self.place(name)
            )

    def create(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """Make the new file `name` with the content `data`, on the disk; it is gone again when that fails.

        Its name is durable with the next `sync` of its folder. A failed fsync is never tried again: the kernel may
        have dropped the pages, and a second one would wrongly succeed.
        """
        descriptor = self.begin(name, data)
        try:
            try:
                if durable:
                    _sync(descriptor)
            finally:
                os.close(descriptor)
        except BaseException:
            self.remove(name)
            raise

    def begin(self, name: str, data: bytes) -> int:
        """Make the new file `name` with the content `data`, and leave it to `finish` to bring that to the disk.

        Returns the descriptor that `finish` takes.
        """
        place = self._start + name
        try:
            descriptor = os.open(place, _WRITE_NEW, 0o600)
        except FileExistsError:  # left by a writer that died
            self.remove(name)
            descriptor = os.open(place, _WRITE_NEW, 0o600)
        try:
            write_all(descriptor, data)
        except BaseException:
            os.close(descriptor)
            self.remove(name)
            raise
        return descriptor

    def finish(self, descriptors: list[int]) -> None:
        """Bring the content of files that were begun to the disk, and close them, also when that fails.

        The system is asked for all of them before the first is waited for, so that a commit of the file system serves
        many.
        """
        try:
            if _ADVISE is not None and len(descriptors) > 1:
                for descriptor in descriptors:
                    _ADVISE(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            for descriptor in descriptors:
                _sync(descriptor)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def make_folder(self, name: str) -> None:
        """Make the sub-folder `name` unless it is there; it is durable with the next `sync` of this folder."""
        with suppress(FileExistsError):
            os.mkdir(self.place(name), 0o700)  # noqa: PTH102  # as with the other calls

    def remove_folder(self, name: str) -> None:
        """Remove the empty sub-folder `name`."""
        os.rmdir(self.place(name))  # noqa: PTH106  # as with the other calls

    def move(self, old: str, new: str) -> None:
        """Give the file `old` the name `new`, in the place of what has it."""
        os.rename(self._start + old, self._start + new)  # noqa: PTH104  # a Path costs more than the call

    def link(self, old: str, new: str) -> None:
        """Give the file `old` the name `new` too."""
        os.link(self.place(old), self.place(new))

    def remove(self, name: str) -> None:
        """Remove the file `name`; an absent one is no error."""
        with suppress(FileNotFoundError):
            os.unlink(self.place(name))  # noqa: PTH108  # a Path costs more than the call

    def sync(self, shard: str = "") -> None:
        """Make the names in the folder itself, or in one of its sub-folders, durable."""
        if not shard:
            _sync(self._descriptor)
            return
        descriptor = os.open(self._start + shard, _READ_FOLDER)
        try:
            _sync(descriptor)
        finally:
            os.close(descriptor)

    def content(self, name: str) -> bytes | None:
        """What `restore` needs to know of the file `name`, which is about to be replaced; None when there is none.

        It is read, since a descriptor that outlives the name makes the system drop the file in a commit of its own.
        """
        try:
            return self.read(name)
        except Irregular:
            return b""  # what stands there is no record, nor is this

    def restore(self, name: str, content: bytes | None, temporary: str) -> None:
        """The file `name` has its former content again, or is absent again: readers then see what was accepted.

        The disk itself may be in either state after a failed sync.
        """
        if content is None:
            self.remove(name)
            return
        try:
            self.create(temporary, content)
        except OSError:  # the disk fails again; the readers of now are served all the same
            self.create(temporary, content, durable=False)
        self.move(temporary, name)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`, which the system may take in pieces."""
    written = 0
    while written < len(data):
        written += os.write(descriptor, memoryview(data)[written:] if written else data)


def _read_all(descriptor: int, size: int) -> bytes:
    data = os.read(descriptor, size + 1)
    while 0 < len(data) < size and (piece := os.read(descriptor, size)):
        data += piece
    return data


def _sync(descriptor: int) -> None:
    if _FULL_SYNC is None:
        os.fsync(descriptor)
    else:
        fcntl.fcntl(descriptor, _FULL_SYNC)


def _make(folder: Path) -> None:
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(0o700, parents=True, exist_ok=True)
    for place in missing:
        descriptor = os.open(place.parent, _READ_FOLDER)
        try:
            _sync(descriptor)
        finally:
            os.close(descriptor)


_folders: weakref.WeakSet[Folder] = weakref.WeakSet()


def _drop_inherited_locks() -> None:
    # A child that keeps its copy of the descriptor would keep the lock of a parent that dies while it writes.
    for folder in list(_folders):
        folder.drop()


os.register_at_fork(after_in_child=_drop_inherited_locks)
