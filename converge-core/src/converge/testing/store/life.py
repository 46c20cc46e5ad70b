"""Opening again, closing, and whole random lives."""
# these are tests, shipped to authors
# the name of a test is its sentence

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from converge.core.errors import StoreError
from converge.core.store import DELETED, Store, VersionedStore
from converge.testing.store.fixtures import StoreFixtures, version_of
from converge.testing.store.model import run_random_histories

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LifeContract"]


class LifeContract(StoreFixtures):
    """What lasts beyond the object, and what does not."""

    def test_what_was_accepted_is_there_after_opening_again(
        self, store: Store, reopen: Callable[[Store], Store] | None
    ) -> None:
        if reopen is None:
            pytest.skip("the store declares durable = False")
        store.put("kept", {"a": [1, None]})
        store.put("gone", 1)
        store.delete("gone")
        with reopen(store) as again:
            assert again.list() == ["kept"]
            assert again.get("kept") == {"a": [1, None]}

    def test_versions_and_cursors_go_on_after_opening_again(
        self, feed: VersionedStore, reopen: Callable[[Store], Store] | None
    ) -> None:
        if reopen is None:
            pytest.skip("the store declares durable = False")
        feed.put("k", 1)
        cursor, _ = feed.changes()
        newest = feed.compare_and_set("k", 2, version_of(feed, "k"))
        feed.delete("k")
        with reopen(feed) as again:
            assert isinstance(again, VersionedStore)
            assert [change[:2] for change in again.changes(cursor)[1]] == [("k", DELETED)]
            assert again.compare_and_set("k", 3, 0) > newest

    def test_closing_twice_is_fine_and_using_a_closed_store_is_not(self, store: Store) -> None:
        if not self.closes:
            store.close()
            store.put("k", 1)  # that it goes on is what it declares
            pytest.skip("the store declares closes = False")
        with store:
            store.put("k", 1)
        store.close()
        uses: list[Callable[[], object]] = [
            lambda: store.get("k"), lambda: store.list(), lambda: store.put("k", 1), lambda: store.delete("k"),
            lambda: store.put_if_absent("k", 1), lambda: [*store.check()],
        ]  # fmt: skip
        if isinstance(store, VersionedStore):
            uses += [store.changes, lambda: store.changes(0)]
            if type(store).may_have_changed is not VersionedStore.may_have_changed:  # the default looks at nothing
                uses += [lambda: store.may_have_changed(0)]
        for use in uses:
            with pytest.raises(StoreError, match="closed"):
                use()

    def test_random_histories_agree_with_a_dict(self, store: Store, reopen: Callable[[Store], Store] | None) -> None:
        run_random_histories(store, reopen, examples=self.random_histories, steps=30)
