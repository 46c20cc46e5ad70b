"""Writers that are killed where they stand."""
# these are tests, shipped to authors
# the name of a test is its sentence

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import pytest

from converge.core.store import Store, VersionedStore
from converge.testing.store.children import Call, within
from converge.testing.store.fixtures import StoreFixtures

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.testing.store.children import Child, Children

__all__ = ["CrashContract"]


class CrashContract(StoreFixtures):
    """What was accepted outlives its writer, and nobody waits for a dead one."""

    def test_what_was_accepted_survives_kills_and_no_version_is_used_again(
        self, store: Store, opener: Callable[[], Store], children: Children
    ) -> None:
        if not self.kills:
            pytest.skip("the class declares kills = 0")
        chance, told = random.Random(7), _Told(store)
        for seed in range(self.kills):
            child = children.start("write_until_killed", seed)
            for _ in range(chance.randrange(2, 60)):
                told.hear(child.hear())
            time.sleep(chance.uniform(0, 0.004))
            child.kill()
            for line in child.rest():
                told.hear(line)
            within(self.patience, told.settle)
            within(self.patience, lambda seed=seed: told.mark(seed))  # type: ignore[misc]  # a default that binds
        assert told.accepted > self.kills
        with within(self.patience, opener) as opened:
            assert opened.list() == sorted(told.expected)
            assert {key: _mark_of(opened.get(key)) for key in told.expected} == told.expected
            assert [*opened.check()] == []
            opened.put("later", 1)
        assert store.get("later") == 1

    def test_a_writer_killed_while_it_holds_the_store_leaves_no_lock(self, store: Store, children: Children) -> None:
        chance = random.Random(11)
        for attempt in range(5):
            child = children.start("write_much")
            assert child.hear() == "ready"
            time.sleep(chance.uniform(0, 0.03))
            child.pause()  # a writer that waits for it from now on has found it holding the store
            waiting = Call(lambda attempt=attempt: store.put("after", attempt))  # type: ignore[misc]  # a default that binds
            waiting.ended(0.1)
            child.kill()  # a child of it lives on, with whatever it has inherited
            waiting.result(self.patience)
            assert within(self.patience, lambda: store.get("after")) == attempt
            _end(child)


def _end(child: Child) -> None:
    """Let the child of a killed process end, too."""
    assert child.rest() == []


class _Told:
    """What killed writers have told, and what the store has to hold for it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.accepted = 0
        self.expected: dict[str, Any] = {}  # key → the mark of its value
        self._pending: dict[str, Any] = {}
        self._newest = 0
        self._seen: dict[int, object] = {}  # version → the mark that was read with it

    def hear(self, line: list[Any]) -> None:
        """Take one line of a writer: what it begins, or that it is done and the newest version."""
        self._watch()
        kind, about = line
        if kind == "begin":
            self._pending = about
            return
        self._apply()
        self.accepted += 1
        if isinstance(self.store, VersionedStore):
            assert about > self._newest or not self._changes_something, "a version was given twice"
            self._newest = about

    def settle(self) -> None:
        """After a kill: the write that had begun is there as a whole, or nothing of it; the rest is exact."""
        held = {key: _mark_of(self.store.get(key)) for key in self.store.list()}
        before = {key: self.expected.get(key) for key in self._pending}
        found = {key: held.get(key) for key in self._pending}
        assert found in (before, self._pending), "a write that was under way is there in part"
        if found == self._pending:
            self._apply()
        assert held == self.expected, "what a killed writer was told to be accepted is not what the store holds"
        self._watch()

    def mark(self, seed: int) -> None:
        """Write as the next one; its version is above all that there were."""
        key = f"mark-{seed}"
        mark = [seed, -1]
        if isinstance(self.store, VersionedStore):
            self._newest = max(self._newest, self.store.changes()[0])
            version = self.store.compare_and_set(key, [*mark, ""], 0)
            assert version > max([self._newest, *self._seen]), "a version was used again after a kill"
            self._newest = version
        else:
            self.store.put(key, [*mark, ""])
        self.expected[key] = mark

    def _apply(self) -> None:
        merged = self.expected | self._pending
        after = {key: mark for key, mark in merged.items() if mark is not None}
        self._changes_something = after != self.expected
        self.expected, self._pending = after, {}

    def _watch(self) -> None:
        """Look at a key that is written all the time: one version never stands for two values."""
        if isinstance(self.store, VersionedStore) and (found := self.store.get_versioned("hot")):
            value, version = found
            mark = _mark_of(value)
            assert self._seen.setdefault(version, mark) == mark, f"the version {version} was given to two values"


def _mark_of(value: object) -> object:
    """The mark in a value; the value itself when it is none that a writer makes."""
    if isinstance(value, list) and len(value) == 3 and set(str(value[2])) <= {"x"}:
        return value[:2]
    return value
