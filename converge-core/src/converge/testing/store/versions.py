"""Versions, compare-and-set, and the writes for many keys."""
# these are tests, shipped to authors
# the name of a test is its sentence

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from converge.core.errors import VersionConflict
from converge.core.store import VersionedStore, Write
from converge.testing.store.fixtures import StoreFixtures, in_threads, version_of

if TYPE_CHECKING:
    from converge.core.plain import Plain

__all__ = ["VersionContract"]


class VersionContract(StoreFixtures):
    """A version is never used twice, and one writer wins it."""

    def test_a_version_grows_and_is_never_used_again(self, feed: VersionedStore) -> None:
        seen = []
        for _ in range(3):
            feed.put("k", 1)
            seen.append(version_of(feed, "k"))
            assert feed.put_if_absent("k", 2) is False
            seen.append(feed.compare_and_set("k", 2, seen[-1]))
            feed.delete("k")
        assert seen == sorted(set(seen))
        assert seen[0] > 0

    def test_compare_and_set_writes_when_the_version_is_the_expected_one(self, feed: VersionedStore) -> None:
        first = feed.compare_and_set("k", "a", 0)
        second = feed.compare_and_set("k", "b", first)
        assert feed.get_versioned("k") == ("b", second)
        assert feed.get_versioned("absent") is None

    def test_compare_and_set_with_another_version_changes_nothing(self, feed: VersionedStore) -> None:
        old = feed.compare_and_set("k", "a", 0)
        new = feed.compare_and_set("k", "b", old)
        for expected in (0, old, new + 1):
            with pytest.raises(VersionConflict) as caught:
                feed.compare_and_set("k", "c", expected)
            assert (caught.value.key, caught.value.expected) == ("k", expected)
        with pytest.raises(VersionConflict):
            feed.compare_and_set("absent", "c", new)
        feed.delete("k")
        with pytest.raises(VersionConflict):
            feed.compare_and_set("k", "c", new)
        assert feed.list() == []

    def test_no_increment_is_lost_among_threads(self, feed: VersionedStore) -> None:
        feed.put("counter", 0)

        def increment(_: int) -> None:
            for _round in range(50):
                while True:
                    found = feed.get_versioned("counter")
                    assert found is not None
                    assert isinstance(found[0], int)
                    try:
                        feed.compare_and_set("counter", found[0] + 1, found[1])
                        break
                    except VersionConflict:
                        continue

        in_threads(increment)
        assert feed.get("counter") == 200

    def test_the_versions_of_many_keys_are_those_of_each(self, feed: VersionedStore) -> None:
        keys = [f"k{number}" for number in range(1100)]
        feed.put_many(dict.fromkeys(keys[::2]))
        feed.delete_many(keys[::10])
        there = {key: version_of(feed, key) for key in keys[::2] if key not in keys[::10]}
        assert feed.versions_of([*keys, *keys[:3]]) == there
        assert feed.versions_of([]) == {}
        with pytest.raises(ValueError, match="key"):
            feed.versions_of(["k1", ""])

    def test_compare_and_set_many_decides_each_write_on_its_own(self, feed: VersionedStore) -> None:
        feed.put("old", 1)
        old = version_of(feed, "old")
        results = feed.compare_and_set_many(
            [Write("new", 2, 0), Write("new", 3, 0), Write("old", 4, old + 1000), Write("old", 5, old)]
        )
        assert results == [version_of(feed, "new"), None, None, version_of(feed, "old")]
        assert (feed.get("new"), feed.get("old")) == (2, 5)
        assert feed.compare_and_set_many([]) == []

    def test_a_refused_item_keeps_the_whole_batch_out(self, feed: VersionedStore) -> None:
        cursor, _ = feed.changes()
        bad: Plain = object()  # type: ignore[assignment]  # the point of the test
        for batch in ({"a": 1, "b": bad}, {"a": 1, "": 2}):
            with pytest.raises((TypeError, ValueError)):
                feed.put_many(batch)
            with pytest.raises((TypeError, ValueError)):
                feed.compare_and_set_many([Write(key, value, 0) for key, value in batch.items()])
        assert feed.changes(cursor) == (cursor, [])
        assert feed.list() == []

    def test_put_many_and_delete_many_do_all_of_it(self, feed: VersionedStore) -> None:
        feed.put_many({f"k{number}": number for number in range(300)})
        feed.put_many({})
        assert len({version_of(feed, f"k{number}") for number in range(300)}) == 300
        feed.delete_many([f"k{number}" for number in range(299)] + ["absent"])
        feed.delete_many([])
        assert feed.list() == ["k299"]
