"""Several processes on the same data, each with a store object of its own."""
# these are tests, shipped to authors
# the name of a test is its sentence

from __future__ import annotations

import json
import os
import time
from contextlib import closing
from select import select
from typing import TYPE_CHECKING

import pytest

from converge.core.plain import unpack
from converge.core.store import DELETED, Store, VersionedStore
from converge.testing.store.children import Call
from converge.testing.store.fixtures import StoreFixtures, version_of
from converge.testing.store.replica import Replica

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.testing.store.children import Children

__all__ = ["ProcessContract"]

_KEYS = 400
_INCREMENTS = 80
_SLOT = 0.005  # seconds a step: all processes meet at each of them, also when the system has paused one
_VALUES_TO_SEE = 30


class ProcessContract(StoreFixtures):
    """One winner, nothing lost, and everybody sees what has been accepted."""

    def test_put_if_absent_has_one_winner_among_processes(self, store: Store, children: Children) -> None:
        racing = [children.start("take", name, _KEYS, _SLOT) for name in range(self.processes)]
        children.go(*racing)
        winners: dict[int, list[int]] = {number: [] for number in range(_KEYS)}
        for name, child in enumerate(racing):
            for number in child.hear():
                winners[number].append(name)
        assert {number: names for number, names in winners.items() if len(names) != 1} == {}
        assert {number: store.get(f"k{number}") for number in winners} == {
            number: name for number, (name,) in winners.items()
        }

    def test_no_increment_is_lost_and_no_version_given_twice_among_processes(
        self, feed: VersionedStore, children: Children
    ) -> None:
        feed.put("counter", 0)
        counting = [children.start("increment", _INCREMENTS, _SLOT) for _ in range(self.processes)]
        children.go(*counting)
        written = sorted(tuple(each) for child in counting for each in child.hear())
        assert feed.get("counter") == _INCREMENTS * self.processes
        assert [value for value, _ in written] == [*range(1, _INCREMENTS * self.processes + 1)]
        versions = [version for _, version in written]
        assert versions == sorted(set(versions)), "a later value has a later version"
        assert versions[-1] == version_of(feed, "counter")

    @pytest.mark.parametrize("attempt", range(3))
    def test_processes_may_open_new_data_at_the_same_instant(
        self, attempt: int, opener: Callable[[], Store], children: Children
    ) -> None:
        names = [f"p{number}" for number in range(self.processes)]
        opening = [children.start("open_first", name) for name in names]
        children.go(*opening)
        for child in opening:
            assert child.hear() == "done"
            child.finish()
        with opener() as store:
            assert {name: store.get(name) for name in store.list()} == {name: name for name in names}

    def test_a_change_by_another_process_is_seen_at_once(self, feed: VersionedStore, children: Children) -> None:
        other = children.start("serve")
        assert other.hear() == "ready"

        def sees(keys_and_values: list[tuple[str, object]], *call: object) -> None:
            cursor, _ = feed.changes()
            feed.may_have_changed(cursor)
            other.say(call)
            assert other.hear() == "done"
            assert feed.may_have_changed(cursor), "a false no"
            after, changes = feed.changes(cursor)
            assert [change[:2] for change in changes] == keys_and_values
            assert all(cursor < change.version <= after for change in changes)

        for number in range(3):
            sees([("k", number)], "put", "k", number)
            assert feed.get("k") == number
        sees([("new", "n")], "put_if_absent", "new", "n")
        sees([("a", 1), ("b", [2])], "put_many", {"a": 1, "b": [2]})
        sees([("k", DELETED)], "delete", "k")
        assert (feed.get_versioned("k"), feed.list()) == (None, ["a", "b", "new"])
        sees([("a", DELETED), ("b", DELETED)], "delete_many", ["a", "b"])
        sees([("again", 0)], "compare_and_set", "again", 0, 0)
        other.finish()

    def test_notices_tell_of_each_write_by_another_process(self, feed: VersionedStore, children: Children) -> None:
        notices = feed.notices()
        if notices is None:
            pytest.skip("the store gives no notices")
        with closing(notices):
            other = children.start("serve")
            assert other.hear() == "ready"
            for number in range(20):
                cursor, _ = feed.changes()
                notices.clear()
                other.say(["put", "k", number])
                assert select([notices], [], [], self.patience)[0], f"write {number} was told to nobody"
                assert other.hear() == "done"
                assert feed.may_have_changed(cursor)
            notices.clear()
            assert not select([notices], [], [], 0)[0], "what was cleared is told again"
            other.finish()
        notices.close()

    def test_processes_that_write_see_all_of_each_other(self, feed: VersionedStore, children: Children) -> None:
        writing = [children.start("write_and_follow", f"p{number}", 60) for number in range(2)]
        replica = Replica(feed)
        children.go(*writing)
        for number in range(40):
            feed.put(f"own-{number % 7}", number)
            feed.delete(f"own-{(number - 3) % 7}")
            replica.follow()
        for child in writing:
            assert child.hear() == "written"
        replica.follow()
        held = {key: feed.get(key) for key in feed.list()}
        followed = {key: unpack(packed) for key, packed in replica.held.items()}
        assert followed == held, "who follows the feed does not end with what the store holds"
        for child in writing:
            child.say("all have written")
            assert child.hear() == held, "who follows the feed does not end with what the store holds"

    def test_a_reader_sees_only_accepted_values_while_processes_write(self, store: Store, children: Children) -> None:
        ways = ["put", "compare_and_set", "put_many"] if self.versioned else ["put"]
        for key in ways:
            store.put(key, [0, "", 0])
        writing = [children.start("overwrite", key, key) for key in ways]
        for child in writing:
            assert child.hear() == "ready"
        newest = dict.fromkeys(ways, 0)
        seen = dict.fromkeys(ways, 0)
        limit = time.monotonic() + self.patience
        while min(seen.values()) < _VALUES_TO_SEE:
            assert time.monotonic() < limit, f"after {self.patience} s the writers have shown no more than {seen}"
            assert store.list() == sorted(ways), "a key that is always there was not listed"
            for key in ways:
                number = _whole(key, store.get(key))
                assert number >= newest[key], f"{key}: {number} was read after {newest[key]}"
                seen[key] += number > newest[key]
                newest[key] = number
        for child in writing:
            child.kill()

    def test_compact_and_check_may_run_while_another_process_writes(self, store: Store, children: Children) -> None:
        times = 100
        other = children.start("write_and_delete", times)
        children.go(other)
        writing, turns = Call(other.hear), 0
        while not writing.ended(0) or turns < 3:
            store.put(f"own-{turns}", turns)
            assert store.compact() >= 0
            assert [*store.check()] == []
            turns += 1
        assert writing.result(self.patience) == "done"
        other.finish()
        expected = {f"c{number}": number for number in range(times)}
        expected |= {f"own-{number}": number for number in range(turns)}
        held = {key: store.get(key) for key in store.list()}
        assert held == expected, "what was written while the store was compacted is lost"

    def test_a_store_cannot_be_used_in_a_forked_child_and_its_parent_goes_on(self, children: Children) -> None:
        if not hasattr(os, "fork"):
            pytest.skip("this system has no fork")
        child = children.start("use_after_fork")
        answers = child.hear()
        assert [use for use, text in answers.items() if text is None] == [], "these were done in the forked child"
        assert all("fork" in text for text in answers.values()), f"say why: {json.dumps(answers, indent=1)}"
        assert child.hear() == ["after", "before", "child"]
        child.finish()


def _whole(key: str, value: object) -> int:
    assert value is not None, f"{key} is always there, and was not"
    assert isinstance(value, list)
    number, filling, again = value
    assert isinstance(number, int)
    whole = number == again and filling == "x" * (number * 7919 % 50_000)
    assert whole, f"{key}: a value was read that nobody has written"
    return number
