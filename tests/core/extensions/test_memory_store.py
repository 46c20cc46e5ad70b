"""The store in memory."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, ClassVar

import pytest

from converge.core.errors import CursorExpired
from converge.core.store import DELETED, Store, Write
from converge.extensions.storage.memory import MemoryStore
from converge.testing.store import StoreContract

if TYPE_CHECKING:
    from collections.abc import Callable


class TestMemoryStore(StoreContract):
    durable = False

    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()


class ShortMemory(MemoryStore):
    remembered_deletions: ClassVar[int] = 3


class TestMemoryStoreThatForgetsSoon(StoreContract):
    durable = False

    @pytest.fixture
    def store(self) -> Store:
        return ShortMemory()

    def test_changes_tell_the_newest_state_of_each_key_once(self) -> None:  # type: ignore[override]
        pytest.skip("needs more remembered deletions than three")


def test_a_cursor_expires_when_more_deletions_follow_than_are_remembered() -> None:
    store = ShortMemory()
    store.put_many(dict.fromkeys("abcdef"))
    cursor, _ = store.changes()
    store.delete_many("abc")
    assert [change.key for change in store.changes(cursor)[1]] == ["a", "b", "c"]
    store.delete("d")
    with pytest.raises(CursorExpired):
        store.changes(cursor)
    assert [change.key for change in store.changes(0)[1]] == ["e", "f"]


def test_put_if_absent_and_increments_are_exact_while_threads_switch_at_every_chance() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    store, barrier = MemoryStore(), threading.Barrier(4)
    store.put("counter", 0)
    wins: list[int] = []

    def work() -> None:
        barrier.wait()
        for number in range(1000):
            if store.put_if_absent(f"k{number}", None):
                wins.append(number)
            while True:
                found = store.get_versioned("counter")
                assert found is not None
                assert isinstance(found[0], int)
                if store.compare_and_set_many([Write("counter", found[0] + 1, found[1])]) != [None]:
                    break

    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert sorted(wins) == [*range(1000)]
    assert store.get("counter") == 4000


class Failing(MemoryStore):
    """Every public writer fails while `bad` is set, as on a full disk."""

    bad = False

    def put(self, key: str, value: object) -> None:
        if self.bad:
            raise OSError(28, "No space left on device")
        super().put(key, value)  # type: ignore[arg-type]  # passed on as it came


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.put_many({"a": 1, "b": 2}),
        lambda store: store.put_if_absent("a", 1),
        lambda store: store.compare_and_set("a", 1, 0),
        lambda store: store.compare_and_set_many([Write("a", 1, 0)]),
        lambda store: store.delete("old"),
        lambda store: store.delete_many(["old"]),
    ],
)
def test_no_writer_goes_through_another_one_that_a_subclass_may_replace(write: Callable[[Store], object]) -> None:
    store = Failing()
    store.put("old", 1)
    cursor, _ = store.changes()
    store.bad = True
    write(store)
    assert store.changes(cursor)[1], "it wrote by itself"


def test_a_deletion_is_shown_as_deleted() -> None:
    store = MemoryStore()
    store.put("k", 1)
    cursor, _ = store.changes()
    store.delete("k")
    (change,) = store.changes(cursor)[1]
    assert change.value is DELETED
    assert repr(change.value) == "DELETED"
