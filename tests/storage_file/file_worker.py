"""What the tests run in processes of their own: `file_worker.py TASK PATH …`."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
from typing import TYPE_CHECKING

from converge.core.store import DELETED, Write
from converge.extensions.storage.file import FileStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.core.plain import Plain


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
        names = [name for _, _, files in os.walk(path) for name in files]
        clean = not any(name.startswith((".new", ".batch")) for name in names)
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


TASKS: list[Callable[..., None]] = [fill, die_at_each_call]

if __name__ == "__main__":
    next(task for task in TASKS if task.__name__ == sys.argv[1])(*sys.argv[2:])
