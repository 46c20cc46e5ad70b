"""The replica copies what a store holds, and says where a feed breaks its promises."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest

from converge.core.plain import pack
from converge.core.store import Change
from converge.extensions.storage.memory import MemoryStore
from converge.testing.store.replica import Replica

if TYPE_CHECKING:
    import builtins


class ShortMemory(MemoryStore):
    remembered_deletions: ClassVar[int] = 2


def test_a_replica_follows_writes_and_deletions() -> None:
    store = MemoryStore()
    store.put_many({"a": 1, "b": 2})
    replica = Replica(store)
    replica.follow()
    assert replica.held == {"a": pack(1), "b": pack(2)}
    store.delete("a")
    store.put("b", 3)
    replica.follow()
    assert replica.held == {"b": pack(3)}
    assert replica.cursor == store.changes()[0]


def test_a_replica_whose_cursor_has_expired_lists_anew() -> None:
    store = ShortMemory()
    store.put_many(dict.fromkeys("abcde"))
    replica = Replica(store)
    replica.follow()
    store.delete_many("abcd")
    replica.follow()
    assert replica.held == {"e": pack(None)}


class Scripted(MemoryStore):
    """A feed that answers what it is told to."""

    answers: builtins.list[tuple[int, builtins.list[Change]]]

    def changes(self, cursor: int | None = None, prefix: str = "") -> tuple[int, builtins.list[Change]]:
        return self.answers.pop(0)


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        ([(5, []), (4, [])], "the cursor went back from 5 to 4"),
        ([(5, [Change("a", 1, 4), Change("b", 1, 3)])], r"not in the order of their versions: \[4, 3\]"),
        ([(5, [Change("a", 1, 3), Change("a", 1, 4)])], "a key has two entries"),
        ([(5, []), (6, [Change("a", 1, 5)])], "a: version 5 is not after the cursor 5"),
        ([(5, [Change("a", 1, 9)]), (7, [Change("a", 1, 6)])], "a: version 6 was told after 9"),
    ],
)
def test_a_feed_that_breaks_a_promise_is_found(answers: list[tuple[int, list[Change]]], text: str) -> None:
    store = Scripted()
    store.answers = answers
    replica = Replica(store)
    for _ in answers[1:]:
        replica.follow()
    with pytest.raises(AssertionError, match=text):
        replica.follow()
