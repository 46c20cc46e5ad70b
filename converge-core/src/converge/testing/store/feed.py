"""The change feed."""
# these are tests, shipped to authors
# the name of a test is its sentence

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from converge.core.errors import CursorExpired, VersionConflict
from converge.core.store import DELETED, Change, VersionedStore, Write
from converge.testing.store.fixtures import StoreFixtures, version_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FeedContract"]


class FeedContract(StoreFixtures):
    """Whoever follows the feed ends up with what the store holds."""

    def test_the_present_cursor_has_no_changes(self, feed: VersionedStore) -> None:
        feed.put("k", 1)
        cursor, changes = feed.changes()
        assert changes == []
        assert feed.changes(cursor) == (cursor, [])

    def test_changes_tell_the_newest_state_of_each_key_once(self, feed: VersionedStore) -> None:
        feed.put_many({"gone": 0, "kept": 0})
        cursor, _ = feed.changes()
        for number in range(3):
            feed.put("a", number)
        feed.put("b", None)
        feed.delete("gone")
        feed.put("brief", 1)
        feed.delete("brief")
        after, changes = feed.changes(cursor)
        assert [(change.key, change.value) for change in changes] == [
            ("a", 2), ("b", None), ("gone", DELETED), ("brief", DELETED),
        ]  # fmt: skip
        versions = [change.version for change in changes]
        assert versions == sorted(set(versions))
        assert cursor < versions[0]
        assert versions[-1] <= after
        assert changes[0].version == version_of(feed, "a")
        assert feed.changes(after) == (after, [])

    def test_changes_from_zero_tell_every_present_key(self, feed: VersionedStore) -> None:
        feed.put_many({"a": 1, "b": 2, "c": 3})
        feed.delete("b")
        cursor, changes = feed.changes(0)
        assert sorted(changes) == [Change("a", 1, version_of(feed, "a")), Change("c", 3, version_of(feed, "c"))]
        assert feed.changes(cursor) == (cursor, [])

    def test_changes_with_a_prefix_leave_the_others_out(self, feed: VersionedStore) -> None:
        feed.put("a_1", 0)
        cursor, _ = feed.changes()
        feed.put_many({"ab1": 2, "A_1": 3})
        feed.delete("a_1")
        assert [change[:2] for change in feed.changes(cursor, "a_")[1]] == [("a_1", DELETED)]
        assert [change[:2] for change in feed.changes(0, "ab")[1]] == [("ab1", 2)]
        assert feed.changes(cursor, "a_")[0] == feed.changes(cursor)[0], "the cursor is past what the prefix left out"

    def test_what_changed_nothing_is_no_change(self, feed: VersionedStore) -> None:
        feed.put("k", 1)
        cursor, _ = feed.changes()
        feed.put_if_absent("k", 2)
        feed.delete("absent")
        feed.delete_many(["absent"])
        feed.compare_and_set_many([Write("k", 3, 0)])
        with pytest.raises(VersionConflict):
            feed.compare_and_set("k", 3, 0)
        assert feed.changes(cursor)[1] == []

    def test_an_old_cursor_gives_all_or_expires(self, feed: VersionedStore) -> None:
        keys = [f"k{number:04}" for number in range(2000)]
        feed.put_many(dict.fromkeys(keys))
        cursor, _ = feed.changes()
        feed.delete_many(keys)
        try:
            _, changes = feed.changes(cursor)
        except CursorExpired:
            return
        assert sorted(change.key for change in changes) == keys

    def test_a_cursor_of_another_store_is_not_taken(self, feed: VersionedStore) -> None:
        cursor, _ = feed.changes()
        with pytest.raises(CursorExpired):
            feed.changes(cursor + 1_000_000)
        with pytest.raises(ValueError, match="cursor"):
            feed.changes(-1)
        assert feed.may_have_changed(cursor + 1_000_000)

    def test_may_have_changed_is_never_a_false_no(self, feed: VersionedStore) -> None:
        def cursor_after(write: Callable[[], object]) -> None:
            cursor, _ = feed.changes()
            feed.may_have_changed(cursor)
            write()
            assert feed.may_have_changed(cursor)

        cursor_after(lambda: feed.put("k", 1))
        cursor_after(lambda: feed.put("k", 1))
        cursor_after(lambda: feed.compare_and_set("k", 2, version_of(feed, "k")))
        cursor_after(lambda: feed.compare_and_set_many([Write("k", 3, version_of(feed, "k"))]))
        cursor_after(lambda: feed.delete("k"))
        cursor_after(lambda: feed.put_if_absent("k", 4))
        cursor_after(lambda: feed.put_many({"a": 1}))
        cursor_after(lambda: feed.delete_many(["a", "k"]))
