"""Threads that write at once, on one object and on several of the same data."""
# these are tests, shipped to authors
# the name of a test is its sentence

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from converge.core.errors import VersionConflict
from converge.core.plain import pack
from converge.core.store import Store, VersionedStore, Write
from converge.testing.store.fixtures import StoreFixtures, in_threads
from converge.testing.store.replica import Replica

if TYPE_CHECKING:
    from converge.core.plain import Plain

__all__ = ["ThreadContract"]

_TURNS = 60


class ThreadContract(StoreFixtures):
    """Whatever threads do, the feed tells what the store holds, and nobody reads what was never written."""

    def test_threads_on_one_object_end_in_what_the_feed_tells(self, feed: VersionedStore) -> None:
        _mix([feed] * 4)

    def test_threads_on_several_objects_end_in_what_the_feed_tells(
        self, feed: VersionedStore, together: list[Store]
    ) -> None:
        _mix([store for store in together if isinstance(store, VersionedStore)])

    def test_threads_on_several_objects_have_one_winner(self, together: list[Store]) -> None:
        wins: list[str] = []

        def take(number: int) -> None:
            wins.extend(key for turn in range(100) if together[number].put_if_absent(key := f"k{turn}", number))

        in_threads(take)
        assert sorted(wins) == together[0].list(), "each key has one winner"

    def test_threads_on_several_objects_lose_no_increment(self, feed: VersionedStore, together: list[Store]) -> None:
        feed.put("counter", 0)

        def increment(number: int) -> None:
            own, done = together[number], 0
            assert isinstance(own, VersionedStore)
            while done < 25:
                found = own.get_versioned("counter")
                assert found is not None
                assert isinstance(found[0], int)
                done += own.compare_and_set_many([Write("counter", found[0] + 1, found[1])]) != [None]

        in_threads(increment)
        assert feed.get("counter") == 100

    def test_a_thread_reads_only_accepted_values_while_others_write(self, store: Store) -> None:
        store.put("k", ["", ""])
        ended: list[int] = []

        def write(number: int) -> None:
            try:
                for turn in range(60):
                    filling = f"{number}" * (turn * 911 % 5000)
                    store.put("k", [filling, filling])
            finally:
                ended.append(number)

        def read() -> None:
            while len(ended) < 2:
                value = store.get("k")
                assert isinstance(value, list), "a key that is always there was not"
                assert value[0] == value[1], "a value was read that nobody has written"
                assert store.list() == ["k"], "a key that is always there was not listed"

        in_threads(lambda number: write(number) if number < 2 else read())


def _mix(stores: list[VersionedStore]) -> None:
    replicas = [Replica(store) for store in stores]

    def work(number: int) -> None:
        chance, own = random.Random(number), f"own-{number}"
        for turn in range(_TURNS):
            if turn % 2:
                stores[number].delete(own)
            else:
                stores[number].put(own, turn)
            _step(stores[number], chance, [number, turn])
            replicas[number].follow()
            told = replicas[number].held.get(own)
            assert told == (None if turn % 2 else pack(turn)), "an accepted write was not told by the feed"

    in_threads(work)
    held = {key: pack(stores[0].get(key)) for key in stores[0].list()}
    for replica in replicas:
        replica.follow()
        assert replica.held == held, "who follows the feed does not end with what the store holds"
    versions = {key: stores[0].get_versioned(key) for key in held}
    for store in stores:
        assert {key: store.get_versioned(key) for key in store.list()} == versions
    told = {change.key: (change.value, change.version) for change in stores[0].changes(0)[1]}
    assert told == versions


def _step(store: VersionedStore, chance: random.Random, value: Plain) -> None:
    """One operation of a random kind on a few keys."""
    keys = ["a", "b", "c", "d"]
    key = chance.choice(keys)
    kind = chance.randrange(7)
    if kind == 0:
        store.put(key, value)
    elif kind == 1:
        store.delete(key)
    elif kind == 2:
        store.put_if_absent(key, value)
    elif kind == 3:
        _swap(store, key, value)
    elif kind == 4:
        store.put_many(dict.fromkeys(chance.sample(keys, 2), value))
    elif kind == 5:
        store.delete_many(chance.sample(keys, 2))
    else:
        store.compare_and_set_many([Write(each, value, 0) for each in keys])


def _swap(store: VersionedStore, key: str, value: Plain) -> None:
    """A read and a conditional write; that somebody was faster is no failure."""
    found = store.get_versioned(key)
    expected = found[1] if found else 0
    try:
        version = store.compare_and_set(key, value, expected)
    except VersionConflict:
        return
    assert version > expected
