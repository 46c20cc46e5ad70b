"""What a store takes, keeps and gives back."""
# these are tests, shipped to authors
# the name of a test is its sentence

from __future__ import annotations

import pytest
from hypothesis import given, settings

from converge.core.plain import MAX_DEPTH, Plain, pack
from converge.core.store import MAX_KEY_BYTES, Store
from converge.testing.store.fixtures import StoreFixtures, in_threads
from converge.testing.store.model import KEYS, VALUES

__all__ = ["ValueContract"]


_ODD_KEYS = [
    "a", "A", "\u00e9", "e\u0301", "\u212b", "\u00c5", "..", ".", "/", "../up", "/etc/x", "a/b", "a\\b", "a\0",
    "a\0b", "%", "_", "a%", "a_", "~", "a.tmp", "CON", " ", "a ", "\n", "a:b", "\U0001d54f", "k" * MAX_KEY_BYTES,
    "\u00e9" * (MAX_KEY_BYTES // 2),
]  # fmt: skip
_REFUSED_KEYS = ["", "k" * (MAX_KEY_BYTES + 1), "\u00e9" * (MAX_KEY_BYTES // 2 + 1), "\ud800"]


def _too_deep() -> Plain:
    value: Plain = 0
    for _ in range(MAX_DEPTH + 1):
        value = [value]
    return value


_REFUSED_VALUES: list[object] = [
    object(), {1, 2}, {1: "a"}, {"a": {None: 1}}, 2**63, -(2**63) - 1, "\ud800", bytearray(b"x"), 1j, [print],
    _too_deep(),
]  # fmt: skip


class ValueContract(StoreFixtures):
    """Keys, values, listing, and the one winner."""

    def test_every_plain_value_comes_back_equal(self, store: Store) -> None:
        @settings(max_examples=60, deadline=None, database=None)
        @given(KEYS, VALUES)
        def comes_back(key: str, value: Plain) -> None:
            store.put(key, value)
            assert pack(store.get(key)) == pack(value), "of the same types, too: True is not 1"

        comes_back()

    def test_a_tuple_comes_back_as_a_list(self, store: Store) -> None:
        store.put("k", (1, ("a",)))  # type: ignore[arg-type]  # taken, though not of the declared type
        assert store.get("k") == [1, ["a"]]

    @pytest.mark.parametrize("value", _REFUSED_VALUES, ids=lambda value: type(value).__name__)
    def test_a_value_that_is_not_plain_data_changes_nothing(self, store: Store, value: Plain) -> None:
        store.put("old", 1)
        for write in (store.put, store.put_if_absent):
            for key in ("old", "new"):
                with pytest.raises(TypeError):
                    write(key, value)
        assert store.list() == ["old"]
        assert store.get("old") == 1

    @pytest.mark.parametrize("key", _REFUSED_KEYS, ids=["empty", "long", "long-in-bytes", "surrogate"])
    def test_a_key_outside_of_the_domain_is_refused(self, store: Store, key: str) -> None:
        for write in (store.put, store.put_if_absent):
            with pytest.raises(ValueError, match="key"):
                write(key, 1)
        assert store.list() == []

    def test_distinct_keys_are_distinct_records(self, store: Store) -> None:
        for number, key in enumerate(_ODD_KEYS):
            store.put(key, number)
        assert store.list() == sorted(_ODD_KEYS)
        assert [store.get(key) for key in _ODD_KEYS] == [*range(len(_ODD_KEYS))]
        for key in _ODD_KEYS[::2]:
            store.delete(key)
        assert store.list() == sorted(_ODD_KEYS[1::2])

    def test_a_prefix_is_literal(self, store: Store) -> None:
        for key in ("a%b", "a_b", "axb", "A%b", "a", "b", "\u00e9t\u00e9", "e"):
            store.put(key, None)
        assert store.list("a%") == ["a%b"]
        assert store.list("a_") == ["a_b"]
        assert store.list("a") == ["a", "a%b", "a_b", "axb"]
        assert store.list("\u00e9") == ["\u00e9t\u00e9"]
        assert store.list("\ud800") == store.list("zz") == []

    def test_what_get_returns_is_the_callers_own(self, store: Store) -> None:
        given_value: dict[str, Plain] = {"list": [1]}
        store.put("k", given_value)
        given_value["list"] = "changed"
        first = store.get("k")
        assert first == {"list": [1]}
        first["list"] = "changed"
        assert store.get("k") == {"list": [1]}

    def test_none_is_a_value_and_absence_is_not(self, store: Store) -> None:
        assert store.get("k") is None
        store.delete("k")
        store.put("k", None)
        assert store.get("k") is None
        assert store.list() == ["k"]
        assert store.put_if_absent("k", 1) is False

    def test_three_megabytes_are_one_value(self, store: Store) -> None:
        store.put("k", b"\xa5" * 3_000_000)
        assert store.get("k") == b"\xa5" * 3_000_000

    def test_put_if_absent_has_one_winner_among_threads(self, store: Store) -> None:
        wins: list[str] = []

        def take(name: int) -> None:
            wins.extend(key for number in range(100) if store.put_if_absent(key := f"k{number}", name))

        in_threads(take)
        assert sorted(wins) == store.list(), "each key has one winner"
