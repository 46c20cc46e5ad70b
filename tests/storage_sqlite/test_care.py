"""Checking, compacting and backing up a database while it is in use."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import apsw
import pytest

from converge.core.errors import StoreCorruption, StoreError
from converge.core.store import DELETED
from converge.extensions.storage.sqlite import SQLiteStore, StoreFileError, StoreFormatError

if TYPE_CHECKING:
    from collections.abc import Iterable

HEADER = 100


def content(store: SQLiteStore) -> object:
    """Everything that a store tells."""
    keys = store.list()
    return keys, [store.get_versioned(key) for key in keys], store.changes(0), store.changes(1)


# check


def test_a_sound_store_has_no_problems_also_while_it_is_written(store: SQLiteStore) -> None:
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            store.put(f"k{number % 50}", "x" * (number % 3000))
            store.delete(f"k{(number + 7) % 50}")
            number += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert [problem for _ in range(10) for problem in store.check()] == []
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE kv SET value = x'c0' WHERE key = CAST('b' AS BLOB)", StoreCorruption),
        ("UPDATE kv SET version = 77 WHERE key = CAST('b' AS BLOB)", StoreCorruption),
        ("UPDATE kv SET key = 'b' WHERE key = CAST('b' AS BLOB)", StoreCorruption),
        ("UPDATE kv SET key = x'ff' WHERE key = CAST('b' AS BLOB)", StoreCorruption),
        ("UPDATE meta SET floor = 2", StoreFormatError),
        ("DROP INDEX kv_deleted", StoreFormatError),
        ("CREATE TABLE other(a)", StoreFormatError),
        (f"UPDATE meta SET floor = 9, crc = {__import__('zlib').crc32(b'floor 9')}", StoreFormatError),
    ],
)
def test_each_kind_of_damage_is_found_and_only_it(path: Path, statement: str, expected: type[StoreError]) -> None:
    with SQLiteStore(path) as store:
        store.put_many({key: key * 3 for key in "abc"})
    connection = apsw.Connection(str(path))
    connection.execute(statement)
    connection.close()
    with SQLiteStore(path) as store:
        (problem,) = store.check()
    assert isinstance(problem, expected)
    assert str(path) in str(problem)


def test_several_damaged_records_are_all_told(path: Path) -> None:
    with SQLiteStore(path) as store:
        store.put_many({f"k{number:04}": number for number in range(1200)})
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE kv SET crc = crc + 1 WHERE version % 100 = 0")
    connection.close()
    with SQLiteStore(path) as store:
        problems = [problem for problem in store.check() if isinstance(problem, StoreCorruption)]
    assert [problem.key for problem in problems] == [f"k{number:04}" for number in range(99, 1200, 100)]


def flipped_unnoticed(path: Path, places: Iterable[int]) -> list[int]:
    """The places where a turned bit changes what the store tells and `check` says nothing."""
    with SQLiteStore(path) as store:
        expected = content(store)
    sound, unnoticed = path.read_bytes(), []
    chance = random.Random(5)
    for place in places:
        flipped = bytes([sound[place] ^ (1 << chance.randrange(8))])
        path.write_bytes(sound[:place] + flipped + sound[place + 1 :])
        try:
            with SQLiteStore(path) as store:
                found = [*store.check()]
                if not found and content(store) != expected:
                    unnoticed.append(place)
        except StoreError:
            pass
        finally:
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.write_bytes(sound)
    return unnoticed


@pytest.fixture
def filled(path: Path) -> Path:
    with SQLiteStore(path) as store:
        store.put_many({f"key-{number}": {"n": number, "pad": "p" * (number * 7 % 90)} for number in range(80)})
        store.delete_many([f"key-{number}" for number in range(0, 80, 9)])
        store.put("large", "l" * 9000)
    return path


def test_a_bit_flipped_anywhere_is_found_or_changes_nothing(filled: Path) -> None:
    size = filled.stat().st_size
    chance = random.Random(3)
    assert flipped_unnoticed(filled, [*range(HEADER), *(chance.randrange(size) for _ in range(400))]) == []


@pytest.mark.soak
def test_a_bit_flipped_at_every_byte_is_found_or_changes_nothing(filled: Path) -> None:
    assert flipped_unnoticed(filled, range(filled.stat().st_size)) == []


# compact


def test_compacting_gives_space_back_and_loses_nothing(path: Path) -> None:
    with SQLiteStore(path, durability="process") as store:
        store.put_many({f"k{number}": os.urandom(1000) for number in range(2000)})
        cursor, _ = store.changes()
        store.delete_many([f"k{number}" for number in range(1, 2000)])
        before = content(store)
        given = store.compact()
        assert given > 1_500_000
        assert path.stat().st_size < 500_000
        assert path.with_name("s.db-wal").stat().st_size == 0
        assert content(store) == before
        assert {change.value for change in store.changes(cursor)[1]} == {DELETED}
        assert store.compact() == 0
        assert store.compare_and_set("k1", 1, 0) > before[2][0]  # type: ignore[index]  # the cursor in it


def test_others_write_and_read_while_the_store_is_compacted(store: SQLiteStore, path: Path) -> None:
    store.put_many({f"old{number}": os.urandom(500) for number in range(3000)})
    stop, counts, errors = threading.Event(), [0, 0], []

    def work(number: int, use: SQLiteStore) -> None:
        try:
            while not stop.is_set():
                use.put(f"{number}-{counts[number]}", number)
                counts[number] += 1
                assert use.get("old7") is not None
        except BaseException as error:  # raised in the thread of the test
            errors.append(error)

    with SQLiteStore(path) as other:
        threads = [threading.Thread(target=work, args=(number, use)) for number, use in enumerate((store, other))]
        for thread in threads:
            thread.start()
        for _ in range(5):
            store.compact()
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []
    assert min(counts) > 0
    assert len(store.list()) == 3000 + sum(counts)
    assert [*store.check()] == []


KILLED = """
import sys
from converge.extensions.storage.sqlite import SQLiteStore
store = SQLiteStore(sys.argv[1], durability="process")
print("ready", flush=True)
while True:
    {}
"""


@pytest.mark.parametrize(
    "act", ["store.compact()", "store.backup(sys.argv[1] + '.copy'); __import__('os').unlink(sys.argv[1] + '.copy')"]
)
def test_a_kill_in_the_middle_leaves_the_store_whole(act: str, path: Path) -> None:
    with SQLiteStore(path, durability="process") as store:
        store.put_many({f"k{number}": os.urandom(700) for number in range(1500)})
        expected = content(store)
        chance = random.Random(2)
        for _ in range(4):
            child = subprocess.Popen(
                [sys.executable, "-c", KILLED.format(act), str(path)], stdout=subprocess.PIPE, text=True
            )
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            threading.Event().wait(chance.uniform(0.005, 0.08))
            child.kill()
            child.communicate()
            assert content(store) == expected
            assert [*store.check()] == []
            copy = path.with_name("s.db.copy")
            if copy.exists():
                with SQLiteStore(copy) as whole:
                    assert content(whole) == expected
                copy.unlink()


def test_compacting_without_space_changes_nothing(store: SQLiteStore) -> None:
    store.put_many({f"k{number}": "x" * 500 for number in range(300)})
    store.delete_many([f"k{number}" for number in range(200)])
    before = content(store)
    connection = store._database._writer.connection
    connection.set_progress_handler(lambda: True, 200)
    with pytest.raises(StoreError, match=r"s\.db: SQLite: .*interrupted"):
        store.compact()
    connection.set_progress_handler(None)
    assert content(store) == before
    store.put("later", 1)


# backup


def test_a_backup_is_a_store_with_the_same_content_versions_and_cursors(store: SQLiteStore, tmp_path: Path) -> None:
    store.put_many({"a": 1, "b": [2], "c": None})
    store.delete("c")
    target = tmp_path / "backup.db"
    store.backup(target)
    store.put("later", 1)
    with SQLiteStore(target) as copy:
        assert copy.list() == ["a", "b"]
        assert copy.changes(1)[0] == 4
        assert [change[:2] for change in copy.changes(3)[1]] == [("c", DELETED)]
        assert copy.compare_and_set("a", 2, 1) == 5
        assert [*copy.check()] == []
    assert target.stat().st_mode & 0o777 == 0o600
    assert {each.name for each in tmp_path.iterdir()} >= {"s.db", "backup.db"}
    assert not [each for each in tmp_path.iterdir() if ".new" in each.name]


def test_a_backup_beside_writers_is_of_one_instant(store: SQLiteStore, path: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        number = 0
        with SQLiteStore(path, durability="process") as other:
            while not stop.is_set():
                number += 1
                other.put_many({"left": number, "pad": os.urandom(2000), "right": number})

    store.put_many({"left": 0, "right": 0} | {f"k{number}": os.urandom(900) for number in range(1500)})
    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(5):
            target = path.with_name(f"copy{number}.db")
            store.backup(target)
            with SQLiteStore(target) as copy:
                assert copy.get("left") == copy.get("right")
                assert [*copy.check()] == []
    finally:
        stop.set()
        thread.join()


def test_a_backup_replaces_nothing_and_says_what_it_cannot_do(store: SQLiteStore, path: Path, tmp_path: Path) -> None:
    store.put("k", 1)
    taken = tmp_path / "taken"
    taken.write_text("mine")
    for target in (taken, path):
        with pytest.raises(StoreFileError, match="there is a file already; name another path"):
            store.backup(target)
    assert taken.read_text() == "mine"
    with pytest.raises(StoreFileError, match="No such file or directory; see that the folder exists"):
        store.backup(tmp_path / "missing" / "copy.db")
    assert store.get("k") == 1


def test_a_closed_store_is_told_so(path: Path) -> None:
    store = SQLiteStore(path)
    store.close()
    with pytest.raises(StoreError, match="closed"):
        next(store.check())
    for use in (store.compact, lambda: store.backup(path.with_name("copy"))):
        with pytest.raises(StoreError, match="closed"):
            use()
