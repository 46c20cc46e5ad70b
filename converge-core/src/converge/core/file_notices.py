"""Notices of the writes to a file, from the operating system."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from converge.core.notices import Notices

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FileNotices"]

_WRITTEN, _ATTRIBUTES, _DELETED, _MOVED = 0x2, 0x4, 0x400, 0x800  # inotify(7): IN_MODIFY, IN_ATTRIB, IN_…_SELF
_READ_BYTES = 65_536
_log = logging.getLogger(__name__)


class FileNotices(Notices):
    """Tells of each write to the file that `path` names at the time, also one that has taken its place. Use `of`.

    By inotify(7) of Linux: an event is there as soon as the write has been made, through whatever descriptor and by
    whatever process of this machine; not for writes through a memory map, nor for those that another machine makes to
    a network file system.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._libc = os.fsencode(path), ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._checked(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        try:
            self._watch()
        except BaseException:
            self.close()
            raise

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """Notices of the writes to `path`; None where the system does not give any, or no more of them."""
        if sys.platform != "linux":
            return None
        try:
            return cls(path)
        except (OSError, AttributeError) as error:  # no file, the user's limit is reached, a libc without inotify
            _log.info("no notices of %s (%s); it is asked every few milliseconds instead", path, error)
            return None

    def fileno(self) -> int:
        """The inotify descriptor, -1 when this is closed."""
        return self._descriptor

    def clear(self) -> None:
        """Forget what was told, and from now on watch the file that has the name now."""
        told = b""
        with suppress(BlockingIOError):
            while data := os.read(self._descriptor, _READ_BYTES):
                told = data
        if told and not self._is_of_writes_only(told):
            try:
                self._watch()  # another file may have taken the place of the one that was watched
            except OSError as error:
                _log.info("no more notices of %s: %s", os.fsdecode(self._path), error)

    def close(self) -> None:
        """Tell no more, and give the descriptor back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _watch(self) -> None:
        events = ctypes.c_uint32(_WRITTEN | _ATTRIBUTES | _DELETED | _MOVED)
        self._checked(self._libc.inotify_add_watch(self._descriptor, self._path, events))

    @staticmethod
    def _is_of_writes_only(events: bytes) -> bool:
        """Whether nothing has become of the file: equal events that nobody has read yet are one."""
        return len(events) == 16 and int.from_bytes(events[4:8], sys.byteorder) == _WRITTEN

    @staticmethod
    def _checked(result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result
