"""What the tests run in processes of their own: `file_worker.py TASK PATH …`."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from typing import TYPE_CHECKING

from converge.core.errors import StoreError, VersionConflict
from converge.core.store import DELETED, Write
from converge.extensions.storage.file import FileStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.core.plain import Plain


def wait_until(instant: float) -> None:
    """Sleep, then spin for the last millisecond, so that several processes act at one instant on few cores."""
    while (left := instant - time.time()) > 0:
        if left > 0.0015:
            time.sleep(left - 0.001)


class CheckThenPut(FileStore):
    """The mistake that the race test has to catch."""

    def put_if_absent(self, key: str, value: Plain) -> bool:
        if self.get(key) is not None:
            return False
        self.put(key, value)
        return True


def race(path: str, start: str, name: str, kind: str, keys: str) -> None:
    """Print the keys that this process won."""
    store = (CheckThenPut if kind == "mutant" else FileStore)(path)
    won = []
    for number in range(int(keys)):
        wait_until(float(start) + number * 0.008)
        if store.put_if_absent(f"k{number}", name):
            won.append(f"k{number}")
    sys.stdout.write(json.dumps(won))


def increment(path: str, start: str, times: str) -> None:
    """Count up with compare-and-set; print the versions."""
    store = FileStore(path)
    versions: list[int] = []
    wait_until(float(start))
    while len(versions) < int(times):
        found = store.get_versioned("counter")
        assert found is not None
        assert isinstance(found[0], int)
        try:
            versions.append(store.compare_and_set("counter", found[0] + 1, found[1]))
        except VersionConflict:
            continue
    sys.stdout.write(json.dumps(versions))


def first_open(path: str, start: str, name: str) -> None:
    """Open a folder that nobody has made yet."""
    wait_until(float(start))
    with FileStore(path) as store:
        store.put(name, name)


def write_until_killed(path: str, seed: str) -> None:
    """Write in every way there is; print each effect and the newest version once it is accepted."""
    store, chance = FileStore(path), random.Random(int(seed))
    for number in range(1_000_000):
        key, value = f"{seed}-{number}", "x" * chance.randrange(20_000)
        done = {key: len(value)}
        if number % 4 == 0:
            store.put_many({f"batch-{part}": f"{seed}-{number}" for part in range(4)} | {key: value})
        elif number % 4 == 1:
            store.compare_and_set(key, value, 0)
        elif number % 4 == 2:
            store.put(key, value)
        else:
            gone = f"{seed}-{number - 1}"
            store.delete(gone)
            done = {gone: -1}
        os.write(1, (json.dumps([done, store.changes()[0]]) + "\n").encode())


def say_when_told(path: str) -> None:
    """Put what stands on each line of the standard input."""
    store = FileStore(path)
    for line in sys.stdin:
        store.put(line.strip(), None)


def follow(path: str, keys: str) -> None:
    """Follow the feed until so many keys have been seen; print them with their values."""
    store = FileStore(path)
    cursor, changes = store.changes(0)
    seen = {change.key: change.value for change in changes if change.value is not DELETED}
    os.write(1, b"following\n")
    while len(seen) < int(keys):
        if store.may_have_changed(cursor):
            cursor, changes = store.changes(cursor)
            seen |= {change.key: change.value for change in changes if change.value is not DELETED}
    sys.stdout.write(json.dumps(seen))


def fork_and_use(path: str) -> None:
    """Print what a child gets that uses its parent's store, and whether the parent's still works."""
    store = FileStore(path)
    store.put("before", 1)
    child = os.fork()
    if child == 0:
        answers = []
        uses: list[Callable[[], object]] = [
            lambda: store.get("before"), lambda: store.put("k", 1), store.list, store.changes,
            lambda: store.may_have_changed(0),
        ]  # fmt: skip
        for use in uses:
            try:
                use()
            except StoreError as error:
                answers.append(str(error))
        store.close()
        with FileStore(path) as own:
            own.put("child", 1)
        os.write(1, json.dumps(answers).encode())
        os._exit(0)
    os.waitpid(child, 0)
    store.put("after", 1)
    assert store.list() == ["after", "before", "child"]


def die_holding_the_lock(path: str) -> None:
    """Leave a child that outlives this process, which is to be killed while it holds the lock."""
    store = FileStore(path)
    if os.fork() == 0:
        sys.stdin.read()
        os._exit(0)
    with store._ledger.locked():
        os.write(1, b"locked\n")
        signal.pause()


def put_numbers(store: FileStore) -> None:
    for number in range(1000):
        store.put("k", number)


def fill(path: str) -> None:
    """Write more than a file may hold; print how it was refused, what is there, and what came after."""
    store = FileStore(path)
    store.put_many({"old": "old", "other": 1})
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    refused = []
    writes: list[Callable[[], object]] = [
        lambda: store.put("old", "x" * 9000),
        lambda: store.put_if_absent("new", "x" * 9000),
        lambda: store.put_many({"other": 2, "old": "x" * 9000}),
        lambda: put_numbers(store),  # until the journal may not grow
    ]
    for write in writes:
        try:
            write()
        except OSError as error:
            refused.append(type(error).__name__)
    held = {key: store.get(key) for key in store.list() if key != "k"}
    last = store.get("k")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    cursor, _ = store.changes()
    store.put("later", 1)
    seen = [change.key for change in store.changes(cursor)[1]]
    sys.stdout.write(json.dumps([refused, held, last == store.get("k"), seen]))


OPERATIONS: dict[str, tuple[Callable[[FileStore], object], dict[str, Plain]]] = {
    "put": (lambda store: store.put("a", "new"), {"a": "new", "b": "old"}),
    "put_if_absent": (lambda store: store.put_if_absent("c", "new"), {"a": "old", "b": "old", "c": "new"}),
    "delete": (lambda store: store.delete("a"), {"b": "old"}),
    "put_many": (
        lambda store: store.put_many({"a": "new", "b": "new", "c": "new"}),
        {"a": "new", "b": "new", "c": "new"},
    ),
    "delete_many": (lambda store: store.delete_many(["a", "b"]), {}),
    "compare_and_set_many": (
        lambda store: store.compare_and_set_many(
            [Write("a", "new", version(store, "a")), Write("b", "wrong", 0), Write("c", "new", 0)]
        ),
        {"a": "new", "b": "old", "c": "new"},
    ),
}


def version(store: FileStore, key: str) -> int:
    found = store.get_versioned(key)
    assert found is not None
    return found[1]


def die_at_each_call(path: str, operation: str) -> None:
    """Kill a writer before each call that changes the disk; print for each how the others and an opener find it.

    One of "old", "new" and "torn", and whether a version was used again.
    """
    operate, done = OPERATIONS[operation]
    before: dict[str, Plain] = {"a": "old", "b": "old"}
    outcomes = []
    for nth in range(1, 100):
        shutil.rmtree(path, ignore_errors=True)
        live = FileStore(path)
        live.put_many(before)
        cursor, _ = live.changes()
        child = os.fork()
        if child == 0:
            with FileStore(path) as store:
                _die_at(nth)
                operate(store)
                os._exit(0)
        killed = os.waitpid(child, 0)[1] != 0
        seen = [{key: live.get(key) for key in ("a", "b", "c") if live.get(key) is not None}]
        seen.append({key: live.get(key) for key in live.list()})
        replica = dict(before)
        for key, value, _ in live.changes(cursor)[1]:
            replica.pop(key, None)
            if value is not DELETED:
                replica[key] = value
        with FileStore(path) as opened:
            seen += [replica, {key: opened.get(key) for key in opened.list()}]
            newest = max((version(opened, key) for key in opened.list()), default=cursor)
            reused = opened.compare_and_set("later", 1, 0) <= max(newest, cursor)
        live.close()
        clean = not any(name.startswith((".new", ".batch")) for name in os.listdir(path))
        kinds = {"new" if state == done else "old" if state == before else "torn" for state in seen}
        outcomes.append([*sorted(kinds), clean and not reused])
        if not killed:
            break
    sys.stdout.write(json.dumps(outcomes))


def _die_at(nth: int) -> None:
    left = [nth]

    def dying(call: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*arguments: object, **named: object) -> object:
            left[0] -= 1
            if left[0] == 0:
                if call is os_write:  # half of it gets to the file
                    call(arguments[0], arguments[1][: len(arguments[1]) // 2])  # type: ignore[index,arg-type]  # bytes
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return wrapped

    os_write = os.write
    for name in ("fsync", "ftruncate", "open", "rename", "unlink", "write"):
        setattr(os, name, dying(getattr(os, name)))


TASKS: list[Callable[..., None]] = [
    race,
    increment,
    first_open,
    write_until_killed,
    say_when_told,
    follow,
    fork_and_use,
    die_holding_the_lock,
    fill,
    die_at_each_call,
]

if __name__ == "__main__":
    next(task for task in TASKS if task.__name__ == sys.argv[1])(*sys.argv[2:])
