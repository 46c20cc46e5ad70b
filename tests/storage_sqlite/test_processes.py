"""Several processes on one file, and what is left when one of them dies."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import apsw
import pytest

from converge.extensions.storage.sqlite import SQLiteStore

if TYPE_CHECKING:
    from converge.core.store import VersionedStore

WORKER = Path(__file__).with_name("sqlite_worker.py")
PROCESSES = 4


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WORKER), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


def instant() -> float:
    """A moment at which all processes have started."""
    return time.time() + 1.2


def winners(path: Path, kind: str) -> dict[str, int]:
    SQLiteStore(path).close()
    at = instant()
    counts = {f"k{number}": 0 for number in range(200)}
    for process in [start("race", path, at, name, kind, 200) for name in range(PROCESSES)]:
        for key in json.loads(finish(process)):
            counts[key] += 1
    return counts


def test_put_if_absent_has_one_winner_among_processes(tmp_path: Path) -> None:
    assert set(winners(tmp_path / "s.db", "store").values()) == {1}


def test_the_race_catches_a_store_that_checks_and_then_puts(tmp_path: Path) -> None:
    assert any(max(winners(tmp_path / f"{attempt}.db", "mutant").values()) > 1 for attempt in range(3))


def test_no_increment_is_lost_among_processes(tmp_path: Path) -> None:
    with SQLiteStore(tmp_path / "s.db") as store:
        store.put("counter", 0)
        at = instant()
        for process in [start("increment", tmp_path / "s.db", at, 100) for _ in range(PROCESSES)]:
            finish(process)
        assert store.get("counter") == 100 * PROCESSES


def test_processes_may_open_a_new_file_at_the_same_instant(tmp_path: Path) -> None:
    path = tmp_path / "new" / "s.db"
    at = instant()
    for process in [start("first_open", path, at, f"p{number}") for number in range(PROCESSES)]:
        finish(process)
    with SQLiteStore(path) as store:
        assert store.list() == [f"p{number}" for number in range(PROCESSES)]


def test_what_was_accepted_survives_ten_kills(tmp_path: Path) -> None:
    path, chance = tmp_path / "s.db", random.Random(7)
    expected: dict[str, int] = {}
    for seed in range(10):
        process = start("write_until_killed", path, seed)
        assert process.stdout is not None
        for _ in range(chance.randrange(1, 40)):
            expected.update(json.loads(process.stdout.readline()))
        process.kill()
        for line in process.communicate()[0].splitlines():
            expected.update(json.loads(line))
    with SQLiteStore(path) as store:
        held = {key: len(str(store.get(key))) if store.get(key) is not None else -1 for key in expected}
    differ = [key for key, size in expected.items() if held[key] != size]
    # What a writer did last it may not have told: it deletes each fourth key after it has told that it put it.
    assert all(held[key] == -1 and int(key.split("-")[1]) % 4 == 2 for key in differ), differ
    assert len(differ) <= 10
    assert len(expected) > 100
    connection = apsw.Connection(str(path))
    assert connection.execute("PRAGMA integrity_check").get == "ok"
    connection.close()


def test_a_change_by_another_process_is_seen(tmp_path: Path) -> None:
    with SQLiteStore(tmp_path / "s.db") as store:
        process = start("say_when_told", tmp_path / "s.db")
        assert process.stdin is not None
        cursor, _ = store.changes()
        for number in range(5):
            assert not store.may_have_changed(cursor)
            process.stdin.write(f"k{number}\n")
            process.stdin.flush()
            cursor = follow_to(store, cursor, f"k{number}")
        finish(process)


def follow_to(store: VersionedStore, cursor: int, key: str) -> int:
    deadline = time.monotonic() + 30
    while not store.may_have_changed(cursor):
        assert time.monotonic() < deadline, f"{key} was never seen"
    cursor, changes = store.changes(cursor)
    assert [change.key for change in changes] == [key]
    return cursor


def test_a_forked_child_is_told_to_open_its_own_store(tmp_path: Path) -> None:
    answers = json.loads(finish(start("fork_and_use", tmp_path / "s.db")))
    assert len(answers) == 3
    assert all("open it in the child, after the fork" in answer for answer in answers)


def test_a_writer_killed_in_a_write_leaves_no_lock_even_with_a_living_child(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    process = start("die_holding_the_lock", path)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "locked\n"
    process.kill()
    process.wait()
    try:
        subprocess.run([sys.executable, str(WORKER), "put_once", str(path)], check=True, timeout=20)
    finally:
        process.communicate()  # ends the child, which waits for the end of its input
    with SQLiteStore(path) as store:
        assert store.list() == ["k"]


@pytest.mark.parametrize("limit", [100_000, 300_001])
def test_a_write_that_finds_no_space_changes_nothing_and_later_ones_work(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "s.db"
    accepted, refused, (keys, old), later = json.loads(finish(start("fill", path, limit)))
    assert accepted > 0
    assert refused.startswith(f"StoreFileError: {path}: ")
    assert "nothing was changed" in refused
    assert keys == sorted(["old", *(f"a{number}" for number in range(accepted))])
    assert (old, later) == (accepted - 1, 1)


def test_a_read_only_folder_is_an_error_that_says_what_to_do() -> None:
    with tempfile.TemporaryDirectory() as name:  # not tmp_path: the worker becomes a user who may not enter that
        folder = Path(name)
        folder.chmod(0o555)
        said = finish(start("open_in_read_only_folder", folder / "s.db"))
        assert said.startswith(f"StoreFileError: {folder / 's.db'}: Permission denied; see that the folder exists")
        assert list(folder.iterdir()) == []
