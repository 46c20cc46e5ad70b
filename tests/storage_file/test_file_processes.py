"""Several processes on one folder, and what is left when one of them dies."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from converge.core.store import DELETED, Change
from converge.extensions.storage.file import FileStore

WORKER = Path(__file__).with_name("file_worker.py")
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
    FileStore(path).close()
    at = instant()
    counts = {f"k{number}": 0 for number in range(100)}
    for process in [start("race", path, at, name, kind, 100) for name in range(PROCESSES)]:
        for key in json.loads(finish(process)):
            counts[key] += 1
    return counts


def test_put_if_absent_has_one_winner_among_processes(path: Path) -> None:
    assert set(winners(path, "store").values()) == {1}


def test_the_race_catches_a_store_that_checks_and_then_puts(tmp_path: Path) -> None:
    assert any(max(winners(tmp_path / str(attempt), "mutant").values()) > 1 for attempt in range(3))


def test_no_increment_is_lost_and_no_version_given_twice_among_processes(store: FileStore, path: Path) -> None:
    store.put("counter", 0)
    at = instant()
    versions: list[int] = []
    for process in [start("increment", path, at, 50) for _ in range(PROCESSES)]:
        versions += json.loads(finish(process))
    assert store.get("counter") == 50 * PROCESSES
    assert len(set(versions)) == 50 * PROCESSES


def test_processes_may_open_a_new_folder_at_the_same_instant(path: Path) -> None:
    place = path / "new" / "store"
    at = instant()
    for process in [start("first_open", place, at, f"p{number}") for number in range(PROCESSES)]:
        finish(process)
    with FileStore(place) as store:
        assert store.list() == [f"p{number}" for number in range(PROCESSES)]


def test_what_was_accepted_survives_twelve_kills_and_no_version_is_used_again(path: Path) -> None:
    chance = random.Random(7)
    expected: dict[str, int] = {}
    beside = FileStore(path)
    newest = 0
    for seed in range(12):
        process = start("write_until_killed", path, seed)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(chance.randrange(1, 30))]
        process.kill()
        lines += process.communicate()[0].splitlines()
        for line in lines:
            done, version = json.loads(line)
            assert version > newest
            newest = version
            expected |= done
        assert len({beside.get(f"batch-{part}") for part in range(4)}) == 1, "put_many is all or nothing"
        mark = beside.compare_and_set(f"mark-{seed}", seed, 0)
        assert mark > newest
        newest = mark
    beside.close()
    with FileStore(path) as store:
        held = {key: len(str(store.get(key))) if store.get(key) is not None else -1 for key in expected}
        assert all(store.get(key) is not None for key in store.list())
    differ = [key for key, size in expected.items() if held[key] != size]
    # What a writer did last it may not have told: it deletes each fourth key after it has told that it put it.
    assert all(held[key] == -1 and int(key.split("-")[1]) % 4 == 2 for key in differ), differ
    assert len(differ) <= 12
    assert len(expected) > 100
    assert not list(path.glob(".new-*"))


@pytest.mark.parametrize(
    "operation", ["put", "put_if_absent", "delete", "put_many", "delete_many", "compare_and_set_many"]
)
def test_a_writer_killed_before_any_call_has_done_all_of_it_or_nothing(operation: str, path: Path) -> None:
    outcomes = json.loads(finish(start("die_at_each_call", path, operation)))
    assert outcomes[0] == ["old", True]
    assert outcomes[-1] == ["new", True]
    assert all(outcome in (["old", True], ["new", True]) for outcome in outcomes), outcomes
    assert outcomes == sorted(outcomes, key=lambda outcome: outcome[0] == "new"), "old up to one moment, new after it"
    assert len(outcomes) > 5


def test_a_change_by_another_process_is_seen(store: FileStore, path: Path) -> None:
    process = start("say_when_told", path)
    assert process.stdin is not None
    for key in ("a", "b"):
        cursor, _ = store.changes()
        process.stdin.write(f"{key}\n")
        process.stdin.flush()
        limit = time.monotonic() + 10
        changes: list[Change] = []
        while not changes and time.monotonic() < limit:
            if store.may_have_changed(cursor):
                cursor, changes = store.changes(cursor)
        assert [change[:2] for change in changes] == [(key, None)]
    finish(process)


def test_two_processes_that_write_see_all_of_each_other(store: FileStore, path: Path) -> None:
    followers = [start("follow", path, 60) for _ in range(2)]
    for process in followers:
        assert process.stdout is not None
        assert process.stdout.readline() == "following\n"
    for number in range(20):
        store.put(f"k{number}", number)
        store.put_many({f"m{number}": number, f"n{number}": number})
    held = {key: store.get(key) for key in store.list()}
    for process in followers:
        assert json.loads(finish(process)) == held


def test_a_store_cannot_be_used_in_a_forked_child_and_its_parent_goes_on(path: Path) -> None:
    answers = json.loads(finish(start("fork_and_use", path)))
    assert answers == [f"{path}: this store was opened before a fork; open it in the child, after the fork"] * 5


def test_a_killed_writer_leaves_no_lock_not_even_in_a_child_that_lives_on(store: FileStore, path: Path) -> None:
    process = start("die_holding_the_lock", path)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    process.kill()
    process.wait()
    store.put("k", 1)
    assert store.get("k") == 1
    process.communicate()


def test_a_file_that_may_not_grow_is_an_os_error_and_changes_nothing(path: Path) -> None:
    refused, held, kept, seen = json.loads(finish(start("fill", path)))
    assert refused == ["OSError"] * 4
    assert held == {"old": "old", "other": 1}
    assert kept is True
    assert seen == ["later"]
    with FileStore(path) as store:
        assert store.list() == ["k", "later", "old", "other"]
        assert DELETED not in [change.value for change in store.changes(0)[1]]
