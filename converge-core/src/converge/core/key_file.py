"""Private keys on disk: files that only their owner can read, and that are whole or absent."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from typing import TYPE_CHECKING

from converge.core.errors import IdentityError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_key_file", "write_key_file"]

_MAX_BYTES = 64 * 1024
_HAS_MODES = os.name == "posix"


def write_key_file(path: Path, content: bytes) -> None:
    """Make the file `path` with mode 0600; after a crash at any instant it is whole or absent.

    Raises `FileExistsError` when there is something at `path` already; it is never overwritten.
    """
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.tmp")
    _write_new(temporary, content)
    try:
        os.link(temporary, path)  # unlike a rename, a link never replaces what is there
    except FileExistsError:
        raise FileExistsError(
            errno.EEXIST,
            "there is a file already, and a key is never overwritten; move it away or save elsewhere",
            str(path),
        ) from None
    finally:
        temporary.unlink()
    _sync_folder(path.parent)


def read_key_file(path: Path) -> bytes:
    """The content of the key file `path`.

    Raises `IdentityError` when the group or others may touch it, or when it cannot be a key file; `OSError` when it
    cannot be opened.
    """
    # O_NONBLOCK: opening a FIFO would wait for its writer. Judging the descriptor, not the path, leaves no race.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _check_status(os.fstat(descriptor), path)
        with open(descriptor, "rb", closefd=False) as file:  # a descriptor, not a path
            content = file.read(_MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > _MAX_BYTES:
        raise IdentityError(f"{path} has more than {_MAX_BYTES} bytes; that is no key file")
    return content


def _check_status(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise IdentityError(f"{path} is not a regular file; a key file is")
    if _HAS_MODES and status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise IdentityError(f"{path} has mode {mode:04o}: others can reach the private key; run: chmod 600 {path}")


def _write_new(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o600)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123  # a descriptor, not a path
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        path.unlink()
        raise


def _sync_folder(folder: Path) -> None:
    if not _HAS_MODES:
        return  # only POSIX can open a folder to flush it
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
