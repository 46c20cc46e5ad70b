"""What the contract runs in processes of its own: `worker.py TASK ARGUMENTS`, the first line of input is the opener.

It is run by its path, so that a process starts without pytest. It writes one JSON value a line.
"""
# run by tests, shipped to authors

from __future__ import annotations

import base64
import itertools
import json
import os
import pickle
import random
import sys
import time
from typing import TYPE_CHECKING

from converge.core.errors import StoreError, VersionConflict
from converge.core.plain import unpack
from converge.core.store import Store, VersionedStore, Write
from converge.testing.store.replica import Replica

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.core.plain import Plain

__all__ = [
    "TASKS",
    "increment",
    "main",
    "open_first",
    "overwrite",
    "serve",
    "take",
    "use_after_fork",
    "write_and_delete",
    "write_and_follow",
    "write_much",
    "write_until_killed",
]


def _report(value: object) -> None:
    # One write, so that a process that dies leaves no half line.
    line = json.dumps(value).encode() + b"\n"
    while line:
        line = line[os.write(1, line) :]


def _hear() -> str:
    return sys.stdin.buffer.readline().decode().strip()


def _go() -> float:
    """Say that this process is ready; the instant at which all of them begin, once it has come."""
    _report("ready")
    instant = float(_hear())
    _wait_until(instant)
    return instant


def _wait_until(instant: float) -> None:
    """Sleep, then spin for the last millisecond, so that several processes act at one instant on few cores."""
    while (left := instant - time.monotonic()) > 0:
        if left > 0.0015:
            time.sleep(left - 0.001)


def _versioned(opener: Callable[[], Store]) -> VersionedStore:
    store = opener()
    assert isinstance(store, VersionedStore)
    return store


def take(opener: Callable[[], Store], name: int, keys: int, slot: float) -> None:
    """Put each key if it is absent, one every `slot` seconds; report which ones were won."""
    with opener() as store:
        begin = _go()
        won = []
        for number in range(keys):
            _wait_until(begin + number * slot)
            if store.put_if_absent(f"k{number}", name):
                won.append(number)
    _report(won)


def increment(opener: Callable[[], Store], times: int, slot: float) -> None:
    """Count up with compare-and-set, once every `slot` seconds; report each value written with its version."""
    written: list[tuple[int, int]] = []
    with _versioned(opener) as store:
        begin = _go()
        while len(written) < times:
            _wait_until(begin + len(written) * slot)
            found = store.get_versioned("counter")
            assert found is not None
            assert isinstance(found[0], int)
            try:
                written.append((found[0] + 1, store.compare_and_set("counter", found[0] + 1, found[1])))
            except VersionConflict:
                continue
    _report(written)


def open_first(opener: Callable[[], Store], name: str) -> None:
    """Open what nobody has opened yet, and put a key."""
    _go()
    with opener() as store:
        store.put(name, name)
    _report("done")


def serve(opener: Callable[[], Store]) -> None:
    """Call the method that each line of the input names; report that it has returned."""
    with opener() as store:
        _report("ready")
        while line := _hear():
            method, *arguments = json.loads(line)
            getattr(store, method)(*arguments)
            _report("done")


def write_and_follow(opener: Callable[[], Store], name: str, times: int) -> None:
    """Write own keys and one that all write, and follow the feed; report the replica when everybody has written."""
    with _versioned(opener) as store:
        replica = Replica(store)
        _go()
        for number in range(times):
            if number % 3 == 2:
                store.delete(f"{name}-{(number - 1) % 7}")
            else:
                store.put_many({f"{name}-{number % 7}": number, "common": [name, number]})
            replica.follow()
        _report("written")
        _hear()
        replica.follow()
        _report({key: unpack(packed) for key, packed in replica.held.items()})


def overwrite(opener: Callable[[], Store], key: str, how: str) -> None:
    """Write values of many sizes to one key until killed."""
    with opener() as store:
        for number in itertools.count(1):
            value: Plain = [number, "x" * (number * 7919 % 50_000), number]
            if how == "compare_and_set":
                assert isinstance(store, VersionedStore)
                found = store.get_versioned(key)
                store.compare_and_set(key, value, found[1] if found else 0)
            elif how == "put_many":
                assert isinstance(store, VersionedStore)
                store.put_many({key: value})
            else:
                store.put(key, value)
            if number == 1:
                _report("ready")


def write_until_killed(opener: Callable[[], Store], seed: int) -> None:
    """Write in every way there is; report each effect before it begins and, with the newest version, once accepted."""
    store, chance = opener(), random.Random(seed)
    ways = [_put, _put_if_absent, _delete]
    if isinstance(store, VersionedStore):
        ways += [_compare_and_set, _put_many, _compare_and_set_many, _delete_many]
    for number in itertools.count():
        mark, size = [seed, number], chance.randrange(20_000)
        effect, operate = ways[number % len(ways)](store, mark, "x" * size)
        _report(["begin", effect])
        operate()
        _report(["done", store.changes()[0] if isinstance(store, VersionedStore) else 0])


_Step = tuple[dict[str, "list[int] | None"], "Callable[[], object]"]


def _key_of(mark: list[int], before: int = 0) -> str:
    """The key that the step `before` this one has for itself."""
    return f"{mark[0]}-{mark[1] - before}"


def _put(store: Store, mark: list[int], filling: str) -> _Step:
    return {"hot": mark}, lambda: store.put("hot", [*mark, filling])


def _put_if_absent(store: Store, mark: list[int], filling: str) -> _Step:
    key = _key_of(mark)
    return {key: mark}, lambda: store.put_if_absent(key, [*mark, filling])


def _delete(store: Store, mark: list[int], filling: str) -> _Step:
    key = _key_of(mark, 1)
    return {key: None}, lambda: store.delete(key)


def _compare_and_set(store: Store, mark: list[int], filling: str) -> _Step:
    assert isinstance(store, VersionedStore)
    found = store.get_versioned("swapped")
    version = found[1] if found else 0
    return {"swapped": mark}, lambda: store.compare_and_set("swapped", [*mark, filling], version)


def _put_many(store: Store, mark: list[int], filling: str) -> _Step:
    assert isinstance(store, VersionedStore)
    items: dict[str, Plain] = {f"batch-{part}": [*mark, filling] for part in range(5)}
    return dict.fromkeys(items, mark), lambda: store.put_many(items)


def _compare_and_set_many(store: Store, mark: list[int], filling: str) -> _Step:
    assert isinstance(store, VersionedStore)
    key = _key_of(mark)
    writes = [Write(key, [*mark, filling], 0), Write("hot", "never", 0)]
    return {key: mark}, lambda: store.compare_and_set_many(writes)


def _delete_many(store: Store, mark: list[int], filling: str) -> _Step:
    assert isinstance(store, VersionedStore)
    keys = [f"batch-{part}" for part in range(3)]
    return dict.fromkeys(keys), lambda: store.delete_many(keys)


def write_and_delete(opener: Callable[[], Store], times: int) -> None:
    """Write keys that stay, and between them one that is made and deleted each time; report the end."""
    with opener() as store:
        _go()
        for number in range(times):
            store.put(f"c{number}", number)
            store.put("passing", number)
            store.delete("passing")
    _report("done")


def write_much(opener: Callable[[], Store]) -> None:
    """Leave a child that outlives this process, then make long writes until killed."""
    store = opener()
    if hasattr(os, "fork") and os.fork() == 0:
        sys.stdin.buffer.read()
        os._exit(0)
    large: dict[str, Plain] = {f"large-{number}": "x" * 20_000 for number in range(100)}
    for number in itertools.count():
        if isinstance(store, VersionedStore):
            store.put_many(large)
        else:
            store.put("large", "x" * 2_000_000)
        if number == 0:
            _report("ready")


def use_after_fork(opener: Callable[[], Store]) -> None:
    """Report what a child that uses its parent's store is told, then whether the parent's goes on."""
    store = opener()
    store.put("before", 1)
    child = os.fork()
    if child == 0:
        _report(_refusals(store))
        store.close()
        with opener() as own:
            own.put("child", 1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, "the child could not close its parent's store and open its own"
    store.put("after", 1)
    _report(store.list())
    store.close()


def _refusals(store: Store) -> dict[str, str | None]:
    """Operation → the text of the `StoreError`, or None when it was done."""
    uses: dict[str, Callable[[], object]] = {
        "get": lambda: store.get("before"),
        "list": store.list,
        "put": lambda: store.put("k", 1),
        "put_if_absent": lambda: store.put_if_absent("k", 1),
        "delete": lambda: store.delete("before"),
    }
    if isinstance(store, VersionedStore):
        uses["changes"] = store.changes
        if type(store).may_have_changed is not VersionedStore.may_have_changed:  # the default looks at nothing
            uses["may_have_changed"] = lambda: store.may_have_changed(0)
    answers: dict[str, str | None] = {}
    for name, use in uses.items():
        try:
            use()
        except StoreError as error:
            answers[name] = str(error)
        else:
            answers[name] = None
    return answers


TASKS: dict[str, Callable[..., None]] = {
    task.__name__: task
    for task in (
        increment, open_first, overwrite, serve, take, use_after_fork, write_and_delete, write_and_follow, write_much,
        write_until_killed,
    )
}  # fmt: skip
"""What can be run, by name. Each takes the opener and what JSON carries."""


def main() -> None:
    """Run the task that the command line names."""
    task, arguments = sys.argv[1:]
    packed = base64.b64decode(sys.stdin.buffer.readline())
    try:
        opener = pickle.loads(packed)
    except (ImportError, AttributeError) as error:
        sys.exit(
            f"the fixture `opener` cannot be loaded in a process of its own ({error}): define the store, and what "
            "makes it, at the top of a module that can be imported by its name"
        )
    TASKS[task](opener, *json.loads(arguments))


if __name__ == "__main__":
    main()
