"""What the tests of the injector run: `probe.py TASK ROOT`."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from tests.stores.syscall_faults import Disk, attach, run

if TYPE_CHECKING:
    from collections.abc import Callable


def outcomes(root: str) -> None:
    """Print how three writes went, with the second call of those that write failing."""
    disk = attach()
    answers: list[object] = []
    file = os.open(f"{root}/file", os.O_RDWR | os.O_CREAT)
    with disk.failing(errno.ENOSPC, 2, "once") as fault:
        answers += [tried(disk, lambda: os.write(file, b"12")) for _ in range(3)]
    answers += [fault.matching, fault.injected, fault.what.decode()]
    with disk.failing(errno.ENOSPC, 2, "on") as fault:
        answers += [tried(disk, lambda: os.write(file, b"12")) for _ in range(3)]
    with disk.failing(errno.ENOSPC, 2, "filling") as fault:
        answers += [tried(disk, lambda: os.write(file, b"12345")) for _ in range(3)]
    answers.append(tried(disk, lambda: os.write(file, b"!")))
    answers.append(Path(f"{root}/file").read_text())
    json.dump(answers, sys.stdout)


def elsewhere(root: str) -> None:
    """Print how calls went that touch another folder, and those in a thread, by a relative path, and to unlock."""
    disk = attach()
    answers: list[object] = []
    os.chdir(root)
    with disk.failing(errno.EIO, 1, "on") as fault:
        answers.append(tried(disk, lambda: len(os.listdir("/dev/fd")) and None))
        answers.append(fault.matching)
        answers.append(tried(disk, lambda: in_a_thread(lambda: Path("relative").mkdir())))
        answers.append(tried(disk, lambda: Path("/nowhere").rename(f"{root}/../{Path(root).name}/there")))
        answers.append(fault.matching)
    json.dump(answers, sys.stdout)


def sleep(root: str) -> None:
    """Wait for ever, with the filter loaded."""
    attach()
    Path(root, "waits").touch()
    signal.pause()


def supervise(root: str) -> None:
    """Run a process that waits for ever."""
    run([__file__, "sleep", root], Path(root), 60.0)


def in_a_thread(call: Callable[[], None]) -> None:
    """Let a new thread do it, and raise what it raised."""
    raised: list[OSError] = []

    def work() -> None:
        try:
            call()
        except OSError as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def tried(disk: Disk, call: Callable[[], object]) -> object:
    try:
        return disk.call(call)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


TASKS: list[Callable[[str], None]] = [outcomes, elsewhere, sleep, supervise]

if __name__ == "__main__":
    next(task for task in TASKS if task.__name__ == sys.argv[1])(sys.argv[2])
