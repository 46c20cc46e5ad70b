"""Damaged files: an error that names the place, never a wrong value."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import apsw
import pytest

from converge.core.errors import StoreCorruption, StoreError
from converge.core.plain import Plain, pack
from converge.extensions.storage.sqlite import SQLiteStore

if TYPE_CHECKING:
    from pathlib import Path

VALUE: Plain = {"objective": "a value whose every byte is turned over", "n": [1, 2.5, None, b"\0\1"]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "s.db"
    with SQLiteStore(path) as store:
        store.put_many({"before": 1, "k": VALUE, "later": 2})
        store.delete("before")
    return path


def test_each_flipped_byte_of_a_value_is_a_corruption_that_names_key_and_file(path: Path) -> None:
    sound, packed = path.read_bytes(), pack(VALUE)
    assert sound.count(packed) == 1
    begin = sound.index(packed)
    for place in range(begin, begin + len(packed)):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 0x41]) + sound[place + 1 :])
        with SQLiteStore(path) as store:
            with pytest.raises(StoreCorruption, match="the checksum does not match") as caught:
                store.get("k")
            assert (caught.value.key, caught.value.place) == ("k", str(path))
            with pytest.raises(StoreCorruption):
                store.changes(0)
            assert store.get("later") == 2
            assert store.list() == ["k", "later"]


def test_putting_a_corrupt_record_anew_repairs_it(path: Path) -> None:
    damage(path, "UPDATE kv SET value = x'c0' WHERE key = CAST('k' AS BLOB)")
    with SQLiteStore(path) as store:
        with pytest.raises(StoreCorruption):
            store.get("k")
        assert not store.put_if_absent("k", "new")
        store.put("k", "new")
        assert store.get("k") == "new"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE kv SET value = NULL WHERE value IS NOT NULL",
        "UPDATE kv SET value = x'80' WHERE value IS NULL",
        "UPDATE kv SET version = version + 100",
        "UPDATE kv SET version = 'x' || version",
        "UPDATE kv SET value = 'text'",
    ],
)
def test_a_row_that_was_changed_by_hand_is_a_corruption(path: Path, statement: str) -> None:
    damage(path, statement)
    with SQLiteStore(path) as store, pytest.raises(StoreCorruption):
        [store.get(key) for key in ("before", "k")]


def test_a_key_that_is_not_text_is_a_corruption(path: Path) -> None:
    damage(path, "UPDATE kv SET key = x'ff00' WHERE key = CAST('k' AS BLOB)")
    with SQLiteStore(path) as store:
        assert store.get("later") == 2
        assert store.list("later") == ["later"]
        damage(path, "UPDATE kv SET key = x'6bff' WHERE key = x'ff00'")
        with pytest.raises(StoreCorruption, match="not UTF-8"):
            store.list("")


def damage(path: Path, statement: str) -> None:
    connection = apsw.Connection(str(path))
    connection.execute(statement)
    connection.close()


def test_a_byte_flipped_anywhere_never_gives_a_wrong_value_nor_an_undocumented_error(path: Path) -> None:
    sound, chance = path.read_bytes(), random.Random(11)
    for _ in range(300):
        place, bit = chance.randrange(len(sound)), 1 << chance.randrange(8)
        path.write_bytes(sound[:place] + bytes([sound[place] ^ bit]) + sound[place + 1 :])
        use(path)


def test_a_file_cut_anywhere_never_gives_a_wrong_value_nor_an_undocumented_error(path: Path) -> None:
    sound = path.read_bytes()
    for length in [*range(1, 200, 13), *range(200, len(sound), 997)]:
        path.write_bytes(sound[:length])
        use(path)


def use(path: Path) -> None:
    """Do everything; a `StoreError` is an answer, a value must be the right one."""
    try:
        with SQLiteStore(path) as store:
            assert store.get("k") in (VALUE, None)
            assert store.get("later") in (2, None)
            store.list()
            store.changes(0)
            store.put("k", VALUE)
            assert store.get("k") == VALUE
            store.delete("later")
    except StoreError:
        pass
    finally:
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
