from __future__ import annotations

from converge.core.follower import Follower
from converge.core.plain import Plain
from converge.core.store import DELETED, Change, Deleted
from converge.extensions.storage.memory import MemoryStore


def told(follower: Follower) -> tuple[bool, list[tuple[str, Plain | Deleted]]]:
    emptied, changes = follower.poll()
    return emptied, [(change.key, change.value) for change in changes]


def test_the_first_poll_tells_all_there_is_for_an_emptied_cache() -> None:
    store = MemoryStore()
    store.put_many({"a:1": 1, "b:1": 2})
    assert told(Follower(store, "a:")) == (True, [("a:1", 1)])


def test_later_polls_tell_what_happened_since_deletions_included() -> None:
    store = MemoryStore()
    store.put("a:1", 1)
    follower = Follower(store, "a:")
    follower.poll()
    assert told(follower) == (False, [])
    store.put("a:2", 2)
    store.put("b:1", 3)
    store.delete("a:1")
    assert told(follower) == (False, [("a:2", 2), ("a:1", DELETED)])
    assert told(follower) == (False, [])


def test_on_an_empty_store_nothing_is_missed() -> None:
    store = MemoryStore()
    follower = Follower(store, "a:")
    assert told(follower) == (True, [])
    assert not follower.may_have_changed()
    store.put("a:1", 1)
    assert follower.may_have_changed()
    assert told(follower) == (False, [("a:1", 1)])
    store.delete("a:1")
    assert told(follower) == (False, [("a:1", DELETED)])


def test_what_was_deleted_before_the_first_poll_is_told_by_the_emptying() -> None:
    store = MemoryStore()
    store.put("a:1", 1)
    store.delete("a:1")
    assert told(Follower(store, "a:")) == (True, [])


def test_a_follower_that_fell_behind_the_remembered_deletions_starts_anew() -> None:
    store = MemoryStore()
    store.put("a:kept", 0)
    follower = Follower(store, "a:")
    follower.poll()
    for number in range(20_000):
        store.put(f"b:{number}", number)
        store.delete(f"b:{number}")
    store.put("a:new", 1)
    assert told(follower) == (True, [("a:kept", 0), ("a:new", 1)])
    assert told(follower) == (False, [])


class Broken(MemoryStore):
    broken = False

    def changes(self, cursor: int | None = None, prefix: str = "") -> tuple[int, list[Change]]:
        if self.broken:
            raise OSError("the disk is gone")
        return super().changes(cursor, prefix)


def test_a_poll_that_failed_is_told_again() -> None:
    store = Broken()
    store.put("a:1", 1)
    follower = Follower(store, "a:")
    follower.poll()
    store.put("a:2", 2)
    store.broken = True
    for _ in range(2):
        try:
            follower.poll()
        except OSError:
            continue
    store.broken = False
    assert told(follower) == (False, [("a:2", 2)])
