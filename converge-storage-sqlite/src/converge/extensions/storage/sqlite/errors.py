"""The errors of the SQLite store, and how those of SQLite and of the system become them."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import apsw

from converge.core.errors import StoreCorruption, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = [
    "FAILURES",
    "StoreFileError",
    "StoreFormatError",
    "again_if_corrupt",
    "raise_if_unreadable",
    "translated",
    "translation",
]


class StoreFileError(StoreError, OSError):
    """The file, its folder or the disk did not allow the operation, which changed nothing.

    Attributes: `path`, `reason`, and `errno` where the system gave one.
    """

    def __init__(self, path: str, reason: str, number: int | None = None) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason, self.errno = path, reason, number

    def __reduce__(self) -> tuple[type[StoreFileError], tuple[str, str, int | None]]:
        return type(self), (self.path, self.reason, self.errno)


class StoreFormatError(StoreError, ValueError):
    """The file is not a Converge store that this version can use, or it is damaged. Attributes: `path`, `reason`."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type[StoreFormatError], tuple[str, str]]:
        return type(self), (self.path, self.reason)


_T = TypeVar("_T")
_CHUNK = 65_536
_HINTS: dict[type[Exception], str] = {
    apsw.BusyError: "another program holds the database without taking the lock file; end it and try again",
    apsw.LockedError: "another program holds the database without taking the lock file; end it and try again",
    apsw.ReadOnlyError: "this user may not write it; change the owner or the mode, or name another path",
    apsw.PermissionsError: "this user may not use it; change the owner or the mode, or name another path",
    apsw.CantOpenError: "see that it is a file, not a folder, and that this user may write it and its folder",
    apsw.TooBigError: "SQLite holds at most 1 GB in a value",
}


FAILURES = (apsw.Error, OSError, UnicodeDecodeError)
"""What SQLite and the system raise."""


def translation(error: Exception, path: Path, key: str | None = None) -> Exception:
    """The error about `path` that stands for one of `FAILURES`, to be raised from it."""
    if isinstance(error, (apsw.NotADBError, apsw.CorruptError, UnicodeDecodeError)):
        refusal = _unreadable(path)
        return _damage(str(path), key, error) if refusal is None else refusal
    if isinstance(error, apsw.ConnectionClosedError):
        return StoreError(f"{path}: this store is closed; open it again")
    if isinstance(error, apsw.FullError):
        reason = "the disk is full; free some space and try again (nothing was changed)"
        return StoreFileError(str(path), reason, errno.ENOSPC)
    if isinstance(error, apsw.Error):
        hint = _HINTS.get(type(error), "see that the disk works and has space, then try again (nothing was changed)")
        return StoreFileError(str(path), f"SQLite: {error}; {hint}")
    if isinstance(error, StoreError) or not isinstance(error, OSError):
        return error
    hint = "see that the folder exists and that this user may write it, or name another path"
    return StoreFileError(str(path), f"{error.strerror or error}; {hint}", error.errno)


@contextmanager
def translated(path: Path, key: str | None = None) -> Iterator[None]:
    """Raise what SQLite or the system raises as a `StoreError` about `path`, the cause kept."""
    try:
        yield
    except StoreError:
        raise
    except FAILURES as error:
        raise translation(error, path, key) from error


def again_if_corrupt(act: Callable[[], _T]) -> _T:
    """What `act` returns, tried twice when SQLite speaks of damage: that is how it reports a read that failed (EIO)."""
    try:
        return act()
    except apsw.CorruptError:
        return act()


def raise_if_unreadable(path: Path) -> None:
    """Raise `StoreFileError` when the disk refuses to read the database or its log."""
    refusal = _unreadable(path)
    if refusal is not None:
        raise refusal


def _unreadable(path: Path) -> StoreFileError | None:
    """The error of a disk that refuses to read the database or its log, which SQLite reports as damage.

    The files are opened through SQLite itself: closing any other descriptor of a database drops the POSIX locks that
    SQLite holds on it elsewhere in this process (sqlite.org/howtocorrupt.html, section 2.2).
    """
    for place in (path, path.with_name(f"{path.name}-wal")):
        try:
            place.lstat()
            _read_all(str(place))
        except FileNotFoundError:
            continue  # there need not be a log
        except (apsw.Error, OSError) as error:
            reason = f"{place} cannot be read ({error}); see that the disk works, then try again"
            return StoreFileError(str(path), reason, errno.EIO)
    return None


def _read_all(place: str) -> None:
    file = apsw.VFSFile("", place, [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY, 0])
    try:
        for offset in range(0, size := file.xFileSize(), _CHUNK):
            file.xRead(min(_CHUNK, size - offset), offset)
    finally:
        file.xClose()


def _damage(path: str, key: str | None, error: Exception) -> StoreError:
    if key is not None:
        return StoreCorruption(key, path, f"SQLite: {error}")
    return StoreFormatError(
        path, f"this is no SQLite database, or a damaged one ({error}); restore it from a backup or name another path"
    )
