"""What Linux has and Python's library has not: prctl(2), and the children of a process."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

__all__ = ["adopt_orphans", "can_isolate", "children_of_mine", "die_with_parent"]

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def can_isolate() -> bool:
    """Whether tools can run in processes here: on Linux, from 3.4 on."""
    return sys.platform == "linux"


def die_with_parent(parent: int) -> None:
    """Let this process be killed when the thread that forked it ends; at once when its parent is not `parent` any more.

    To be called in a child of a process with one thread: it is that thread's end that counts.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends (a child subreaper)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def children_of_mine() -> list[int]:
    """The process ids of the children of this process, those that it has adopted and zombies included."""
    found: list[int] = []
    for thread in os.listdir("/proc/self/task"):  # noqa: PTH208  # names are all it takes
        try:
            found += map(int, Path(f"/proc/self/task/{thread}/children").read_bytes().split())
        except FileNotFoundError:  # the thread has ended, or the kernel is one without CONFIG_PROC_CHILDREN
            return [pid for pid in _all_processes() if _parent_of(pid) == os.getpid()]
    return found


def _all_processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208  # names are all it takes


def _parent_of(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:  # it has ended
        return 0
    return int(stat.rpartition(b")")[2].split()[1])  # after the name, which may have anything in it: state, parent


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")
