"""Real processes that claim, join and vote in one SQLite file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from converge.coordination.ballot import BallotBox
from converge.coordination.pool_manager import PoolManager
from converge.coordination.task_manager import TaskManager
from converge.core.task import Task, TaskState
from converge.extensions.storage.sqlite import SQLiteStore
from tests.core.coordination.at_once import run_at_once

WORKER = Path(__file__).with_name("task_worker.py")
PROCESSES, TASKS = 4, 60


def run_all(what: str, path: Path, *arguments: object) -> list[str]:
    """What each process printed; all of them begin at one instant."""
    return run_at_once(
        [str(WORKER), what, str(path), f"w{number}", *map(str, arguments)] for number in range(PROCESSES)
    )


def claim_race(path: Path, kind: str) -> tuple[Counter[str], Counter[str]]:
    """How often each task was claimed, and reported."""
    with SQLiteStore(path, durability="process") as store:
        TaskManager(store).submit_many([Task(id=f"t{number}") for number in range(TASKS)])
        claimed: Counter[str] = Counter()
        reported: Counter[str] = Counter()
        for printed in run_all("claim", path, kind, TASKS):
            mine, done = json.loads(printed)
            claimed.update(mine)
            reported.update(done)
        return claimed, reported


def test_each_task_is_claimed_by_one_of_four_processes(tmp_path: Path) -> None:
    claimed, reported = claim_race(tmp_path / "s.db", "store")
    assert claimed == reported == Counter(f"t{number}" for number in range(TASKS))
    with SQLiteStore(tmp_path / "s.db") as store:
        manager = TaskManager(store)
        assert manager.list_pending_tasks() == []
        tasks = [manager.get_task(f"t{number}") for number in range(TASKS)]
        assert all(task and task.state is TaskState.COMPLETED and task.result == task.assigned_to for task in tasks)


def test_the_claim_race_catches_a_store_that_reads_checks_and_puts(tmp_path: Path) -> None:
    def loses(attempt: int) -> bool:  # not each time: on a busy machine the processes may come one after the other
        claimed, _ = claim_race(tmp_path / f"{attempt}.db", "mutant")
        return max(claimed.values()) > 1

    assert any(loses(attempt) for attempt in range(5))


def end_race(path: Path, kind: str, count: int) -> dict[str, list[str]]:
    """Which processes ended each task: w0 and w1 report it, w2 and w3 cancel it."""
    with SQLiteStore(path, durability="process") as store:
        manager = TaskManager(store)
        ids = manager.submit_many([Task(id=f"t{number}") for number in range(count)])
        manager.claim_many("holder", ids)
        ended = [json.loads(printed) for printed in run_all("end", path, kind, count)]
        return {name: [f"w{number}" for number, mine in enumerate(ended) if name in mine] for name in ids}


def test_a_task_reported_and_cancelled_at_one_instant_is_ended_by_one_process(tmp_path: Path) -> None:
    winners = end_race(tmp_path / "s.db", "store", 300)
    assert {len(names) for names in winners.values()} == {1}
    with SQLiteStore(tmp_path / "s.db") as store:
        for task_id, (winner,) in winners.items():
            task = TaskManager(store).get_task(task_id)
            assert task is not None
            reported = winner in ("w0", "w1")
            assert task.state is (TaskState.COMPLETED if reported else TaskState.CANCELLED)
            assert task.result == (winner if reported else None)


def test_the_end_race_catches_a_store_that_reads_checks_and_puts(tmp_path: Path) -> None:
    assert any(max(map(len, end_race(tmp_path / f"{n}.db", "mutant", 120).values())) > 1 for n in range(5))


def test_processes_that_join_and_vote_at_one_instant_lose_nobody(tmp_path: Path) -> None:
    with SQLiteStore(tmp_path / "s.db", durability="process") as store:
        PoolManager(store).create_pool({"id": "p"})
        run_all("join", tmp_path / "s.db", 25)
        members = {f"w{process}-{number}" for process in range(PROCESSES) for number in range(25)}
        pool = PoolManager(store).get_pool("p")
        assert pool is not None
        assert pool.agents == members
        assert BallotBox(store).votes("v") == {member: member.split("-")[0] for member in members}
