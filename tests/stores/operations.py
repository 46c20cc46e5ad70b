"""What the sweeps do to a store, and what the store holds before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from converge.core.store import VersionedStore, Write
from tests.stores.kinds import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import ExitStack
    from pathlib import Path

    from converge.core.errors import StoreError
    from converge.core.plain import Plain

__all__ = ["BEFORE", "READS", "WRITES", "Operation", "damage", "filled", "shown", "version"]

BIG = "new" * 1500  # more than a page
BIG_OLD = "old" * 1400
BEFORE: dict[str, Plain] = {"k": "old", "other": 1, "third": BIG_OLD}


class Operation(NamedTuple):
    """A write with the content that it leads to and what it returns."""

    act: Callable[[VersionedStore], object]
    done: dict[str, Plain]
    returns: object = None


def version(store: VersionedStore, key: str) -> int:
    """The version of `key`, which is there."""
    found = store.get_versioned(key)
    assert found is not None, f"{key} is gone"
    return found[1]


def _compare_and_set(store: VersionedStore) -> bool:
    known = version(store, "k")
    return store.compare_and_set("k", BIG, known) > known


def _compare_and_set_many(store: VersionedStore) -> list[bool]:
    known = version(store, "k")
    writes = [Write("k", "new", known), Write("other", "wrong", known + 1000), Write("n", 1, 0)]
    return [result is not None for result in store.compare_and_set_many(writes)]


def damage(found: Iterable[StoreError]) -> list[str]:
    """What is said to be damaged; what could not be read may be told as an OSError too."""
    return [str(error) for error in found if not isinstance(error, OSError)]


WRITES: dict[str, Operation] = {
    "put": Operation(lambda store: store.put("k", BIG), BEFORE | {"k": BIG}),
    "put of a new key": Operation(lambda store: store.put("n", BIG), BEFORE | {"n": BIG}),
    "compare_and_set": Operation(_compare_and_set, BEFORE | {"k": BIG}, returns=True),
    "compare_and_set of a new key": Operation(
        lambda store: store.compare_and_set("n", 1, 0) > 0, BEFORE | {"n": 1}, returns=True
    ),
    "compare_and_set_many": Operation(
        _compare_and_set_many, BEFORE | {"k": "new", "n": 1}, returns=[True, False, True]
    ),
    "put_if_absent": Operation(lambda store: store.put_if_absent("n", 1), BEFORE | {"n": 1}, returns=True),
    "put_if_absent of a key that exists": Operation(lambda store: store.put_if_absent("k", 1), BEFORE, returns=False),
    "delete": Operation(lambda store: store.delete("k"), {"other": 1, "third": BIG_OLD}),
    "put_many": Operation(
        lambda store: store.put_many({"k": BIG, "n": 1, "m": 2}), BEFORE | {"k": BIG, "n": 1, "m": 2}
    ),
    "compact": Operation(lambda store: store.compact() >= 0, BEFORE, returns=True),
    "repair": Operation(lambda store: damage(store.repair()), BEFORE, returns=[]),
    "delete_many": Operation(lambda store: store.delete_many(["k", "gone", "other"]), {"third": BIG_OLD}),
}

READS: dict[str, Callable[[VersionedStore], object]] = {
    "get": lambda store: store.get("k"),
    "get of a big value": lambda store: store.get("third"),
    "get of an absent key": lambda store: store.get("n"),
    "get_versioned": lambda store: store.get_versioned("latest"),
    "list": lambda store: store.list(),
    "list of a prefix": lambda store: store.list("o"),
    "the first changes": lambda store: store.changes(0)[1],
    "later changes": lambda store: store.changes(version(store, "k"))[1],
    "whether it may have changed": lambda store: store.may_have_changed(1),
}


def filled(kind: str, place: Path, stack: ExitStack, more_writes: int = 0) -> VersionedStore:
    """A store with the content BEFORE, whose latest write is by another object that stays open too."""
    store = stack.enter_context(open_store(kind, place))
    other = stack.enter_context(open_store(kind, place))
    for number in range(more_writes):
        store.put("third", number)
    store.put_many({"k": "older", "other": 1, "gone": 1})
    store.put("third", BIG_OLD)
    store.delete("gone")
    other.put("k", "old")
    return store


def shown(value: object) -> str:
    """`value` for a message, the long texts in it cut."""
    return repr(value).replace(BIG, "new…").replace(BIG_OLD, "old…")
