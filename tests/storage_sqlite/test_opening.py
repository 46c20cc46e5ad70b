"""Opening a SQLite store: what is made, what is refused, and what is left behind."""

from __future__ import annotations

import gc
import pickle
from pathlib import Path

import apsw
import pytest

from converge.core.errors import StoreError
from converge.extensions.storage.sqlite import SQLiteOptions, SQLiteStore, StoreFileError, StoreFormatError
from converge.extensions.storage.sqlite.opening import require_sound_wal


def test_opening_makes_the_folders_and_files_that_only_the_owner_may_read(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "s.db"
    with SQLiteStore(str(path)) as store:
        store.put("k", 1)
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert modes == dict.fromkeys(["s.db", "s.db-shm", "s.db-wal", "s.db.lock"], 0o600)


def test_the_durability_sets_how_a_commit_is_synced(tmp_path: Path) -> None:
    power = SQLiteStore(tmp_path / "power.db")
    process = SQLiteStore(tmp_path / "process.db", durability="process")
    assert power._database._writer.connection.pragma("synchronous") == 2
    assert process._database._writer.connection.pragma("synchronous") == 1
    assert power._database._writer.connection.pragma("journal_mode") == "wal"
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
    with pytest.raises(StoreFormatError, match=r"s\.db: this store has schema 99, .* reads schema 3; use the version"):
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
