"""Random histories of a store, compared with a dict step by step."""
# these are tests, shipped to authors

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from converge.core.errors import CursorExpired, VersionConflict
from converge.core.plain import MAX_DEPTH, Plain, pack
from converge.core.store import DELETED, Store, VersionedStore, Write

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["KEYS", "VALUES", "run_random_histories"]

_LEAVES: st.SearchStrategy[Plain] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.binary(max_size=20),
)
VALUES: st.SearchStrategy[Plain] = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8, alphabet="aé\0 "), inner, max_size=4)
    ),
    max_leaves=min(12, MAX_DEPTH),
)
"""Any plain data of modest size."""

KEYS: st.SearchStrategy[str] = st.sampled_from(
    ["a", "A", "a/b", "a_b", "a%b", "e\u0301", "\u00e9", "..", "a\0b"]
) | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4)
"""Keys that a file system or SQL might confuse, and others."""

# Few, so that one history comes back to a key often.
_FEW = st.sampled_from(["a", "A", "a_b", "e\u0301", "\u00e9"])


def run_random_histories(store: Store, reopen: Callable[[Store], Store] | None, *, examples: int, steps: int) -> None:
    """Apply `examples` random histories of `steps` operations to `store`; the first divergence is an AssertionError.

    `reopen` closes a store and opens its data again; None leaves that step out.
    """
    holder = [store]
    run_state_machine_as_test(
        lambda: _machine(holder, reopen),  # type: ignore[arg-type]  # it takes any factory, as its docstring says
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


def _machine(holder: list[Store], reopen: Callable[[Store], Store] | None) -> RuleBasedStateMachine:
    machine = _VersionedMachine if isinstance(holder[0], VersionedStore) else _Machine
    return machine(holder, reopen)


class _Machine(RuleBasedStateMachine):
    """What every store can do."""

    def __init__(self, holder: list[Store], reopen: Callable[[Store], Store] | None) -> None:
        super().__init__()
        self.holder, self.reopen = holder, reopen
        for key in self.store.list():
            self.store.delete(key)
        self.model: dict[str, bytes] = {}

    @property
    def store(self) -> Store:
        return self.holder[0]

    @rule(key=_FEW | KEYS, value=VALUES)
    def put(self, key: str, value: Plain) -> None:
        self.store.put(key, value)
        self.model[key] = pack(value)

    @rule(key=_FEW)
    def delete(self, key: str) -> None:
        self.store.delete(key)
        self.model.pop(key, None)

    @rule(key=_FEW, value=VALUES)
    def put_if_absent(self, key: str, value: Plain) -> None:
        assert self.store.put_if_absent(key, value) is (key not in self.model)
        self.model.setdefault(key, pack(value))

    @rule(prefix=st.sampled_from(["a", "a_", "a%", "A", "a/", "e", "\u00e9", ".", "zz"]))
    def list_prefix(self, prefix: str) -> None:
        assert self.store.list(prefix) == sorted(key for key in self.model if key.startswith(prefix))

    @precondition(lambda self: self.reopen is not None)
    @rule()
    def open_again(self) -> None:
        assert self.reopen is not None
        self.holder[0] = self.reopen(self.store)

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        assert self.store.list() == sorted(self.model)
        assert {key: pack(self.store.get(key)) for key in self.model} == self.model


class _VersionedMachine(_Machine):
    """What a versioned store can do beyond; a replica that follows the feed must become the model."""

    def __init__(self, holder: list[Store], reopen: Callable[[Store], Store] | None) -> None:
        super().__init__(holder, reopen)
        self.cursor, _ = self.versions.changes()
        self.newest = self.cursor
        self.replica: dict[str, bytes] = {}

    @property
    def versions(self) -> VersionedStore:
        assert isinstance(self.store, VersionedStore)
        return self.store

    def version_of(self, key: str) -> int:
        found = self.versions.get_versioned(key)
        return found[1] if found else 0

    @rule(key=_FEW, value=VALUES)
    def compare_and_set(self, key: str, value: Plain) -> None:
        version = self.versions.compare_and_set(key, value, self.version_of(key))
        assert version > self.newest, "a new version is above all earlier ones"
        assert self.version_of(key) == version
        self.newest, self.model[key] = version, pack(value)

    @rule(key=_FEW, value=VALUES, step=st.sampled_from([-1, 1, 1000]))
    def compare_and_set_with_another_version(self, key: str, value: Plain, step: int) -> None:
        try:
            self.versions.compare_and_set(key, value, self.version_of(key) + step)
        except VersionConflict:
            return
        raise AssertionError("a wrong version was accepted")

    @rule(items=st.dictionaries(_FEW, VALUES, max_size=4), wrong=st.booleans())
    def compare_and_set_many(self, items: dict[str, Plain], wrong: bool) -> None:
        writes = [Write(key, value, self.version_of(key) + wrong) for key, value in items.items()]
        results = self.versions.compare_and_set_many(writes)
        assert [result is None for result in results] == [wrong] * len(items)
        if not wrong:
            self.model.update({key: pack(value) for key, value in items.items()})

    @rule(items=st.dictionaries(_FEW, VALUES, max_size=4))
    def put_many(self, items: dict[str, Plain]) -> None:
        self.versions.put_many(items)
        self.model.update({key: pack(value) for key, value in items.items()})

    @rule(keys=st.lists(_FEW, max_size=4))
    def delete_many(self, keys: list[str]) -> None:
        self.versions.delete_many(keys)
        for key in keys:
            self.model.pop(key, None)

    def teardown(self) -> None:
        self.follow()

    @rule()
    def follow(self) -> None:
        if not self.versions.may_have_changed(self.cursor):
            assert self.replica == self.model, "a false no"
        try:
            self.cursor, changes = self.versions.changes(self.cursor)
        except CursorExpired:
            self.cursor, changes = self.versions.changes(0)
            self.replica.clear()
        assert len({change.key for change in changes}) == len(changes), "one entry a key"
        assert [change.version for change in changes] == sorted(change.version for change in changes), "oldest first"
        for key, value, _ in changes:
            if value is DELETED:
                self.replica.pop(key, None)
            else:
                self.replica[key] = pack(value)
        assert self.replica == self.model
        self.newest = max(self.newest, self.cursor)
