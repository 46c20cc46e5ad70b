"""The errors of the SQLite store, and how those of SQLite and of the system become them."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING

import apsw

from converge.core.errors import StoreCorruption, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["FAILURES", "StoreFileError", "StoreFormatError", "translated", "translation"]


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
        return _damage(str(path), key, error)
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


def _damage(path: str, key: str | None, error: Exception) -> StoreError:
    if key is not None:
        return StoreCorruption(key, path, f"SQLite: {error}")
    return StoreFormatError(
        path, f"this is no SQLite database, or a damaged one ({error}); restore it from a backup or name another path"
    )
