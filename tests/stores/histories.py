"""Random histories with failing calls, compared with a dict: `histories.py KIND ROOT EXAMPLES STEPS [explore]`.

They are the same each time, unless they are to explore; then a failing one is made short, which may take minutes.

Prints JSON: how many faults were injected.
"""

from __future__ import annotations

import errno
import json
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from converge.core.errors import CursorExpired, StoreError, VersionConflict
from converge.core.store import DELETED, Write
from tests.stores.kinds import open_store, stored
from tests.stores.reader import Reader
from tests.stores.replica import Replica
from tests.stores.syscall_faults import MODES, Disk, Mode, attach

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.core.plain import Plain

KEYS = st.sampled_from(["a", "b", "c", "d"])
LONG: dict[Plain, Plain] = {"long": "x" * 3000, "longer": "y" * 9000}
VALUES: st.SearchStrategy[Plain] = st.none() | st.integers(0, 9) | st.sampled_from(list(LONG))
ITEMS = st.dictionaries(KEYS, VALUES, max_size=4)


class Armed(NamedTuple):
    number: int
    nth: int
    mode: Mode


DISK_FAILS = st.builds(
    Armed, st.just(errno.EIO), st.integers(1, 10) | st.integers(1, 40), st.sampled_from(["once", "on"])
)
DISK_IS_FULL = st.builds(Armed, st.just(errno.ENOSPC), st.integers(1, 4) | st.integers(1, 15), st.sampled_from(MODES))
REFUSED = st.one_of(  # few calls open anything or ask for a lock
    st.builds(Armed, st.just(errno.EROFS), st.integers(1, 6), st.sampled_from(["once", "on"])),
    st.builds(Armed, st.just(errno.EMFILE), st.integers(1, 2), st.sampled_from(["once", "on"])),
    st.builds(Armed, st.just(errno.ENOLCK), st.integers(1, 4), st.just("once")),
)


class Histories(RuleBasedStateMachine):
    """One store, one object that uses the same data besides, and a dict."""

    kind: ClassVar[str]
    root: ClassVar[Path]
    disk: ClassVar[Disk]
    reader: ClassVar[Reader]
    faults: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.place = self.root / "disk" / "store"
        shutil.rmtree(self.root / "disk", ignore_errors=True)
        self.store = open_store(self.kind, self.place)
        self.other = open_store(self.kind, self.place)
        self.replica, self.replica_of_other = Replica(self.store), Replica(self.other)
        self.model: dict[str, Plain] = {}
        self.newest = 0
        self.armed: Armed | None = None

    def act(self, operation: Callable[[], object], after: dict[str, Plain]) -> object:
        """What `operation` returned, with `after` as the new model; None when a fault kept it from its effect."""
        if self.armed is None:
            returned = operation()
            self.model = after
            return returned
        with self.disk.failing(*self.armed) as fault:
            try:
                returned = self.disk.call(operation)
                self.model = after
            except VersionConflict:
                raise
            except (OSError, StoreError):
                assert fault.injected, "it raised though no call has failed"
                returned = None
            if self.armed.mode != "once":
                self.disk.call(self.read_while_broken)
        self.disarm()
        return returned

    def disarm(self) -> None:
        Histories.faults += self.disk.fault.injected > 0
        self.armed = None

    def read_while_broken(self) -> None:
        """A reader is told that the disk fails, or gets what is true."""
        try:
            assert {key: self.store.get(key) for key in "abcd" if self.store.get(key) is not None} == {
                key: value for key, value in self.model.items() if value is not None
            }, "get on the broken disk"
            assert self.store.list() == sorted(self.model), "list on the broken disk"
        except (OSError, StoreError):
            return

    def version_of(self, key: str) -> int:
        found = self.store.get_versioned(key)
        return found[1] if found else 0

    def without(self, *keys: str) -> dict[str, Plain]:
        return {key: value for key, value in self.model.items() if key not in keys}

    @precondition(lambda self: self.armed is None)
    @rule(fault=st.one_of(DISK_FAILS, DISK_IS_FULL, REFUSED))
    def fail_at_nth_call(self, fault: Armed) -> None:
        """The next operation runs with this in its way."""
        self.armed = fault

    @precondition(lambda self: self.armed is None)
    @rule(fault=DISK_FAILS)
    def fail_at_nth_call_of_a_bad_disk(self, fault: Armed) -> None:
        self.armed = fault

    @precondition(lambda self: self.armed is None)
    @rule(fault=DISK_IS_FULL)
    def fail_at_nth_call_of_a_full_disk(self, fault: Armed) -> None:
        self.armed = fault

    @rule(key=KEYS, value=VALUES)
    def put(self, key: str, value: Plain) -> None:
        self.act(lambda: self.store.put(key, LONG.get(value, value)), self.model | {key: LONG.get(value, value)})

    @rule(key=KEYS, value=VALUES)
    def put_with_another_object(self, key: str, value: Plain) -> None:
        self.act(lambda: self.other.put(key, LONG.get(value, value)), self.model | {key: LONG.get(value, value)})

    @rule(key=KEYS, value=VALUES)
    def put_if_absent(self, key: str, value: Plain) -> None:
        absent = key not in self.model
        won = self.act(
            lambda: self.store.put_if_absent(key, LONG.get(value, value)), {key: LONG.get(value, value)} | self.model
        )
        assert won in (None, absent)

    @rule(key=KEYS, value=VALUES)
    def compare_and_set(self, key: str, value: Plain) -> None:
        known = self.version_of(key)
        version = self.act(
            lambda: self.store.compare_and_set(key, LONG.get(value, value), known),
            self.model | {key: LONG.get(value, value)},
        )
        if version is not None:
            assert isinstance(version, int)
            assert version > self.newest, "a version is given again"
            assert self.version_of(key) == version
            self.newest = version

    @rule(key=KEYS)
    def compare_and_set_with_another_version(self, key: str) -> None:
        known = self.version_of(key)
        try:
            done = self.act(lambda: self.store.compare_and_set(key, 1, known + 1), self.model)
        except VersionConflict:
            self.disarm()
        else:
            assert done is None, "a wrong version was accepted"

    @rule(items=ITEMS, wrong=st.booleans())
    def compare_and_set_many(self, items: dict[str, Plain], wrong: bool) -> None:
        items = {key: LONG.get(value, value) for key, value in items.items()}
        writes = [Write(key, value, self.version_of(key) + wrong) for key, value in items.items()]
        results = self.act(lambda: self.store.compare_and_set_many(writes), self.model | ({} if wrong else items))
        if results is not None:
            assert isinstance(results, list)
            assert [result is None for result in results] == [wrong] * len(items)

    @rule(items=ITEMS)
    def put_many(self, items: dict[str, Plain]) -> None:
        items = {key: LONG.get(value, value) for key, value in items.items()}
        self.act(lambda: self.store.put_many(items), self.model | items)

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        self.act(lambda: self.store.delete(key), self.without(key))

    @rule(keys=st.lists(KEYS, max_size=4))
    def delete_many(self, keys: list[str]) -> None:
        self.act(lambda: self.store.delete_many(keys), self.without(*keys))

    @rule(key=KEYS)
    def read(self, key: str) -> None:
        got = self.act(lambda: (self.store.get(key), self.store.list(), self.store.changes(0)[1]), self.model)
        if got is not None:
            assert isinstance(got, tuple)
            value, keys, changes = got
            fed = {change.key: change.value for change in changes if change.value is not DELETED}
            assert (value, keys, fed) == (self.model.get(key), sorted(self.model), self.model)

    @rule()
    def follow(self) -> None:
        if self.act(self.replica.poll, self.model) is None:
            self.replica.poll()
        assert self.replica.content == self.model
        assert self.replica_of_other.poll() == self.model

    @rule()
    def reopen(self) -> None:
        def again() -> bool:
            self.store.close()
            self.store = open_store(self.kind, self.place)
            return True

        cursor, _ = self.store.changes()
        if self.act(again, self.model) is None:
            again()
        with suppress(CursorExpired):
            assert self.store.changes(cursor)[1] == [], "a cursor does not outlive the object"
        self.replica = Replica(self.store)

    @rule()
    def look_elsewhere(self) -> None:
        assert self.reader.stored(self.kind, self.place) == self.model

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        assert stored(self.store) == self.model

    def teardown(self) -> None:
        assert self.replica.poll() == self.replica_of_other.poll() == self.model
        assert stored(self.other) == self.model
        assert self.reader.stored(self.kind, self.place) == self.model
        self.store.close()
        self.other.close()


def main(kind: str, root: str, examples: str, steps: str, *explore: str) -> None:
    Histories.kind, Histories.root, Histories.reader = kind, Path(root), Reader()
    Histories.disk = attach()
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=int(examples),
            stateful_step_count=int(steps),
            database=None,
            derandomize=not explore,
            phases=[Phase.generate, Phase.shrink] if explore else [Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        ),
    )
    json.dump({"faults": Histories.faults}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
