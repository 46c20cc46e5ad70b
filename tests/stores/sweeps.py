"""Fail the n-th call of an operation, for n = 1, 2, 3 … until it makes fewer: `sweeps.py SWEEP MODES KIND ROOT [NAME]`.

Prints JSON: in how many cases a call failed, which errors the stores raised, and what was wrong, in sentences.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import threading
from collections import Counter
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from converge.core.errors import StoreError
from converge.core.store import DELETED, VersionedStore
from tests.stores.kinds import REMEMBERED, open_store, stored
from tests.stores.operations import BEFORE, READS, WRITES, Operation, damage, filled, shown, version
from tests.stores.reader import Reader
from tests.stores.replica import Replica
from tests.stores.syscall_faults import Disk, Mode, attach
from tests.stores.syscalls import FAILS_WITH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from converge.core.plain import Plain

MODES_OF: dict[str, dict[int, Mode]] = {
    "once": dict.fromkeys(FAILS_WITH, "once"),
    "broken": {errno.ENOSPC: "filling", errno.EIO: "on", errno.EROFS: "on", errno.EMFILE: "on"},
}
"""The fault is over at once, or lasts. A lock is refused once only: SQLite takes that for one that another program
holds, and waits ten seconds for it."""
WRITERS = 3
MOST_CALLS = 500


class Case(NamedTuple):
    """One fault in one operation."""

    name: str
    number: int
    mode: Mode
    nth: int

    def __str__(self) -> str:
        calls = f"call {self.nth}" if self.mode == "once" else f"call {self.nth} and all later ones"
        return f"{self.name}: {calls} ({self.mode}) with {errno.errorcode[self.number]}"


class Sweeper:
    """Makes a fresh store for each case, and keeps what was wrong."""

    def __init__(self, kind: str, root: Path, modes: dict[int, Mode], disk: Disk, reader: Reader) -> None:
        self.kind, self.root, self.disk, self.reader = kind, root, disk, reader
        self.modes = modes
        self.place = root / "disk" / "store"
        self.faults = 0
        self.breaks_off = 1  # the first call without which a write to several keys is still accepted
        self.raised: Counter[str] = Counter()
        self.wrong: list[str] = []

    def sweep(self, name: str, test: Callable[[Sweeper, Case], None]) -> None:
        """Run `test` with each fault that fits, on a store of its own."""
        for case in self._cases(name):
            try:
                test(self, case)
            except Exception as error:  # a store may raise anything
                what = self.disk.fault.what.decode(errors="replace")
                self.wrong.append(f"{case}, {what}: {type(error).__name__}: {error}"[:700])
            finally:
                shutil.rmtree(self.root / "disk", ignore_errors=True)

    def _cases(self, name: str) -> Iterator[Case]:
        for number, mode in self.modes.items():
            for nth in count(1):
                yield Case(name, number, mode, nth)
                if not self.disk.fault.injected:
                    break
                assert nth < MOST_CALLS, f"{name} makes no end of calls"
                self.faults += 1

    def attempt(self, act: Callable[[], object]) -> tuple[object, Exception | None]:
        """What an operation returned, or the error that it may raise when a call of the system fails."""
        return self.disk.call(lambda: self.attempt_here(act))

    def attempt_here(self, act: Callable[[], object]) -> tuple[object, Exception | None]:
        """The same for a thread whose calls can fail."""
        try:
            return act(), None
        except (OSError, StoreError) as error:
            if self.disk.fault.injected:
                self.raised[f"{type(error).__name__} {errno.errorcode[self.disk.fault.number]}"] += 1
            return None, error

    def elsewhere(self) -> dict[str, Plain]:
        """What another process reads that opens the store now."""
        return self.reader.stored(self.kind, self.place)


def write(operation: Operation, more_writes: int = 0) -> Callable[[Sweeper, Case], None]:
    """A write takes place or raises, as everybody sees it, and the store goes on."""

    def test(sweeper: Sweeper, case: Case) -> None:
        with ExitStack() as stack:
            store = filled(sweeper.kind, sweeper.place, stack, more_writes)
            replica = Replica(store)
            newest, _ = store.changes()
            with sweeper.disk.failing(case.number, case.nth, case.mode):
                returned, raised = sweeper.attempt(lambda: operation.act(store))
                expected = BEFORE if raised else operation.done
                if case.mode != "once":
                    read_on_the_broken_disk(sweeper, store, expected)
            outcome = f"after {raised!r}" if raised else "after it returned"
            assert raised or returned == operation.returns, f"it returned {returned!r}"
            if raised and case.mode == "once":
                killed = sweeper.reader.stored_after_a_kill(sweeper.kind, sweeper.place)
                same(killed, expected, f"{outcome} and a kill another process")
            opened_early = case.nth % 2 == 1  # by which another process may mend what this one then need not
            if opened_early:
                same(sweeper.elsewhere(), expected, f"{outcome} another process")
            same(stored(store), expected, f"{outcome} the store")
            for key in ("k", "n", "m", "gone"):
                same(store.get(key), expected.get(key), f"{outcome} get({key!r})")
            same(replica.poll(), expected, f"{outcome} a follower")
            assert store.compare_and_set("later", 1, 0) > newest, f"{outcome} a version is given again"
            store.put("k", "last")
            expected = expected | {"later": 1, "k": "last"}
            same(stored(store), expected, f"{outcome} and two writes the store")
            same(replica.poll(), expected, f"{outcome} and two writes a follower")
            if not opened_early:
                same(sweeper.elsewhere(), expected, f"{outcome} and two writes another process")
        with open_store(sweeper.kind, sweeper.place) as store:
            same(stored(store), expected, f"{outcome} a later opening")

    return test


def read_on_the_broken_disk(sweeper: Sweeper, store: VersionedStore, expected: dict[str, Plain]) -> None:
    """A reader is told that the disk fails, or gets what is true."""
    injected = sweeper.disk.fault.injected
    for key in ("k", "n", "other"):
        value, error = sweeper.attempt(lambda key=key: store.get(key))  # type: ignore[misc]  # a default binds the key
        assert error or value == expected.get(key), f"on the broken disk get({key!r}) is {shown(value)}"
    keys, error = sweeper.attempt(store.list)
    assert error or keys == sorted(expected), f"on the broken disk list is {keys}"
    fed, error = sweeper.attempt(lambda: {change.key: change.value for change in store.changes(0)[1]})
    if isinstance(fed, dict):
        present = {key: value for key, value in fed.items() if value is not DELETED}
        same(present, expected, "on the broken disk the feed")
    sweeper.disk.fault.injected = injected  # the sweep ends when the operation itself makes no more calls


def together(sweeper: Sweeper, case: Case) -> None:
    """Several threads write at once, as one commit or not: each is told the truth about its own write."""
    with ExitStack() as stack:
        store = filled(sweeper.kind, sweeper.place, stack)
        replica = Replica(store)
        outcomes: dict[str, Exception | None] = {}
        barrier = threading.Barrier(WRITERS)

        def put(key: str) -> None:
            barrier.wait(30)
            outcomes[key] = sweeper.attempt_here(lambda: store.put(key, 1))[1]

        threads = [threading.Thread(target=put, args=(f"by {number}",)) for number in range(WRITERS)]

        def start() -> None:
            for thread in threads:
                thread.start()

        with sweeper.disk.failing(case.number, case.nth, case.mode):
            sweeper.disk.call(start)
            for thread in threads:
                thread.join(60)
        assert len(outcomes) == WRITERS, "a writer hangs, or raised something else"
        expected = BEFORE | {key: 1 for key, error in outcomes.items() if error is None}
        same(stored(store), expected, f"after {outcomes} the store")
        same(replica.poll(), expected, f"after {outcomes} a follower")
        same(sweeper.elsewhere(), expected, f"after {outcomes} another process")
        store.put("k", "last")
    same(sweeper.elsewhere(), expected | {"k": "last"}, f"after {outcomes} and a write another process")


def read(act: Callable[[VersionedStore], object], *, unfinished: bool) -> Callable[[Sweeper, Case], None]:
    """A read gives what is true or raises; it never takes what it cannot read for absent.

    `unfinished`: the latest write is one that another object could not bring to its end, if there is such a thing.
    """

    def test(sweeper: Sweeper, case: Case) -> None:
        with ExitStack() as stack:
            store = filled(sweeper.kind, sweeper.place, stack)
            replica = Replica(store)
            other = stack.enter_context(open_store(sweeper.kind, sweeper.place))
            expected = BEFORE | {"latest": 1, "k": "batch"}
            if unfinished:
                break_off(sweeper, other)
            else:
                other.put_many({"latest": 1, "k": "batch"})
            true = act(store) if not unfinished else None
            with sweeper.disk.failing(case.number, case.nth, case.mode):
                returned, raised = sweeper.attempt(lambda: act(store))
            true = act(store) if unfinished else true
            assert raised or returned == true, f"it returned {shown(returned)}, not {shown(true)}"
            same(act(store), true, f"after {raised!r} the same read")
            same(stored(store), expected, f"after {raised!r} the store")
            same(replica.poll(), expected, f"after {raised!r} a follower")

    return test


def break_off(sweeper: Sweeper, store: VersionedStore) -> None:
    """Put two keys with the disk breaking as late as it can without the put being refused."""
    for nth in count(sweeper.breaks_off):
        sweeper.breaks_off = nth
        with sweeper.disk.failing(errno.EIO, nth, "on"), suppress(OSError, StoreError):
            sweeper.disk.call(lambda: store.put_many({"latest": 1, "k": "batch"}))
            return


def follow(sweeper: Sweeper, case: Case) -> None:
    """A poll that raised has moved nothing; the next one tells everything."""
    with ExitStack() as stack:
        store = filled(sweeper.kind, sweeper.place, stack)
        replica = Replica(store)
        with open_store(sweeper.kind, sweeper.place) as other:
            other.delete("k")
            other.put("latest", 1)
        expected: dict[str, Plain] = {"latest": 1, "other": 1, "third": BEFORE["third"]}
        with sweeper.disk.failing(case.number, case.nth, case.mode):
            raised = sweeper.attempt(replica.poll)[1]
        assert raised or replica.content == expected, f"the poll gave {shown(replica.content)}"
        same(replica.poll(), expected, f"after {raised!r} a follower")


def open_it(*, new: bool, shared: bool = False) -> Callable[[Sweeper, Case], None]:
    """An opening that raised leaves nothing open, and nothing that would keep the next one from working.

    `shared`: another object has the store open all the time.
    """

    def test(sweeper: Sweeper, case: Case) -> None:
        before = descriptors(sweeper.root)
        with ExitStack() as stack:
            if not new:
                filled(sweeper.kind, sweeper.place, stack)
            if shared:
                open_and_go_on(sweeper, case, BEFORE)
        if not shared:
            open_and_go_on(sweeper, case, {} if new else BEFORE)
        # SQLite keeps descriptors for later while other connections of the process are open.
        left = descriptors(sweeper.root) - before
        assert not left, f"descriptors are left open: {left}"

    return test


def open_and_go_on(sweeper: Sweeper, case: Case, expected: dict[str, Plain]) -> None:
    with sweeper.disk.failing(case.number, case.nth, case.mode):
        opened, raised = sweeper.attempt(lambda: open_store(sweeper.kind, sweeper.place))
    outcome = f"after {raised!r}"
    if isinstance(opened, VersionedStore):
        with opened:
            same(stored(opened), expected, "the opened store")
            opened.put("k", "first")
            assert opened.compare_and_set("k", "second", version(opened, "k")), "it takes no writes"
            expected = expected | {"k": "second"}
    del opened, raised  # an error keeps alive what its traceback names
    with open_store(sweeper.kind, sweeper.place) as store:
        same(stored(store), expected, f"{outcome} the next opening")
        store.put("later", 1)
        same(sweeper.elsewhere(), expected | {"later": 1}, f"{outcome} another process")


def close(sweeper: Sweeper, case: Case) -> None:
    """A close that raised loses nothing; closing again leaves no descriptor."""
    before = descriptors(sweeper.root)
    with ExitStack() as stack:
        filled(sweeper.kind, sweeper.place, stack)
    store = open_store(sweeper.kind, sweeper.place)
    store.put("k", "last")
    with sweeper.disk.failing(case.number, case.nth, case.mode):
        raised = sweeper.attempt(store.close)[1]
    store.close()
    left = descriptors(sweeper.root) - before
    assert not left, f"after {raised!r} descriptors are left open: {left}"
    same(sweeper.elsewhere(), BEFORE | {"k": "last"}, f"after {raised!r} another process")


def descriptors(root: Path) -> set[str]:
    """The descriptors of this process in `root`, as "number path"."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that lists
            path = str(Path(f"/proc/self/fd/{number}").readlink())
            if path.startswith(str(root)):
                found.add(f"{number} {path.removeprefix(str(root))}")
    return found


def same(found: object, expected: object, who: str) -> None:
    assert found == expected, f"{who} has {shown(found)}"


SWEEPS: dict[str, dict[str, Callable[[Sweeper, Case], None]]] = {
    "writes": {name: write(operation) for name, operation in WRITES.items()}
    | {"delete that makes the feed forget": write(WRITES["delete"], 2 * REMEMBERED)},
    "threads": {"three threads": together},
    "reads": {name: read(act, unfinished=False) for name, act in READS.items()}
    | {f"{name} after a broken write": read(READS[name], unfinished=True) for name in ("get", "list")}
    | {"following": follow},
    "checks": {"check": read(lambda store: damage(store.check()), unfinished=False)},
    "openings": {
        "opening a new store": open_it(new=True),
        "opening a store": open_it(new=False),
        "opening a store that is open": open_it(new=False, shared=True),
        "closing": close,
    },
}


def main(what: str, modes: str, kind: str, root: str, *names: str) -> None:
    reader = Reader()
    sweeper = Sweeper(kind, Path(root), MODES_OF[modes], attach(), reader)
    for name, test in SWEEPS[what].items():
        if not names or name in names:
            sweeper.sweep(name, test)
    json.dump({"faults": sweeper.faults, "raised": sweeper.raised, "wrong": sweeper.wrong}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
