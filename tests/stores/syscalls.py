"""The calls of the Linux kernel that touch files: their numbers, what they touch, and with which errors they fail."""

from __future__ import annotations

import errno
import os
import platform
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ARCHITECTURE", "CALLS", "FAILS_WITH", "Architecture", "Call", "Memory", "kind_of", "paths_of"]


class Architecture(NamedTuple):
    """What differs between the platforms: the mark of the kernel's audit, and the number of seccomp(2)."""

    audit: int
    seccomp: int


_ARCHITECTURES = {"x86_64": Architecture(0xC000003E, 317), "aarch64": Architecture(0xC00000B7, 277)}
ARCHITECTURE = _ARCHITECTURES.get(platform.machine())
"""That of this machine, None when its calls are not in the table below."""


class Call(NamedTuple):
    """One call of the kernel.

    `touches` says where in the arguments the files stand: `f0` a descriptor in argument 0, `p0` a path, `a0` the
    descriptor of a folder and then a path.
    """

    name: str
    kind: str
    touches: tuple[str, ...]


# The numbers are those of x86_64 and of aarch64 (the kernel's asm-generic/unistd.h); -1 where a call does not exist.
_TABLE: list[tuple[str, str, str, int, int]] = [
    ("read", "read", "f0", 0, 63),
    ("write", "write", "f0", 1, 64),
    ("open", "open", "p0", 2, -1),
    ("stat", "stat", "p0", 4, -1),
    ("fstat", "stat", "f0", 5, 80),
    ("lstat", "stat", "p0", 6, -1),
    ("pread64", "read", "f0", 17, 67),
    ("pwrite64", "write", "f0", 18, 68),
    ("readv", "read", "f0", 19, 65),
    ("writev", "write", "f0", 20, 66),
    ("access", "stat", "p0", 21, -1),
    ("fcntl", "lock", "f0", 72, 25),
    ("flock", "lock", "f0", 73, 32),
    ("fsync", "sync", "f0", 74, 82),
    ("fdatasync", "sync", "f0", 75, 83),
    ("truncate", "truncate", "p0", 76, 45),
    ("ftruncate", "truncate", "f0", 77, 46),
    ("rename", "rename", "p0 p1", 82, -1),
    ("mkdir", "mkdir", "p0", 83, -1),
    ("rmdir", "unlink", "p0", 84, -1),
    ("creat", "create", "p0", 85, -1),
    ("link", "link", "p0 p1", 86, -1),
    ("unlink", "unlink", "p0", 87, -1),
    ("readlink", "stat", "p0", 89, -1),
    ("fchmod", "chmod", "f0", 91, 52),
    ("getdents64", "read", "f0", 217, 61),
    ("openat", "open", "a0", 257, 56),
    ("mkdirat", "mkdir", "a0", 258, 34),
    ("newfstatat", "stat", "a0", 262, 79),
    ("unlinkat", "unlink", "a0", 263, 35),
    ("renameat", "rename", "a0 a2", 264, 38),
    ("linkat", "link", "a0 a2", 265, 37),
    ("symlinkat", "link", "a1", 266, 36),
    ("readlinkat", "stat", "a0", 267, 78),
    ("fchmodat", "chmod", "a0", 268, 53),
    ("faccessat", "stat", "a0", 269, 48),
    ("sync_file_range", "sync", "f0", 277, 84),
    ("fallocate", "allocate", "f0", 285, 47),
    ("preadv", "read", "f0", 295, 69),
    ("pwritev", "write", "f0", 296, 70),
    ("renameat2", "rename", "a0 a2", 316, 276),
    ("copy_file_range", "write", "f2", 326, 285),
    ("preadv2", "read", "f0", 327, 286),
    ("pwritev2", "write", "f0", 328, 287),
    ("statx", "stat", "a0", 332, 291),
    ("faccessat2", "stat", "a0", 439, 439),
]
CALLS: dict[int, Call] = {
    number: Call(name, kind, tuple(touches.split()))
    for name, kind, touches, x86_64, aarch64 in _TABLE
    if (number := x86_64 if platform.machine() == "x86_64" else aarch64) >= 0
}
"""By number, on this machine. `close` is missing: it frees the descriptor whatever it returns."""

_MAKES = {"create", "link", "mkdir", "rename"}
_CHANGES = _MAKES | {"open for writing", "truncate", "unlink"}
FAILS_WITH: dict[int, frozenset[str]] = {
    errno.ENOSPC: frozenset(_MAKES | {"write", "truncate", "allocate"}),
    errno.EIO: frozenset(_CHANGES | {"write", "allocate", "chmod", "open", "read", "stat", "sync"}),
    errno.EROFS: frozenset(_CHANGES | {"chmod"}),
    errno.EMFILE: frozenset({"create", "open", "open for writing"}),
    errno.ENOLCK: frozenset({"lock"}),
}
"""For each error, the kinds of calls that a disk, a file system or a limit can fail with it."""

_AT_CWD = -100
_LONGEST_PATH = 4096
_FLAGS = {"open": 1, "openat": 2}
_LOCKING = {6, 7, 37, 38}  # F_SETLK, F_SETLKW and their F_OFD_ kin
_UNLOCK_FLOCK, _UNLOCK_FCNTL = 8, 2


class Memory:
    """The memory of a stopped process."""

    def __init__(self, pid: int) -> None:
        self._descriptor = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._descriptor)

    def read(self, address: int, size: int) -> bytes:
        """The bytes there; what goes over the end of the mapped memory is left out."""
        return os.pread(self._descriptor, size, address)

    def text(self, address: int) -> str:
        """The string there, which ends with a zero byte."""
        return os.fsdecode(self.read(address, _LONGEST_PATH).split(b"\0")[0])


def kind_of(call: Call, arguments: Sequence[int], memory: Memory) -> str | None:
    """The kind of this very call, None for one that cannot fail: giving a lock back, or asking for flags."""
    if call.kind == "open":
        flags = arguments[_FLAGS[call.name]]
        if flags & os.O_CREAT:
            return "create"
        return "open for writing" if flags & os.O_ACCMODE or flags & os.O_TRUNC else "open"
    if call.name == "flock":
        return None if arguments[1] & _UNLOCK_FLOCK else call.kind
    if call.name == "fcntl":
        if arguments[1] not in _LOCKING:
            return None
        (lock_type,) = struct.unpack("h", memory.read(arguments[2], 2))
        return None if lock_type == _UNLOCK_FCNTL else call.kind
    return call.kind


def paths_of(call: Call, pid: int, arguments: Sequence[int], memory: Memory) -> list[str]:
    """The absolute paths that the call touches; that of a removed file ends in " (deleted)"."""
    found = []
    for place in call.touches:
        shape, index = place[0], int(place[1])
        if shape == "f":
            found.append(_descriptor(pid, arguments[index]))
            continue
        path = memory.text(arguments[index + (shape == "a")])
        if not path.startswith("/"):
            folder = arguments[index] if shape == "a" else _AT_CWD
            path = f"{_descriptor(pid, folder)}/{path}"
        found.append(os.path.normpath(path))
    return found


def _descriptor(pid: int, number: int) -> str:
    number = number & 0xFFFFFFFF
    place = "cwd" if number == _AT_CWD & 0xFFFFFFFF else f"fd/{number}"
    try:
        return os.readlink(f"/proc/{pid}/{place}")  # noqa: PTH115  # a Path costs more than the call
    except OSError:  # no such descriptor: the call fails by itself
        return ""
