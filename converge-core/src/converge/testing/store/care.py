"""Checking, compacting and repairing."""
# these are tests, shipped to authors
# the name of a test is its sentence

from __future__ import annotations

from typing import TYPE_CHECKING

from converge.core.errors import CursorExpired, StoreError
from converge.core.store import Change, Store, VersionedStore
from converge.testing.store.fixtures import StoreFixtures, in_threads

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CareContract"]


class CareContract(StoreFixtures):
    """Looking after a sound store finds nothing and loses nothing."""

    def test_a_sound_store_has_nothing_to_report(self, store: Store) -> None:
        assert [*store.check()] == []
        held = _live_a_little(store)
        assert [*store.check()] == []
        assert {key: store.get(key) for key in store.list()} == held

    def test_checking_is_no_change(self, feed: VersionedStore) -> None:
        _live_a_little(feed)
        cursor, _ = feed.changes()
        assert [*feed.check()] == []
        assert feed.changes(cursor) == (cursor, [])

    def test_compacting_loses_nothing(self, store: Store, reopen: Callable[[Store], Store] | None) -> None:
        held = _live_a_little(store)
        for _ in range(2):
            freed = store.compact()
            assert isinstance(freed, int)
            assert freed >= 0
            assert {key: store.get(key) for key in store.list()} == held, "compact() has lost something"
        if reopen is not None:
            again = reopen(store)
            assert {key: again.get(key) for key in again.list()} == held
            assert [*again.check()] == []

    def test_compacting_keeps_versions_and_cursors(
        self, feed: VersionedStore, reopen: Callable[[Store], Store] | None
    ) -> None:
        feed.put("before", 1)
        cursor, _ = feed.changes()
        held = _live_a_little(feed)
        versions = {key: feed.get_versioned(key) for key in held}
        newest, changes = _changes_or_expired(feed, cursor)
        feed.compact()
        assert {key: feed.get_versioned(key) for key in held} == versions, "compact() has changed versions"
        assert _changes_or_expired(feed, cursor) == (newest, changes)
        assert feed.changes(newest) == (newest, [])
        if reopen is not None:
            again = reopen(feed)
            assert isinstance(again, VersionedStore)
            feed = again
            assert {key: feed.get_versioned(key) for key in held} == versions
            assert _changes_or_expired(feed, cursor)[1] == changes
        assert feed.compare_and_set("after", 1, 0) > newest

    def test_compact_and_check_may_run_while_threads_write(self, store: Store) -> None:
        def work(number: int) -> None:
            for turn in range(40):
                if number:
                    store.put(f"t{number}-{turn}", turn)
                    store.put(f"passing-{number}", "x" * 5000)
                    store.delete(f"passing-{number}")
                elif turn % 4 == 0:
                    assert store.compact() >= 0
                    assert [*store.check()] == []

        in_threads(work)
        held = {key: store.get(key) for key in store.list()}
        expected = {f"t{number}-{turn}": turn for number in (1, 2, 3) for turn in range(40)}
        assert held == expected, "what was written while the store was compacted is lost"

    def test_repairing_a_sound_store_changes_nothing_or_is_refused(self, store: Store) -> None:
        held = _live_a_little(store)
        try:
            found = [*store.repair()]
        except StoreError:
            found = []
        assert found == []
        assert {key: store.get(key) for key in store.list()} == held
        assert [*store.check()] == []
        store.put("later", 1)
        assert store.get("later") == 1


def _live_a_little(store: Store) -> dict[str, object]:
    """Write, overwrite and delete enough that there is something to give back; what the store holds then."""
    for number in range(60):
        store.put(f"k{number:02}", "x" * 4000)
    for number in range(0, 60, 3):
        store.put(f"k{number:02}", number)
    for number in range(1, 60, 3):
        store.delete(f"k{number:02}")
    return {key: store.get(key) for key in store.list()}


def _changes_or_expired(feed: VersionedStore, cursor: int) -> tuple[int, list[Change] | None]:
    """What `changes` gives; None for the changes when the store remembers too few deletions."""
    try:
        return feed.changes(cursor)
    except CursorExpired:
        return feed.changes()[0], None
