"""The SQLite store in one process: the contract, opening, reading beside a writer, forgetting."""

from __future__ import annotations

import gc
import pickle
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import apsw
import pytest

from converge.core.errors import CursorExpired, StoreError, VersionConflict
from converge.core.store import Store, Write
from converge.extensions.storage.sqlite import SQLiteOptions, SQLiteStore, StoreFileError, StoreFormatError
from converge.extensions.storage.sqlite.opening import require_sound_wal
from converge.testing.store import StoreContract

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    with SQLiteStore(path) as store:
        yield store


class TestSQLiteStore(StoreContract):
    @pytest.fixture
    def store(self, path: Path) -> Store:
        return SQLiteStore(path)

    @pytest.fixture
    def reopen(self, path: Path) -> Callable[[Store], Store]:
        def reopen(store: Store) -> Store:
            store.close()
            return SQLiteStore(path)

        return reopen


class TestSQLiteStoreSafeFromTheProcessOnly(StoreContract):
    @pytest.fixture
    def store(self, path: Path) -> Store:
        return SQLiteStore(path, durability="process")

    @pytest.fixture
    def reopen(self, path: Path) -> Callable[[Store], Store]:
        return lambda store: SQLiteStore(path, durability="process")  # beside the first one, which stays open


# Opening


def test_opening_makes_the_folders_and_files_that_only_the_owner_may_read(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "s.db"
    with SQLiteStore(str(path)) as store:
        store.put("k", 1)
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert modes == dict.fromkeys(["s.db", "s.db-shm", "s.db-wal", "s.db.lock"], 0o600)


def test_the_durability_sets_how_a_commit_is_synced(tmp_path: Path) -> None:
    power = SQLiteStore(tmp_path / "power.db")
    process = SQLiteStore(tmp_path / "process.db", durability="process")
    assert power._database._writer.pragma("synchronous") == 2
    assert process._database._writer.pragma("synchronous") == 1
    assert power._database._writer.pragma("journal_mode") == "wal"
    with pytest.raises(ValueError, match='"power" or "process", not \'none\''):
        SQLiteStore(tmp_path / "s.db", durability="none")  # type: ignore[arg-type]  # the point of the test


def test_options_take_a_path_as_text_and_refuse_another_durability(path: Path) -> None:
    assert SQLiteStore.converge_options is SQLiteOptions
    assert SQLiteOptions("s.db") == SQLiteOptions(Path("s.db"), "power")
    with pytest.raises(ValueError, match="durability"):
        SQLiteOptions(path, "none")  # type: ignore[arg-type]  # the point of the test


def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    for content in (b"hello", b"not a database, but long enough to have a header" * 100):
        path.write_bytes(content)
        with pytest.raises(StoreFormatError, match=r"s\.db: this is no SQLite database") as caught:
            SQLiteStore(path)
        assert isinstance(caught.value.__cause__, apsw.Error)
        assert path.read_bytes() == content


def test_a_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    other = apsw.Connection(str(path))
    other.execute("CREATE TABLE users(name)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(StoreFormatError, match="not a Converge store; name another path"):
        SQLiteStore(path)
    assert path.read_bytes() == before


def test_a_store_of_another_schema_is_refused(path: Path) -> None:
    SQLiteStore(path).close()
    newer = apsw.Connection(str(path))
    newer.execute("UPDATE meta SET schema = 99")
    newer.close()
    with pytest.raises(StoreFormatError, match=r"s\.db: this store has schema 99, .* reads schema 1; use the version"):
        SQLiteStore(path)


def test_a_folder_in_place_of_the_file_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StoreFileError, match=r"s\.db: SQLite: .*; see that it is a file, not a folder"):
        SQLiteStore(path)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/s\.db: .*name another path"):
        SQLiteStore(tmp_path / "file" / "s.db")


@pytest.mark.parametrize("path", ["", ":memory:"])
def test_a_path_without_a_file_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="use MemoryStore"):
        SQLiteStore(path)


def test_a_sqlite_that_corrupts_shared_files_is_refused() -> None:
    for version in ("3.40.1", "3.51.2"):
        with pytest.raises(StoreError, match=rf"SQLite {version}, .*pip install --upgrade apsw"):
            require_sound_wal(version)
    for version in ("3.51.3", "3.52.0", "4.0"):
        require_sound_wal(version)


def open_descriptors() -> int:
    gc.collect()
    return len([*Path("/proc/self/fd").iterdir()])


def test_a_failed_opening_leaves_no_descriptor_behind(path: Path) -> None:
    path.write_bytes(b"hello")
    before = open_descriptors()
    for _ in range(5):
        with pytest.raises(StoreFormatError):
            SQLiteStore(path)
    assert open_descriptors() <= before


def test_a_store_that_nobody_closes_frees_its_descriptors_when_it_is_gone(path: Path) -> None:
    before = open_descriptors()
    SQLiteStore(path).put("k", 1)
    assert open_descriptors() <= before


def test_errors_carry_their_data_through_pickle() -> None:
    error = pickle.loads(pickle.dumps(StoreFileError("s.db", "the disk is full", 28)))
    assert (error.path, error.reason, error.errno, str(error)) == (
        "s.db",
        "the disk is full",
        28,
        "s.db: the disk is full",
    )
    refused = pickle.loads(pickle.dumps(StoreFormatError("s.db", "no store")))
    assert (refused.path, refused.reason, str(refused)) == ("s.db", "no store", "s.db: no store")


# Beside others


def test_readers_do_not_wait_for_a_writer(store: SQLiteStore, path: Path) -> None:
    store.put("k", "old")
    cursor, _ = store.changes()
    with SQLiteStore(path) as other, other._database.writing(10) as batch:
        batch.put("k", b"\xc0")
        for reader in (store, other):
            assert reader.get("k") == "old"
            assert reader.list() == ["k"]
            assert reader.changes(cursor) == (cursor, [])
            assert not reader.may_have_changed(cursor)
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

    def fail_midway() -> None:
        with store._database.writing(10) as batch:
            batch.put("k", b"\xc0")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_midway()
    assert store.changes(cursor) == (cursor, [])
    store.put("k", 2)
    assert store.get("k") == 2


def test_a_full_disk_is_an_os_error_and_changes_nothing(store: SQLiteStore) -> None:
    store.put("k", "old")
    writer = store._database._writer
    writer.pragma("max_page_count", writer.pragma("page_count"))
    with pytest.raises(StoreFileError, match="the disk is full; free some space") as caught:
        store.put_many({"k": "new", "big": b"x" * 100_000})
    assert caught.value.errno == 28
    assert isinstance(caught.value.__cause__, apsw.FullError)
    assert (store.list(), store.get("k")) == (["k"], "old")
    writer.pragma("max_page_count", 1_000_000)
    store.put("big", b"x" * 100_000)


def test_a_database_held_by_another_program_is_an_os_error(store: SQLiteStore, path: Path) -> None:
    store._database._writer.set_busy_timeout(10)
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
