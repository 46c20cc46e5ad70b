"""What the tests of pools run in processes of their own: `pool_worker.py WHAT KIND PATH NAME`, and the
Unix time to begin at on stdin, once it has said that it is ready.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

from converge.coordination.errors import VoteRefused
from converge.coordination.pool_ballots import PoolBallots
from converge.coordination.pool_manager import PoolManager
from converge.core.errors import VersionConflict
from converge.extensions.storage.file import FileStore
from converge.extensions.storage.sqlite import SQLiteStore
from converge.policy.trust import TrustModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.core.plain import Plain
    from converge.core.store import VersionedStore

AGENTS = 40


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


def opened(kind: str, path: str) -> VersionedStore:
    if kind == "file":
        return FileStore(path)
    return (ReadCheckPut if kind == "mutant" else SQLiteStore)(path, durability="process")


def wait_until(instant: float) -> None:
    """Sleep, then spin for the last millisecond, so that several processes act at one instant on few cores."""
    while (left := instant - time.time()) > 0:
        if left > 0.0015:
            time.sleep(left - 0.001)


def join(store: VersionedStore, name: str) -> object:
    """Join a pool as many agents; half of them leave at once. Whether all could."""
    pools = PoolManager(store)
    moved = []
    for number in range(AGENTS):
        moved.append(pools.join_pool(f"{name}-{number}", "p"))
        if number % 2:
            moved.append(pools.leave_pool(f"{name}-{number}", "p"))
    return all(moved)


def vote(store: VersionedStore, name: str) -> object:
    """Vote as everybody, for oneself; whose vote this process brought in."""
    ballots = PoolBallots(PoolManager(store))
    counted = []
    for number in range(AGENTS):
        try:
            if ballots.vote("b", f"agent-{number:02}", name):
                counted.append(f"agent-{number:02}")
        except VoteRefused:
            continue
    return counted


def outcomes(store: VersionedStore, name: str) -> object:
    """Count outcomes that all processes know of; how many this one counted."""
    model = TrustModel(half_life_sec=float("inf"), store=store, name="t")
    return sum(model.record_outcome("a", success=number % 4 > 0, key=f"t{number}#1") for number in range(AGENTS))


WHAT: list[Callable[[VersionedStore, str], object]] = [join, vote, outcomes]

if __name__ == "__main__":
    what, kind, path, name = sys.argv[1:]
    with opened(kind, path) as store:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        wait_until(float(sys.stdin.readline()))
        sys.stdout.write(json.dumps(next(each for each in WHAT if each.__name__ == what)(store, name)))
