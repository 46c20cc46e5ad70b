"""The SQLite store in one process: the contract, reading beside a writer, forgetting."""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import apsw
import pytest

from converge.core.errors import CursorExpired, StoreError, VersionConflict
from converge.core.store import Store, Write
from converge.extensions.storage.sqlite import SQLiteStore, StoreFileError
from converge.testing.store import StoreContract

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.extensions.storage.sqlite.writer import Writer


class TestSQLiteStore(StoreContract):
    @pytest.fixture
    def opener(self, path: Path) -> Callable[[], Store]:
        return partial(SQLiteStore, path)


class TestSQLiteStoreSafeFromTheProcessOnly(StoreContract):
    processes = 0  # it differs by a flush of the disk, which no process can see

    @pytest.fixture
    def opener(self, path: Path) -> Callable[[], Store]:
        return partial(SQLiteStore, path, durability="process")

    @pytest.fixture
    def reopen(self, opener: Callable[[], Store]) -> Callable[[Store], Store]:
        return lambda store: opener()  # beside the first one, which stays open


# Beside others


def test_readers_do_not_wait_for_a_writer(store: SQLiteStore, path: Path) -> None:
    store.put("k", "old")
    cursor, _ = store.changes()

    def write_and_read_meanwhile(writer: Writer) -> None:
        writer.put(b"k", b"\xc0")
        for reader in (store, other):
            assert reader.get("k") == "old"
            assert reader.list() == ["k"]
            assert reader.changes(cursor) == (cursor, [])
            assert not reader.may_have_changed(cursor)

    with SQLiteStore(path) as other:
        other._database.write(write_and_read_meanwhile)
    assert store.may_have_changed(cursor)


def test_asking_for_changes_costs_microseconds(store: SQLiteStore) -> None:
    store.put("k", 1)
    cursor, _ = store.changes()
    best = 1.0
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(1000):
            store.may_have_changed(cursor)
        best = min(best, (time.perf_counter() - begin) / 1000)
    assert best < 50e-6


def test_store_objects_on_one_file_see_each_other_through_a_link_too(store: SQLiteStore, path: Path) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    with SQLiteStore(link) as other:
        cursor, _ = store.changes()
        version = other.compare_and_set("k", 1, 0)
        assert store.may_have_changed(cursor)
        assert store.get_versioned("k") == (1, version)
        with pytest.raises(VersionConflict):
            store.compare_and_set("k", 2, 0)
    assert not link.with_name("link.db.lock").exists()


def test_threads_that_share_store_objects_lose_no_increment(store: SQLiteStore, path: Path) -> None:
    store.put("counter", 0)
    stores = [store, store, SQLiteStore(path), SQLiteStore(path)]

    def increment(own: SQLiteStore) -> None:
        done = 0
        while done < 50:
            found = own.get_versioned("counter")
            assert found is not None
            assert isinstance(found[0], int)
            done += own.compare_and_set_many([Write("counter", found[0] + 1, found[1])]) != [None]

    threads = [threading.Thread(target=increment, args=(own,)) for own in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.get("counter") == 200


def test_closing_while_threads_work_ends_them_with_the_documented_error(path: Path) -> None:
    store = SQLiteStore(path, durability="process")
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


# Failure in the middle


def test_an_exception_in_a_transaction_undoes_it_and_frees_the_lock(store: SQLiteStore) -> None:
    store.put("k", 1)
    cursor, _ = store.changes()

    def fail_midway(writer: Writer) -> None:
        writer.put(b"k", b"\xc0")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store._database.write(fail_midway)
    assert store.changes(cursor) == (cursor, [])
    store.put("k", 2)
    assert store.get("k") == 2


def test_a_full_disk_is_an_os_error_and_changes_nothing(store: SQLiteStore) -> None:
    store.put("k", "old")
    writer = store._database._writer.connection
    writer.pragma("max_page_count", writer.pragma("page_count"))
    with pytest.raises(StoreFileError, match="the disk is full; free some space") as caught:
        store.put_many({"k": "new", "big": b"x" * 100_000})
    assert caught.value.errno == 28
    assert isinstance(caught.value.__cause__, apsw.FullError)
    assert (store.list(), store.get("k")) == (["k"], "old")
    writer.pragma("max_page_count", 1_000_000)
    store.put("big", b"x" * 100_000)


def test_a_database_held_by_another_program_is_an_os_error(store: SQLiteStore, path: Path) -> None:
    store._database._writer.connection.set_busy_timeout(10)
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreFileError, match="another program holds the database"):
        store.put("k", 1)
    other.execute("ROLLBACK")
    other.close()
    store.put("k", 1)


# Forgetting deletions


class ShortMemory(SQLiteStore):
    remembered_writes: ClassVar[int] = 20


def test_a_cursor_expires_when_deletions_after_it_are_forgotten(path: Path) -> None:
    with ShortMemory(path, durability="process") as store:
        store.put("first", 1)
        cursor, _ = store.changes()
        for number in range(100):
            store.put("hint", number)
            store.delete("hint")
            store.put(f"gone{number}", None)
            store.delete(f"gone{number}")
            if number == 4:
                assert {change.key for change in store.changes(cursor)[1]} == {"hint", *(f"gone{n}" for n in range(5))}
        with pytest.raises(CursorExpired, match="list again"):
            store.changes(cursor)
        assert [change.key for change in store.changes(0)[1]] == ["first"]
        rows = store._database.read("SELECT count(*) FROM kv", ())[0][0]
    assert isinstance(rows, int)
    assert rows <= 1 + 40, "forgotten deletions take no space"


def test_a_cursor_stays_good_for_the_documented_number_of_writes(path: Path) -> None:
    with ShortMemory(path, durability="process") as store:
        store.put_many({f"k{number}": None for number in range(200)})
        for round_ in range(10):
            cursor, _ = store.changes()
            gone = [f"k{round_ * 20 + number}" for number in range(20)]
            store.delete_many(gone)
            assert [change.key for change in store.changes(cursor)[1]] == gone


def test_versions_go_on_when_every_record_is_forgotten(path: Path) -> None:
    with ShortMemory(path) as store:
        store.put_many({f"k{number}": None for number in range(100)})
        newest, _ = store.changes()
        store.delete_many(store.list())
    with ShortMemory(path) as store:
        assert store.compare_and_set("k0", 1, 0) > newest + 99
