"""What the tests of this folder run in processes of their own: `task_worker.py WHAT PATH NAME …`.

Each says that it is ready, and reads from stdin at which Unix time to begin.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

from converge.coordination.ballot import BallotBox
from converge.coordination.errors import ClaimLost
from converge.coordination.pool_manager import PoolManager
from converge.coordination.task_manager import TaskManager
from converge.core.errors import VersionConflict
from converge.extensions.storage.sqlite import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.core.plain import Plain


def wait_until(instant: float) -> None:
    """Sleep, then spin for the last millisecond, so that several processes act at one instant on few cores."""
    while (left := instant - time.time()) > 0:
        if left > 0.0015:
            time.sleep(left - 0.001)


def told_when() -> float:
    """When to begin, which who started this says once all are ready."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    return float(sys.stdin.readline())


class ReadCheckPut(SQLiteStore):
    """The mistake that the race has to catch."""

    def compare_and_set(self, key: str, value: Plain, expected: int) -> int:
        found = self.get_versioned(key)
        if (found[1] if found else 0) != expected:
            raise VersionConflict(key, expected, None)
        self.put(key, value)
        found = self.get_versioned(key)
        assert found is not None
        return found[1]


def claim(path: str, name: str, kind: str, count: str) -> None:
    """Print the tasks that this process claimed, and those whose result it reported."""
    manager = TaskManager((ReadCheckPut if kind == "mutant" else SQLiteStore)(path, durability="process"))
    claimed, reported, start = [], [], told_when()
    for number in range(int(count)):
        wait_until(start + number * 0.008)
        if manager.claim(name, f"t{number}"):
            claimed.append(f"t{number}")
            try:
                manager.report(name, f"t{number}", name)
            except ValueError:
                continue
            reported.append(f"t{number}")
    sys.stdout.write(json.dumps([claimed, reported]))


def end(path: str, name: str, kind: str, count: str) -> None:
    """Report for the holder as w0 and w1, cancel as w2 and w3; print the tasks that this process ended."""
    manager = TaskManager((ReadCheckPut if kind == "mutant" else SQLiteStore)(path, durability="process"))
    ended, start = [], told_when()
    for number in range(int(count)):
        wait_until(start + number * 0.006)
        if name in ("w2", "w3"):
            won = manager.cancel_task(f"t{number}")
        else:
            try:
                manager.report("holder", f"t{number}", name)
                won = True
            except ClaimLost:
                won = False
        if won:
            ended.append(f"t{number}")
    sys.stdout.write(json.dumps(ended))


def join(path: str, name: str, count: str) -> None:
    """Join a pool as several agents, and vote as each."""
    store = SQLiteStore(path, durability="process")
    pools, ballots = PoolManager(store), BallotBox(store)
    wait_until(told_when())
    for number in range(int(count)):
        pools.join_pool(f"{name}-{number}", "p")
        ballots.cast("v", f"{name}-{number}", name)


TASKS: list[Callable[..., None]] = [claim, end, join]

if __name__ == "__main__":
    next(task for task in TASKS if task.__name__ == sys.argv[1])(*sys.argv[2:])
