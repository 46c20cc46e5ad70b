"""What the tests run in processes of their own: `sqlite_worker.py TASK PATH …`."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import time
from typing import TYPE_CHECKING

from converge.core.errors import StoreError, VersionConflict
from converge.extensions.storage.sqlite import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.core.plain import Plain
    from converge.core.store import VersionedStore


def wait_until(instant: float) -> None:
    """Sleep, then spin for the last millisecond, so that several processes act at one instant on few cores."""
    while (left := instant - time.time()) > 0:
        if left > 0.0015:
            time.sleep(left - 0.001)


class CheckThenPut(SQLiteStore):
    """The mistake that the race test has to catch."""

    def put_if_absent(self, key: str, value: Plain) -> bool:
        if self.get(key) is not None:
            return False
        self.put(key, value)
        return True


def race(path: str, start: str, name: str, kind: str, keys: str) -> None:
    """Print the keys that this process won."""
    store = (CheckThenPut if kind == "mutant" else SQLiteStore)(path, durability="process")
    won = []
    for number in range(int(keys)):
        wait_until(float(start) + number * 0.003)
        if store.put_if_absent(f"k{number}", name):
            won.append(f"k{number}")
    sys.stdout.write(json.dumps(won))


def increment(path: str, start: str, times: str) -> None:
    """Count up with compare-and-set."""
    store = SQLiteStore(path, durability="process")
    wait_until(float(start))
    for _ in range(int(times)):
        increment_once(store)


def increment_once(store: VersionedStore) -> None:
    while True:
        found = store.get_versioned("counter")
        assert found is not None
        assert isinstance(found[0], int)
        try:
            store.compare_and_set("counter", found[0] + 1, found[1])
        except VersionConflict:
            continue
        return


def first_open(path: str, start: str, name: str) -> None:
    """Open a file that nobody has made yet."""
    wait_until(float(start))
    with SQLiteStore(path) as store:
        store.put(name, name)


def write_until_killed(path: str, seed: str) -> None:
    """Write in every way there is; print each effect once it is accepted."""
    store, chance = SQLiteStore(path), random.Random(int(seed))
    for number in range(1_000_000):
        key, value = f"{seed}-{number}", "x" * chance.randrange(20_000)
        if number % 4 == 0:
            store.put_many({key: value, f"{key}-b": value})
            done = {key: len(value), f"{key}-b": len(value)}
        elif number % 4 == 1:
            store.compare_and_set(key, value, 0)
            done = {key: len(value)}
        elif number % 4 == 2:
            store.put(key, value)
            done = {key: len(value)}
        else:
            gone = f"{seed}-{number - 1}"
            store.delete(gone)
            done = {gone: -1}
        os.write(1, (json.dumps(done) + "\n").encode())


def say_when_told(path: str) -> None:
    """Put what stands on each line of the standard input."""
    store = SQLiteStore(path)
    for line in sys.stdin:
        store.put(line.strip(), None)


def fork_and_use(path: str) -> None:
    """Print what a child gets that uses its parent's store, and whether the parent's still works."""
    store = SQLiteStore(path)
    store.put("before", 1)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        answers = []
        uses: list[Callable[[], object]] = [
            lambda: store.get("before"),
            lambda: store.put("k", 1),
            lambda: store.may_have_changed(0),
        ]
        for use in uses:
            try:
                use()
            except StoreError as error:
                answers.append(str(error))
        store.close()
        with SQLiteStore(path) as own:
            own.put("child", 1)
        os.write(1, json.dumps(answers).encode())
        os._exit(0)
    os.waitpid(child, 0)
    store.put("after", 1)
    assert store.list() == ["after", "before", "child"]


def die_holding_the_lock(path: str) -> None:
    """Leave a child that outlives this process, which is to be killed in the middle of a write."""
    store = SQLiteStore(path)
    if os.fork() == 0:
        sys.stdin.read()
        os._exit(0)
    with store._database.writing(10) as batch:
        batch.put("never", b"\xc0")
        os.write(1, b"locked\n")
        signal.pause()


def put_once(path: str) -> None:
    with SQLiteStore(path) as store:
        store.put("k", 1)


def fill(path: str, limit: str) -> None:
    """Write until the file may not grow; print what was accepted, what was refused and how, and what came after."""
    store = SQLiteStore(path, durability="process")
    store.put("old", "old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    accepted, refused = [], ""
    for number in range(1000):
        try:
            store.put_many({f"a{number}": "x" * 9000, "old": number})
        except OSError as error:
            refused = f"{type(error).__name__}: {error}"
            break
        accepted.append(number)
    held = [store.list(), store.get("old")]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    store.put("later", 1)
    sys.stdout.write(json.dumps([len(accepted), refused, held, store.get("later")]))


def open_in_read_only_folder(path: str) -> None:
    """Print the error; root may write anywhere, so become somebody else first."""
    if os.geteuid() == 0:
        os.seteuid(65534)
    try:
        SQLiteStore(path)
    except StoreError as error:
        sys.stdout.write(f"{type(error).__name__}: {error}")


TASKS: list[Callable[..., None]] = [
    race,
    increment,
    first_open,
    write_until_killed,
    say_when_told,
    fork_and_use,
    die_holding_the_lock,
    put_once,
    fill,
    open_in_read_only_folder,
]

if __name__ == "__main__":
    next(task for task in TASKS if task.__name__ == sys.argv[1])(*sys.argv[2:])
