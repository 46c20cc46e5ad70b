"""Damaged files: an error that names the place, never a wrong value, and never a version used twice."""

from __future__ import annotations

import os
import pickle
import shutil
from typing import TYPE_CHECKING

import pytest

from converge.core.errors import CursorExpired, StoreCorruption
from converge.core.plain import Plain
from converge.core.store import DELETED
from converge.extensions.storage.file import FileStore, StoreFolderError
from converge.extensions.storage.file.names import place_of
from converge.extensions.storage.file.record import encode_record, seal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VALUE: Plain = {"objective": "a value whose every byte is turned over", "n": [1, 2.5, None, b"\0\1"]}


def assert_corrupt(store: FileStore, key: str, place: Path) -> StoreCorruption:
    with pytest.raises(StoreCorruption) as caught:
        store.get(key)
    assert (caught.value.key, caught.value.place) == (key, str(place))
    uses: list[Callable[[], object]] = [lambda: store.compare_and_set(key, 1, 0), lambda: store.changes(0)]
    for use in uses:
        with pytest.raises(StoreCorruption):
            use()
    assert store.get("other") == 2
    assert store.list() == ["k", "other"]
    return caught.value


def test_each_flipped_byte_and_each_cut_of_a_record_is_a_corruption(store: FileStore, path: Path) -> None:
    store.put_many({"k": VALUE, "other": 2})
    place = path / place_of("k")
    sound = place.read_bytes()
    for at in range(len(sound)):
        place.write_bytes(sound[:at] + bytes([sound[at] ^ 0x41]) + sound[at + 1 :])
        assert_corrupt(store, "k", place)
        place.write_bytes(sound[:at])
        assert_corrupt(store, "k", place)
    place.write_bytes(sound + b"\0")
    assert "checksum" in assert_corrupt(store, "k", place).reason
    place.write_bytes(sound)
    assert store.get("k") == VALUE


def test_putting_a_corrupt_record_anew_repairs_it(store: FileStore, path: Path) -> None:
    store.put_many({"k": VALUE, "other": 2})
    repairs: list[Callable[[], object]] = [lambda: store.put("k", 1), lambda: store.put_many({"k": 1, "new": 1})]
    for repair in repairs:
        (path / place_of("k")).write_bytes(b"garbage")
        assert not store.put_if_absent("k", 0)
        repair()
        assert store.get("k") == 1
    (path / place_of("k")).write_bytes(b"")
    store.delete("k")
    assert store.get("k") is None


def test_a_record_of_another_key_is_a_corruption(store: FileStore, path: Path) -> None:
    store.put_many({"k": VALUE, "other": 2})
    (path / place_of("k")).write_bytes((path / place_of("other")).read_bytes())
    assert assert_corrupt(store, "k", path / place_of("k")).reason == "it is the record of 'other'"


def test_what_has_a_sound_checksum_and_is_no_record_is_a_corruption(store: FileStore, path: Path) -> None:
    store.put_many({"k": VALUE, "other": 2})
    for content in (seal(b"cvrecord", ["k", "1", b"\xc0"]), seal(b"cvrecord", None), pickle.dumps(VALUE)):
        (path / place_of("k")).write_bytes(content)
        assert_corrupt(store, "k", path / place_of("k"))
    (path / place_of("k")).write_bytes(encode_record("k", 1, b"\xc1"))
    with pytest.raises(StoreCorruption):
        store.get("k")


def test_a_folder_or_a_pipe_in_the_place_of_a_record_is_a_corruption(store: FileStore, path: Path) -> None:
    store.put_many({"k": VALUE, "other": 2})
    place = path / place_of("k")
    place.unlink()
    place.mkdir()
    assert assert_corrupt(store, "k", place).reason == "it is not a regular file"
    place.rmdir()
    os.mkfifo(place)
    assert assert_corrupt(store, "k", place).reason == "it is not a regular file"


def test_a_damaged_record_of_a_long_key_is_named_by_its_file(store: FileStore, path: Path) -> None:
    store.put_many({"k" * 500: 1, "a": 2})
    assert store.list("k") == ["k" * 500]
    (place,) = path.glob("*/*~*")
    place.write_bytes(b"cvrecord")
    with pytest.raises(StoreCorruption) as caught:
        store.list()
    assert (caught.value.key, caught.value.place) == (place.name, str(place))
    assert store.list("a") == ["a"]


# The journal


def lived(path: Path) -> tuple[int, int, int]:
    """A store with some history: a cursor from within it, the newest version, the number of keys."""
    with FileStore(path) as store:
        store.put_many({"k0": 0, "k1": 1})
        cursor, _ = store.changes()
        store.put("k0", "new")
        store.delete("k1")
        store.put("é", "added")
        return cursor, store.changes()[0], len(store.list())


def assert_goes_on(path: Path, cursor: int, newest: int, keys: int) -> None:
    with FileStore(path) as store:
        assert len(store.list()) == len(store.changes(0)[1]) == keys
        try:
            seen = [change[:2] for change in store.changes(cursor)[1]]
        except CursorExpired:
            pass
        else:
            assert seen == [("k0", "new"), ("k1", DELETED), ("é", "added")]
        present, _ = store.changes()
        assert present >= newest
        assert store.compare_and_set("next", 1, 0) > newest
        assert [change.key for change in store.changes(present)[1]] == ["next"]


def test_a_journal_torn_or_turned_over_at_every_byte_loses_no_change_and_reuses_no_version(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    cursor, newest, keys = lived(whole)
    sound = (whole / ".journal").read_bytes()
    damages = [sound[:at] for at in range(len(sound))]
    damages += [sound[:at] + bytes([sound[at] ^ 0x11]) + sound[at + 1 :] for at in range(len(sound))]
    damages += [sound + b"\0", b"\0" * len(sound)]
    for number, damage in enumerate(damages):
        place = tmp_path / str(number)
        shutil.copytree(whole, place)
        (place / ".journal").write_bytes(damage)
        assert_goes_on(place, cursor, newest, keys)


def test_a_store_without_its_own_files_goes_on_after_its_newest_record(path: Path) -> None:
    cursor, newest, keys = lived(path)
    (path / ".journal").unlink()
    assert_goes_on(path, cursor, newest, keys)
    with FileStore(path) as store:
        found = store.get_versioned("next")
        assert found is not None
    for file in [*path.glob(".*"), *path.glob("*/.next-*")]:
        file.unlink()
    (path / place_of("k0")).write_bytes(b"damaged")
    with FileStore(path) as store:
        assert store.compare_and_set("again", 1, 0) > found[1]


def test_damage_to_the_journal_is_noticed_by_an_open_store(store: FileStore, path: Path) -> None:
    for damage in (b"", b"garbage", None):
        newest = store.compare_and_set("k", 1, 0)
        if damage is None:
            (path / ".journal").unlink()
        else:
            (path / ".journal").write_bytes(damage)
        assert store.may_have_changed(newest)
        assert store.get("absent") is None
        store.delete("k")
        with pytest.raises(CursorExpired):
            store.changes(newest)
        assert store.compare_and_set("k", 2, 0) > newest
        store.delete("k")


def test_a_journal_cut_between_entries_under_an_open_store_reuses_no_version(path: Path) -> None:
    with FileStore(path) as store:
        store.put("k", 1)
        sound = (path / ".journal").read_bytes()
        newest = store.compare_and_set("k", 2, store.changes()[0])
        (path / ".journal").write_bytes(sound)
        with FileStore(path) as other:
            assert other.compare_and_set("k", 3, newest) > newest


def test_a_version_that_was_seen_before_a_power_cut_took_the_write_is_not_given_out_again(tmp_path: Path) -> None:
    with FileStore(tmp_path / "s") as store:
        for number in range(3):
            cut = tmp_path / str(number)
            shutil.copytree(tmp_path / "s", cut)
            store.put("k", number)
            found = store.get_versioned("k")
            assert found is not None
            with FileStore(cut) as after:
                assert after.compare_and_set("new", 1, 0) > found[1]


# The list of an unfinished batch


DAMAGED_BATCHES = {
    "garbage": b"garbage",
    "of another shape": seal(b"cv-batch", None),
    "with half a step": seal(b"cv-batch", [["k"]]),
    "with a number for a key": seal(b"cv-batch", [[1, 2, None]]),
}


@pytest.mark.parametrize("content", DAMAGED_BATCHES.values(), ids=DAMAGED_BATCHES)
def test_a_damaged_batch_is_told_at_each_use_and_its_removal_goes_on(content: bytes, path: Path) -> None:
    with FileStore(path) as store:
        store.put("k", 1)
        (path / ".batch").write_bytes(content)
        with FileStore(path) as opened:
            uses: list[Callable[[], object]] = [
                lambda: store.get("k"), lambda: store.put("k", 2), store.list, store.compact,
                lambda: opened.get("k"), lambda: opened.put("k", 2), opened.changes, lambda: opened.may_have_changed(1),
            ]  # fmt: skip
            for use in uses:
                with pytest.raises(StoreFolderError, match="repair the store to go on") as caught:
                    use()
                assert caught.value.path == str(path / ".batch")
            (path / ".batch").unlink()
            assert store.get("k") == opened.get("k") == 1
            opened.put("k", 2)
            assert store.get("k") == 2


def test_the_error_about_a_folder_carries_its_data_through_pickle() -> None:
    error = pickle.loads(pickle.dumps(StoreFolderError("s/.batch", "is damaged")))
    assert (error.path, error.reason, str(error)) == ("s/.batch", "is damaged", "s/.batch: is damaged")
