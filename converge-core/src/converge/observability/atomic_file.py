"""Replacing a file whole: after a crash at any instant its old content is there, or the new."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["replace_file"]


def replace_file(path: Path, lines: Iterable[bytes]) -> None:
    """Make `lines`, one after the other, the content of `path`, readable by the owner only.

    When this returns, the content survives a power cut if the device honours a flush. When it raises, whatever
    `lines` or the system raised, what was at `path` is untouched and no other file is left.
    """
    temporary = path.with_name(f".{path.name[:100]}.{os.urandom(8).hex()}.tmp")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o600)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123  # a descriptor, not a path
            file.writelines(lines)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # only POSIX can open a folder to flush it
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
