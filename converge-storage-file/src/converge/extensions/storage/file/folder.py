"""The folder of a store: its lock, and the few things done to files in it."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
import weakref
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from converge.core.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Folder", "Irregular", "write_all"]

_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: its fsync leaves data in the drive's cache
_UNDO = ".new-undo"


class Irregular(ValueError):
    """A file that should hold a record is a folder, a pipe or a device."""


class Folder:
    """An open folder, made with mode 0700 when it is missing; its files have mode 0600."""

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path))  # noqa: PTH100  # links stay as given, `..` must go
        self._process = os.getpid()
        self._closed = False
        self._lock = threading.Lock()
        _make(self.path)
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.drop = weakref.finalize(self, os.close, self._descriptor)
        _folders.add(self)

    def place(self, name: str) -> str:
        """The path of the file `name`."""
        return f"{self.path}/{name}"

    def require_usable(self) -> None:
        """Raise `StoreError` when the folder is closed or another process opened it."""
        if self._closed:
            raise StoreError(f"{self.path}: this store is closed; open it again")
        if os.getpid() != self._process:
            raise StoreError(f"{self.path}: this store was opened before a fork; open it in the child, after the fork")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The block has the folder to itself, among all threads and processes; the kernel frees a dead one's lock."""
        self.require_usable()
        with self._lock:
            self.require_usable()
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> bool:
        """Close after the operation under way; False when there is nothing to close."""
        if self._closed or os.getpid() != self._process:
            return False
        with self._lock:
            self._closed = True
            self.drop()
        return True

    def names(self) -> list[str]:
        """The names of all files, in no order."""
        return os.listdir(self.path)  # noqa: PTH208  # ten times as fast as Paths of all

    def exists(self, name: str) -> bool:
        """Whether there is a file `name`, of whatever kind."""
        return os.path.lexists(self.place(name))

    def read(self, name: str) -> bytes | None:
        """The content of the file `name`, None when there is none; `Irregular` when it is no file."""
        try:
            descriptor = os.open(self.place(name), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Irregular("it is not a regular file")
            return _read_all(descriptor)
        finally:
            os.close(descriptor)

    def require_no_folder(self, name: str) -> None:
        """Raise `IsADirectoryError` when a folder has the name `name`, and so no file can take it."""
        if os.path.isdir(self.place(name)):  # noqa: PTH112  # a Path costs more than the call
            raise IsADirectoryError(
                errno.EISDIR, "a folder is in the place of a record; move it away", self.place(name)
            )

    def create(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """Make the new file `name` with the content `data`, on the disk; it is gone again when that fails.

        Its name is durable with the next `sync`. A failed fsync is never tried again: the kernel may have dropped the
        pages, and a second one would wrongly succeed.
        """
        place, flags = self.place(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            descriptor = os.open(place, flags, 0o600)
        except FileExistsError:  # left by a writer that died
            self.remove(name)
            descriptor = os.open(place, flags, 0o600)
        try:
            try:
                write_all(descriptor, data)
                if durable:
                    _sync(descriptor)
            finally:
                os.close(descriptor)
        except BaseException:
            self.remove(name)
            raise

    def move(self, old: str, new: str) -> None:
        """Give the file `old` the name `new`, in the place of what has it."""
        os.rename(self.place(old), self.place(new))  # noqa: PTH104  # a Path costs more than the call

    def remove(self, name: str) -> None:
        """Remove the file `name`; an absent one is no error."""
        with suppress(FileNotFoundError):
            os.unlink(self.place(name))  # noqa: PTH108  # a Path costs more than the call

    def sync(self) -> None:
        """Make the names in the folder durable."""
        _sync(self._descriptor)

    @contextmanager
    def undone_on_error(self, name: str) -> Iterator[None]:
        """When the block fails, the file `name` has its former content again, or is absent again.

        Readers then see what was accepted. The disk itself may be in either state after a failed sync.
        """
        try:
            former = os.open(self.place(name), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            former = None
        try:
            yield
        except BaseException:
            self._restore(name, former)
            raise
        finally:
            if former is not None:
                os.close(former)

    def _restore(self, name: str, former: int | None) -> None:
        if former is None:
            self.remove(name)
        elif not self._is(name, former):
            self.create(_UNDO, _read_all(former), durable=False)
            self.move(_UNDO, name)

    def _is(self, name: str, descriptor: int) -> bool:
        try:
            found = Path(self.place(name)).stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(descriptor))


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`, which the system may take in pieces."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _read_all(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    pieces = []
    while piece := os.read(descriptor, size + 1):
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _sync(descriptor: int) -> None:
    if _FULL_SYNC is None:
        os.fsync(descriptor)
    else:
        fcntl.fcntl(descriptor, _FULL_SYNC)


def _make(folder: Path) -> None:
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(0o700, parents=True, exist_ok=True)
    for place in missing:
        descriptor = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
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
