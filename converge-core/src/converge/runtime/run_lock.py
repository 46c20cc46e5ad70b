"""One run of a config at a time: two would use the same identities."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from converge.runtime.errors import AlreadyRunning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["run_lock"]

_GRACE_SEC = 5.0


@contextmanager
def run_lock(
    state: Path, *, grace_sec: float = _GRACE_SEC, sleep: Callable[[float], None] = time.sleep
) -> Iterator[int]:
    """Hold the lock of a run in its state folder; gives its file descriptor, which child processes inherit.

    The lock is an flock(2): the kernel frees it when the last process that has the descriptor is gone, also by kill
    -9. So a run that starts right after another was killed waits up to `grace_sec` seconds for that one's children.
    Raises `AlreadyRunning` after that.
    """
    state.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(state / "run.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        waited = 0.0
        while not _locked(descriptor):
            if waited >= grace_sec:
                holder = os.pread(descriptor, 20, 0).decode(errors="replace") or "unknown"
                raise AlreadyRunning(
                    f"this config is being run already, by process {holder}; stop that one first, "
                    "or give this one another [run] state and [store]"
                )
            sleep(0.05)
            waited += 0.05
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
