"""The file store in one process: the contract, and what is its own."""

from __future__ import annotations

import gc
import os
import shutil
import stat
import threading
import time
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pytest

from converge.core.errors import CursorExpired, StoreError, VersionConflict
from converge.core.store import DELETED, Store, Write
from converge.extensions.storage.file import FileStore, StoreFolderError
from converge.extensions.storage.file.names import file_name, place_of, shard_of
from converge.extensions.storage.file.record import encode_record
from converge.plugins import PluginManager
from converge.testing.store import StoreContract
from converge.testing.store.life import LifeContract

if TYPE_CHECKING:
    from collections.abc import Callable


class TestFileStore(StoreContract):
    @pytest.fixture
    def opener(self, path: Path) -> Callable[[], Store]:
        return partial(FileStore, path)


class TestFileStoreBesideOthersThatStayOpen(LifeContract):
    random_histories: ClassVar[int] = 10

    @pytest.fixture
    def store(self, path: Path) -> Store:
        return FileStore(path)

    @pytest.fixture
    def reopen(self, path: Path) -> Callable[[Store], Store]:
        return lambda store: FileStore(path)


# The folder


def test_a_folder_is_made_with_its_parents_for_its_owner_alone(tmp_path: Path) -> None:
    with FileStore(tmp_path / "a" / "b") as store:
        store.put("k", 1)
        store.put_many({"x": 1, "y": 2})
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    found = [*(tmp_path / "a" / "b").rglob("*")]
    assert {stat.S_IMODE(file.stat().st_mode) for file in found if file.is_file()} == {0o600}
    assert {stat.S_IMODE(file.stat().st_mode) for file in found if file.is_dir()} == {0o700}


def test_nothing_but_records_journal_and_counter_is_left_in_the_folder(store: FileStore, path: Path) -> None:
    store.put("k", 1)
    store.put_many({"a": 1, "b": 2, "k": 3})
    store.delete_many(["a", "b"])
    newest, _ = store.changes()
    left = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    shard = shard_of("k")
    assert left == [".journal", f".next-{newest + 1}", f"{shard}/.next-{newest - 4}", f"{shard}/k.record"]


def test_a_record_lies_in_one_of_256_sub_folders_by_the_digest_of_its_key(store: FileStore, path: Path) -> None:
    keys = {f"key-{number}": number for number in range(300)} | {"k" * 500: 1, "é": 2}
    store.put_many(keys)
    for key in keys:
        assert (path / sha256(key.encode()).hexdigest()[:2] / file_name(key)).is_file()
    assert len([*path.glob("??")]) > 100
    assert store.list() == sorted(keys)
    assert store.list("key-29") == sorted(key for key in keys if key.startswith("key-29"))
    assert store.list("kk") == ["k" * 500]


def test_a_sub_folder_is_made_when_its_first_record_is(store: FileStore, path: Path) -> None:
    assert [*path.glob("??")] == []
    for key in ("a", "b", "a"):
        store.put(key, 1)
    assert sorted(folder.name for folder in path.glob("??")) == sorted([shard_of("a"), shard_of("b")])


def test_a_folder_with_records_beside_the_sub_folders_is_refused(tmp_path: Path) -> None:
    for name in (file_name("k"), file_name("k" * 500)):
        place = tmp_path / name[:3]
        place.mkdir()
        (place / name).write_bytes(encode_record("k", 1, b"\xc0"))
        with pytest.raises(StoreFolderError, match="move such files away, or name another folder") as caught:
            FileStore(place)
        assert caught.value.path == str(place / name)
        assert os.listdir(place) == [name], "nothing was written"
        (place / name).unlink()
        FileStore(place).close()


def test_foreign_files_are_left_alone(store: FileStore, path: Path) -> None:
    foreign = ["readme", "task:evil", "README.record", "%zz.record", "%41%41.txt", ".hidden", ".next-x", "é.record"]
    for name in foreign:
        (path / name).write_bytes(b"mine")
    (path / "folder").mkdir()
    store.put("k", 1)
    for name in foreign:
        (path / shard_of("k") / name).write_bytes(b"mine")
    assert store.list() == ["k"]
    assert store.get("readme") is None
    with FileStore(path) as other:
        assert other.list() == ["k"]
        assert [change.key for change in other.changes(0)[1]] == ["k"]
        assert [*other.check()] == []
        assert [*other.repair()] == []
        store.delete("k")
        other.compact()
    for folder in (path, path / shard_of("k")):
        assert [(folder / name).read_bytes() for name in foreign] == [b"mine"] * len(foreign)


def test_a_path_of_the_current_folder_stays_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with FileStore("here") as store:
        monkeypatch.chdir("/")
        store.put("k", 1)
    with FileStore(tmp_path / "here") as store:
        assert store.get("k") == 1


def test_a_path_that_cannot_be_a_folder_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        FileStore(tmp_path / "file")
    with pytest.raises(ValueError, match="an empty path names no folder"):
        FileStore("")


def test_a_folder_that_is_gone_is_an_os_error_and_not_an_absent_key(store: FileStore, path: Path) -> None:
    store.put("k", 1)
    shutil.rmtree(path)
    uses: list[Callable[[], object]] = [lambda: store.get("k"), lambda: store.put("k", 2), store.list, store.changes]
    for use in uses:
        with pytest.raises(FileNotFoundError):
            use()
    assert store.may_have_changed(0)


def test_a_config_builds_it_by_name(path: Path) -> None:
    store = PluginManager().build("store", {"use": "file", "path": str(path)})
    assert isinstance(store, FileStore)
    with store:
        assert repr(store) == f"FileStore({str(path)!r})"
        assert (store.blocking, store.shared) == (True, True)


# Descriptors


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_store_keeps_two_descriptors_and_frees_them(path: Path) -> None:
    gc.collect()  # what the tests before left
    before = open_descriptors()
    store = FileStore(path)
    for number in range(50):
        store.put(f"k{number}", number)
    assert open_descriptors() == before + 2
    store.close()
    assert open_descriptors() == before
    FileStore(path).put("k", 1)
    gc.collect()
    assert open_descriptors() == before, "also when nobody closes it"


# Beside others


def test_store_objects_on_one_folder_see_each_other_through_a_link_too(store: FileStore, path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    with FileStore(link) as other:
        cursor, _ = store.changes()
        version = other.compare_and_set("k", 1, 0)
        assert store.may_have_changed(cursor)
        assert store.get_versioned("k") == (1, version)
        with pytest.raises(VersionConflict):
            store.compare_and_set("k", 2, 0)


def test_readers_of_a_value_do_not_wait_for_a_writer(store: FileStore) -> None:
    store.put("k", "old")
    cursor, _ = store.changes()
    with store._ledger.locked():
        assert store.get("k") == "old"
        assert store.get("absent") is None
        assert not store.may_have_changed(cursor)


def test_asking_for_changes_costs_microseconds(store: FileStore) -> None:
    store.put("k", 1)
    cursor, _ = store.changes()
    best = 1.0
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(1000):
            store.may_have_changed(cursor)
        best = min(best, (time.perf_counter() - begin) / 1000)
    assert best < 50e-6


def test_threads_that_share_store_objects_lose_no_increment(store: FileStore, path: Path) -> None:
    store.put("counter", 0)
    stores = [store, store, FileStore(path), FileStore(path)]

    def increment(own: FileStore) -> None:
        done = 0
        while done < 25:
            found = own.get_versioned("counter")
            assert found is not None
            assert isinstance(found[0], int)
            done += own.compare_and_set_many([Write("counter", found[0] + 1, found[1])]) != [None]

    threads = [threading.Thread(target=increment, args=(own,)) for own in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.get("counter") == 100


def test_closing_while_threads_work_ends_them_with_the_documented_error(path: Path) -> None:
    store = FileStore(path)
    ends: list[str] = []
    started = threading.Barrier(4)

    def work() -> None:
        started.wait()
        try:
            while True:
                store.put("k", 1)
                store.get("k")
                store.changes(0)
                store.may_have_changed(0)
        except StoreError as error:
            ends.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    started.wait()
    store.close()
    for thread in threads:
        thread.join()
    assert ends == [f"{path}: this store is closed; open it again"] * 3


# One commit


def test_of_several_accepted_writes_to_one_key_the_last_one_counts(store: FileStore) -> None:
    store.put("k", 0)
    newest, _ = store.changes()
    found = store.get_versioned("k")
    assert found is not None
    results = store.compare_and_set_many([Write("k", 1, found[1]), Write("k", 2, newest + 1), Write("new", 3, 0)])
    assert results == [newest + 1, newest + 2, newest + 3]
    assert (store.get_versioned("k"), store.get("new")) == ((2, newest + 2), 3)
    assert [change.version for change in store.changes(newest)[1]] == [newest + 2, newest + 3]


def test_a_folder_in_the_place_of_a_record_keeps_the_whole_batch_out(store: FileStore, path: Path) -> None:
    (path / shard_of("k")).mkdir()
    (path / place_of("k")).mkdir()
    writes: list[Callable[[], object]] = [
        lambda: store.put_many({"a": 1, "k": 2}), lambda: store.put("k", 2), lambda: store.delete_many(["k", "a"]),
    ]  # fmt: skip
    for write in writes:
        with pytest.raises(IsADirectoryError):
            write()
    assert store.get("a") is None
    store.put("a", 1)
    assert {".batch"}.isdisjoint(os.listdir(path))


# Forgetting


class ShortMemory(FileStore):
    remembered_writes: ClassVar[int] = 20


def test_a_cursor_expires_when_the_journal_was_shortened_past_it(path: Path) -> None:
    with ShortMemory(path) as store, ShortMemory(path) as other:
        store.put("first", 1)
        cursor, _ = other.changes()
        longest = 0
        for number in range(60):
            store.put("k", number)
            if number == 15:
                assert [change.key for change in other.changes(cursor)[1]] == ["k"]
            longest = max(longest, len(store._ledger.journal))
        with pytest.raises(CursorExpired, match="list again"):
            other.changes(cursor)
        assert [change.key for change in other.changes(0)[1]] == ["first", "k"]
        assert longest <= 2 * 20


def test_a_cursor_stays_good_for_the_documented_number_of_writes(path: Path) -> None:
    with ShortMemory(path) as store:
        store.put_many({f"k{number}": None for number in range(100)})
        for round_ in range(5):
            cursor, _ = store.changes()
            gone = [f"k{round_ * 20 + number}" for number in range(20)]
            for key in gone:
                store.delete(key)
            assert [change.key for change in store.changes(cursor)[1]] == gone
            assert {change.value for change in store.changes(cursor)[1]} == {DELETED}


def test_another_that_shortened_the_journal_is_noticed(path: Path) -> None:
    with ShortMemory(path) as store, ShortMemory(path) as other:
        for number in range(90):
            cursor, _ = store.changes()
            version = other.compare_and_set(f"k{number}", number, 0)
            assert store.may_have_changed(cursor)
            assert store.changes(cursor)[1] == [(f"k{number}", number, version)]
            assert not store.may_have_changed(store.changes()[0])
