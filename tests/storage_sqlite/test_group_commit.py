"""Writers that wait at the same time share a commit, and each of them gets its own outcome."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import apsw
import pytest

from converge.core.errors import StoreError, VersionConflict
from converge.core.store import DELETED
from converge.extensions.storage.sqlite import SQLiteStore, StoreFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from converge.extensions.storage.sqlite.writer import Writer

CALLERS = 16


class Commits:
    """Counts the commits of a store."""

    def __init__(self, store: SQLiteStore) -> None:
        self.count = 0
        store._database._writer.connection.set_commit_hook(self._counted)

    def _counted(self) -> bool:
        self.count += 1
        return False


def queued(store: SQLiteStore) -> int:
    return len(store._database._commits._waiting)


def wait_for(condition: Callable[[], bool]) -> None:
    ready = threading.Event()
    for _ in range(3000):
        if condition():
            return
        ready.wait(0.01)
    raise AssertionError("it never happened")


@contextmanager
def held_up(store: SQLiteStore) -> Iterator[threading.Event]:
    """While the block runs, a writer holds the store; it ends when the event is set, or with the block."""
    entered, leave = threading.Event(), threading.Event()

    def hold(_: Writer) -> None:
        entered.set()
        leave.wait(30)

    thread = threading.Thread(target=lambda: store._database.write(hold))
    thread.start()
    assert entered.wait(30)
    try:
        yield leave
    finally:
        leave.set()
        thread.join()


def outcomes(store: SQLiteStore, uses: Sequence[Callable[[], object]]) -> list[object]:
    """What each use returns or raises, when all of them, in this order, wait for the same writer."""
    found: list[object] = [None] * len(uses)

    def run(number: int) -> None:
        try:
            found[number] = uses[number]()
        except Exception as error:  # it is the outcome
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(uses))]
    with held_up(store):
        for number, thread in enumerate(threads):
            thread.start()
            wait_for(lambda number=number: queued(store) == number + 2)  # type: ignore[misc]  # the default binds it now
    for thread in threads:
        thread.join()
    return found


def test_callers_that_wait_together_share_one_commit(store: SQLiteStore) -> None:
    commits = Commits(store)
    outcomes(store, [lambda number=number: store.put(f"k{number:02}", number) for number in range(CALLERS)])  # type: ignore[misc]  # bound now
    assert commits.count == 2, "the one that held the others up, and theirs"
    assert [store.get(key) for key in store.list()] == [*range(CALLERS)]
    versions = [found[1] for key in store.list() if (found := store.get_versioned(key))]
    assert versions == sorted(set(versions)), "in the order in which they came"


def test_each_gets_its_own_outcome(store: SQLiteStore) -> None:
    store.put("old", 1)
    cursor, _ = store.changes()
    first, second, lost, conflict, nothing = outcomes(
        store,
        [
            lambda: store.put_if_absent("new", "first"),
            lambda: store.compare_and_set("old", 2, cursor),
            lambda: store.put_if_absent("new", "second"),
            lambda: store.compare_and_set("old", 3, cursor),
            lambda: store.delete("gone"),
        ],
    )
    assert (first, lost, nothing) == (True, False, None)
    assert second == cursor + 2
    assert isinstance(conflict, VersionConflict)
    assert (conflict.expected, conflict.actual) == (cursor, second)
    assert [change[:2] for change in store.changes(cursor)[1]] == [("new", "first"), ("old", 2)]


def test_a_failing_one_takes_none_of_the_others_with_it(store: SQLiteStore) -> None:
    store.put("old", 1)
    cursor, _ = store.changes()
    store._database._writer.connection.limit(apsw.SQLITE_LIMIT_LENGTH, 1_000_000)
    before, big, batch, after = outcomes(
        store,
        [
            lambda: store.put("before", 1),
            lambda: store.put("big", b"x" * 2_000_000),
            lambda: store.put_many({"a": 1, "old": b"x" * 2_000_000}),
            lambda: store.delete("old"),
        ],
    )
    assert (before, after) == (None, None)
    for error in (big, batch):
        assert isinstance(error, StoreFileError)
        assert isinstance(error.__cause__, apsw.TooBigError)
    assert [change[:2] for change in store.changes(cursor)[1]] == [("before", 1), ("old", DELETED)]


def test_a_commit_that_fails_for_all_is_told_to_all(store: SQLiteStore) -> None:
    store.put("k", 0)
    cursor, _ = store.changes()
    connection = store._database._writer.connection
    connection.pragma("max_page_count", connection.pragma("page_count"))
    found = outcomes(store, [lambda: store.put("a", b"x" * 9000), lambda: store.put("b", b"x" * 9000)])
    assert all(isinstance(error, StoreFileError) and error.errno == 28 for error in found)
    assert found[0] is not found[1]
    assert store.changes(cursor) == (cursor, [])
    connection.pragma("max_page_count", 1_000_000)
    store.put("a", 1)
    assert store.get("a") == 1


def test_a_writer_that_waits_while_the_store_is_closed_has_written_or_is_told(store: SQLiteStore) -> None:
    found: list[object] = []

    def write() -> None:
        try:
            store.put("k", 1)
            found.append(None)
        except StoreError as error:
            found.append(str(error))

    threads = [threading.Thread(target=write), threading.Thread(target=store.close)]
    with held_up(store):
        for thread in threads:
            thread.start()
        wait_for(lambda: queued(store) == 2)
    for thread in threads:
        thread.join()
    with SQLiteStore(store._database.path) as again:
        told = f"{store._database.path}: this store is closed; open it again"
        assert (found, again.list()) in (([None], ["k"]), ([told], []))


def test_a_version_counts_on_when_another_object_wrote_in_between(store: SQLiteStore) -> None:
    with SQLiteStore(store._database.path) as other:
        versions = [
            each.compare_and_set(f"k{number}", 1, 0)
            for number in range(4)
            for each in (store, other)
            if (number % 2) == (each is other)
        ]
        assert versions == [1, 2, 3, 4]
        other.delete("k0")
        assert store.compare_and_set("k0", 1, 0) == 6


def test_a_token_that_cannot_be_written_fails_the_write_alone(
    store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SQLiteStore(store._database.path) as other:
        other.put("k", 1)

    def refuse(*_: object) -> int:
        raise OSError(28, "no space")

    with monkeypatch.context() as patched:
        patched.setattr("os.pwrite", refuse)
        with pytest.raises(StoreFileError, match="no space"):
            store.put("k", 2)
    assert store.get_versioned("k") == (1, 1)
    store.put("k", 2)
    assert store.get_versioned("k") == (2, 2)


INTERRUPTED = """
import _thread, signal, sys, threading, time
from converge.extensions.storage.sqlite import SQLiteStore

store = SQLiteStore(sys.argv[1])
stop = threading.Event()
counts = [0] * 4

def write(number):
    while not stop.is_set():
        counts[number] += 1
        store.put(f"{number}-{counts[number]}", 1)

threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
for thread in threads:
    thread.start()
armed = False

def interrupt(*_):
    global armed
    if armed:
        armed = False
        raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.003)
interrupted = mine = 0
while interrupted < 150:
    try:
        armed = True
        while True:
            store.put(f"main-{mine}", 1)
            mine += 1
    except KeyboardInterrupt:
        interrupted += 1
    except BaseException as error:
        print("unexpected", repr(error))
        break
signal.setitimer(signal.ITIMER_REAL, 0)
stop.set()
for thread in threads:
    thread.join(20)
    if thread.is_alive():
        print("stuck")
kept = set(store.list())
lost = [f"{number}-{count}" for number in range(4) for count in range(1, counts[number] + 1)
        if f"{number}-{count}" not in kept]
lost += [f"main-{count}" for count in range(mine) if f"main-{count}" not in kept]
print("lost", lost, "of", sum(counts) > 100 and mine > 0)
sys.stdout.flush()
import os; os._exit(0)
"""


def test_an_interrupted_caller_leaves_the_others_their_turn_and_their_outcome(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "lost [] of True\n", done.stdout + done.stderr
    assert done.returncode == 0
