"""The minimal store, its adapter, the feed index, and that the contract catches broken stores."""

from __future__ import annotations

import gc
import pickle
import sys
import threading
import weakref
from typing import TYPE_CHECKING

import pytest
from attrs import Factory, define
from hypothesis import Phase, settings

from converge.core.errors import CursorExpired, StoreCorruption, VersionConflict
from converge.core.feed import Feed
from converge.core.plain import Plain, pack, unpack
from converge.core.store import DELETED, Change, Store, Write, check_key, versioned
from converge.extensions.storage.memory import MemoryStore
from converge.testing.store import StoreContract

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterable, Iterator


class FourMethodStore(Store):
    """What a third party has to write, and no more."""

    def __init__(self) -> None:
        self.records: dict[str, bytes] = {}

    def put(self, key: str, value: Plain) -> None:
        self.records[check_key(key)] = pack(value)

    def get(self, key: str) -> Plain:
        packed = self.records.get(key)
        return None if packed is None else unpack(packed)

    def delete(self, key: str) -> None:
        self.records.pop(key, None)

    def list(self, prefix: str = "") -> builtins.list[str]:
        return sorted(key for key in [*self.records] if key.startswith(prefix))


class TestFourMethodStore(StoreContract):
    versioned = False
    durable = False
    closes = False

    @pytest.fixture
    def store(self) -> Store:
        return FourMethodStore()


class TestVersionedFourMethodStore(StoreContract):
    durable = False
    closes = False

    @pytest.fixture
    def store(self) -> Store:
        return versioned(FourMethodStore())


# The adapter


def test_a_versioned_store_is_its_own_adapter() -> None:
    store = MemoryStore()
    assert versioned(store) is store


def test_a_store_object_has_one_adapter_as_long_as_somebody_holds_it() -> None:
    store = FourMethodStore()
    adapter = versioned(store)
    assert versioned(store) is adapter
    assert versioned(FourMethodStore()) is not adapter
    gone = weakref.ref(adapter)
    del adapter
    gc.collect()
    assert gone() is None


def test_the_adapter_shows_what_the_store_already_held() -> None:
    store = FourMethodStore()
    store.put("old", 1)
    assert versioned(store).changes(0)[1] == [Change("old", 1, 1)]


def test_the_adapter_gives_a_version_to_a_key_that_was_written_past_it() -> None:
    store = FourMethodStore()
    adapter = versioned(store)
    store.put("past", 1)
    found = adapter.get_versioned("past")
    assert found is not None
    assert adapter.compare_and_set("past", 2, found[1]) > found[1]


def test_the_adapter_does_not_show_a_key_that_was_removed_past_it() -> None:
    store = FourMethodStore()
    adapter = versioned(store)
    adapter.put("other", 1)
    cursor, _ = adapter.changes()
    adapter.put("k", 1)
    store.delete("k")
    assert adapter.get_versioned("k") is None
    assert [change[:2] for change in adapter.changes(cursor)[1]] == [("k", DELETED)]
    assert [change.key for change in adapter.changes(0)[1]] == ["other"]


def test_the_adapter_forgets_old_deletions() -> None:
    adapter = versioned(FourMethodStore())
    adapter.put("first", 1)
    cursor, _ = adapter.changes()
    for number in range(10_001):
        adapter.put(f"k{number}", None)
        adapter.delete(f"k{number}")
    with pytest.raises(CursorExpired, match="take changes"):
        adapter.changes(cursor)


def test_put_if_absent_works_for_a_store_that_is_unhashable_and_leaves_it_picklable() -> None:
    store = UnhashableStore()
    assert store.put_if_absent("k", 1)
    assert not store.put_if_absent("k", 2)
    assert pickle.loads(pickle.dumps(store)).get("k") == 1


@define
class UnhashableStore(FourMethodStore):
    records: dict[str, bytes] = Factory(dict)


# The feed index


def test_a_feed_orders_by_last_change_and_forgets_the_oldest_deletion_first() -> None:
    feed = Feed(remembered_deletions=2)
    for key in ("a", "b", "c", "d"):
        feed.written(key)
    feed.written("a")
    assert feed.since(2) == [(3, "c"), (4, "d"), (5, "a")]
    for key in ("b", "c", "d"):
        feed.deleted(key)
    assert feed.since(0) == [(5, "a")]
    assert feed.since(6) == [(7, "c"), (8, "d")]
    with pytest.raises(CursorExpired, match=r"cursor 5 is outside .* \(6 to 8\)"):
        feed.since(5)


# The errors of stores


def test_store_errors_carry_their_data_through_pickle() -> None:
    conflict = pickle.loads(pickle.dumps(VersionConflict("k", 1, 2)))
    assert (conflict.key, conflict.expected, conflict.actual) == ("k", 1, 2)
    corruption = pickle.loads(pickle.dumps(StoreCorruption("k", "a.db", "checksum")))
    assert (corruption.key, corruption.place, corruption.reason) == ("k", "a.db", "checksum")


# The contract fails for a store that breaks it


class CheckThenPut(FourMethodStore):
    def put_if_absent(self, key: str, value: Plain) -> bool:
        absent = self.get(key) is None
        if absent:
            self.put(key, value)
        return absent


class Aliasing(FourMethodStore):
    def __init__(self) -> None:
        super().__init__()
        self.live: dict[str, Plain] = {}

    def put(self, key: str, value: Plain) -> None:
        self.live[key] = value

    def get(self, key: str) -> Plain:
        return self.live.get(key)


class FoldsCase(FourMethodStore):
    def list(self, prefix: str = "") -> builtins.list[str]:
        return sorted(key for key in self.records if key.lower().startswith(prefix.lower()))


class ReusesVersions(MemoryStore):
    def delete(self, key: str) -> None:
        version = self._feed.version_of(key)
        super().delete(key)
        if version:
            self._feed.version = version - 1


class FalseNo(MemoryStore):
    def may_have_changed(self, cursor: int) -> bool:
        return False


class ForgetsDeletions(MemoryStore):
    def changes(self, cursor: int | None = None, prefix: str = "") -> tuple[int, builtins.list[Change]]:
        newest, found = super().changes(cursor, prefix)
        return newest, [change for change in found if change.value is not DELETED]


class StopsAtTheFirstConflict(MemoryStore):
    def compare_and_set_many(self, writes: Iterable[Write]) -> builtins.list[int | None]:
        return [self.compare_and_set(*write) for write in writes]


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (Aliasing, "test_what_get_returns_is_the_callers_own"),
        (FoldsCase, "test_a_prefix_is_literal"),
        (ReusesVersions, "test_a_version_grows_and_is_never_used_again"),
        (FalseNo, "test_may_have_changed_is_never_a_false_no"),
        (ForgetsDeletions, "test_changes_tell_the_newest_state_of_each_key_once"),
        (ForgetsDeletions, "test_an_old_cursor_gives_all_or_expires"),
        (StopsAtTheFirstConflict, "test_compare_and_set_many_decides_each_write_on_its_own"),
    ],
)
def test_the_contract_catches_a_store_that_breaks_it(broken: type[Store], test: str) -> None:
    with pytest.raises((AssertionError, VersionConflict)):
        getattr(StoreContract(), test)(broken())


@pytest.fixture
def unshrunk() -> Iterator[None]:
    """Found is enough here; the smallest history would take half a minute."""
    before = settings.get_current_profile_name()
    settings.register_profile("unshrunk", phases=[Phase.generate], derandomize=True)
    settings.load_profile("unshrunk")
    yield
    settings.load_profile(before)


@pytest.mark.parametrize("broken", [FoldsCase, FalseNo, ForgetsDeletions])
def test_the_random_histories_catch_a_store_that_breaks_the_contract(broken: type[Store], unshrunk: None) -> None:
    with pytest.raises(AssertionError):
        StoreContract().test_random_histories_agree_with_a_dict(broken(), None)


def test_the_race_of_the_contract_catches_check_then_put() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        assert any(_race_is_lost() for _ in range(200))
    finally:
        sys.setswitchinterval(interval)


def _race_is_lost() -> bool:
    try:
        StoreContract().test_put_if_absent_has_one_winner_among_threads(CheckThenPut())
    except AssertionError:
        return True
    return False


def test_a_store_without_versions_shows_those_tests_as_skipped() -> None:
    with pytest.raises(pytest.skip.Exception, match="versioned = False"):
        StoreContract.feed.__wrapped__(TestFourMethodStore(), FourMethodStore())  # type: ignore[attr-defined]  # pytest keeps it


def test_the_default_batch_checks_every_write_before_the_first() -> None:
    adapter = versioned(FourMethodStore())
    with pytest.raises(ValueError, match="empty"):
        adapter.compare_and_set_many([Write("a", 1, 0), Write("", 1, 0)])
    assert adapter.list() == []


def test_the_lock_of_put_if_absent_is_of_one_object() -> None:
    entered = threading.Event()
    release = threading.Event()

    class Slow(FourMethodStore):
        def put(self, key: str, value: Plain) -> None:
            entered.set()
            assert release.wait(10)
            super().put(key, value)

    slow = Slow()
    thread = threading.Thread(target=slow.put_if_absent, args=("k", 1))
    thread.start()
    assert entered.wait(10)
    assert FourMethodStore().put_if_absent("k", 1), "another store does not wait for it"
    release.set()
    thread.join()
    assert slow.get("k") == 1
