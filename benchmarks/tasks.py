"""What tasks cost: against a bare claim loop on SQLite, against huey, and as they grow in number.

Run: `python benchmarks/tasks.py [--dir FOLDER] [--rounds N] [--only WORD] [--large N]`. Needs huey, which
`make bench` installs. FOLDER (default: the current one) has to be on a real disk; everything is made in a folder of its
own there and removed. Sides of a comparison run in turn, round by round; figures are medians over the rounds, in
microseconds a task. Exit code 1 when a bar is missed.

- One task after the other, submitted, claimed and reported: three durable commits. The bare side does the same with
  INSERT, UPDATE … RETURNING and UPDATE at the same `synchronous`, without identities, leases, epochs or history; huey
  with enqueue, dequeue and execution, which stores the result, at the same `synchronous`.
- In batches of 100, and 100 agents of one event loop that share commits because they wait at the same time.
- One, two and four processes that claim and report from one store (for information).
- Listing for an agent, and list + claim + report, with many tasks in the store; finished ones; opening.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import apsw
from figures import Figure, compare, header, report, summary

from converge.coordination.task_desk import TaskDesk
from converge.coordination.task_manager import TaskManager
from converge.core.task import Task
from converge.extensions.storage.file import FileStore
from converge.extensions.storage.memory import MemoryStore
from converge.extensions.storage.sqlite import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from converge.core.plain import Plain
    from converge.core.store import VersionedStore

AGENT = "5f3c" * 16
INPUTS: dict[str, Plain] = {"goal": "x" * 100, "doc": "y" * 100}
SCHEMA = """
CREATE TABLE task(id INTEGER PRIMARY KEY, state INTEGER NOT NULL, by TEXT, lease REAL, body BLOB, result BLOB);
CREATE INDEX pending ON task(id) WHERE state = 0;
"""
CLAIM = """
UPDATE task SET state = 1, by = ?, lease = ? WHERE id = (SELECT id FROM task WHERE state = 0 ORDER BY id LIMIT 1)
RETURNING id, body
"""


def timed(count: int, act: Callable[[int], object]) -> float:
    """Microseconds for one of `count` tasks that `act` works on."""
    begin = time.perf_counter()
    act(count)
    return (time.perf_counter() - begin) / count * 1e6


def compare_timed(
    name: str,
    bar: float | None,
    rounds: int,
    count: int,
    ours: Callable[[int], object],
    theirs: Callable[[int], object],
) -> Figure:
    """Both sides in turn, each with `count` tasks."""
    return compare(name, bar, rounds, lambda: timed(count, ours), lambda: timed(count, theirs))


# The three sides


class Tasks:
    """Our side: a manager, and task ids that are not used twice."""

    def __init__(self, store: VersionedStore) -> None:
        self.manager, self.number = TaskManager(store), 0
        self.manager.list_pending_tasks()

    def make(self, **fields: object) -> Task:
        self.number += 1
        return Task(id=f"t{self.number}", objective="sum", inputs=INPUTS, **fields)  # type: ignore[arg-type]  # fields

    def one_by_one(self, count: int) -> None:
        for _ in range(count):
            task_id = self.manager.submit(self.make())
            assert self.manager.claim(AGENT, task_id)
            self.manager.report(AGENT, task_id, {"sum": 3})

    def in_batches(self, count: int) -> None:
        for _ in range(count // 100):
            ids = self.manager.submit_many([self.make() for _ in range(100)])
            assert all(self.manager.claim_many(AGENT, ids))
            assert not self.manager.report_many(AGENT, {task_id: {"sum": 3} for task_id in ids})

    def by_hundred_agents(self, count: int) -> None:
        async def work(desk: TaskDesk, number: int) -> None:
            agent = f"{number:064}"
            for turn in range(count // 100):
                task_id = await desk.submit(Task(id=f"{self.number}-{number}-{turn}", objective="sum", inputs=INPUTS))
                assert await desk.claim(agent, task_id)
                await desk.report(agent, task_id, {"sum": 3})

        async def all_of_them() -> None:
            async with asyncio.TaskGroup() as group:
                for number in range(100):
                    group.create_task(work(TaskDesk.of(self.manager), number))

        self.number += 1
        asyncio.run(all_of_them())


def bare_loop(path: Path, durability: str) -> Callable[[int], None]:
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", "FULL" if durability == "power" else "NORMAL")
    connection.execute(SCHEMA)
    body = json.dumps(INPUTS).encode()

    def cycle(count: int) -> None:
        for _ in range(count):
            connection.execute("INSERT INTO task(state, body) VALUES (0, ?)", (body,))
            ((task_id, _),) = connection.execute(CLAIM, (AGENT, time.time() + 300)).fetchall()
            connection.execute(
                "UPDATE task SET state = 2, result = ? WHERE id = ? AND by = ? AND state = 1", (b"{}", task_id, AGENT)
            )

    return cycle


def huey_loop(path: Path, durability: str) -> Callable[[int], None]:
    from huey import SqliteHuey  # here, because the processes that work tasks off do not need it

    huey = SqliteHuey(filename=str(path), fsync=True if durability == "power" else None)
    if durability != "power":
        huey.storage.conn.execute("pragma synchronous=1")

    @huey.task()  # type: ignore[untyped-decorator]  # huey ships no types
    def job(inputs: dict[str, str]) -> dict[str, int]:
        return {"sum": 3}

    def cycle(count: int) -> None:
        for _ in range(count):
            job(INPUTS)
            huey.execute(huey.dequeue())

    return cycle


# Cases


def cycles(folder: Path, rounds: int) -> Iterator[Figure]:
    for durability in ("power", "process"):
        with opened(durability, folder / f"{durability}.db") as store:
            ours = Tasks(store)
            bare, huey = (
                bare_loop(folder / f"bare-{durability}", durability),
                huey_loop(folder / f"huey-{durability}", durability),
            )
            yield compare_timed(f"one by one / bare SQLite, {durability}", 0.6, rounds, 200, ours.one_by_one, bare)
            yield compare_timed(f"one by one / huey, {durability}", 1.0, rounds, 200, ours.one_by_one, huey)
            bar = 10.0 if durability == "power" else None
            yield compare_timed(f"batches of 100 / huey, {durability}", bar, rounds, 500, ours.in_batches, huey)
            yield compare_timed(
                f"100 agents at once / huey, {durability}", bar, rounds, 1000, ours.by_hundred_agents, huey
            )
    others: dict[str, VersionedStore] = {"memory": MemoryStore(), "file": FileStore(folder / "files")}
    for name, other in others.items():
        ours = Tasks(other)
        yield Figure(
            f"one by one, {name}", statistics.median(timed(100, ours.one_by_one) for _ in range(5)), 0, 0, None
        )


def processes(folder: Path, rounds: int) -> Iterator[Figure]:
    count = 600
    for kind in ("power", "process", "file"):
        for number in (1, 2, 4):
            taken = []
            for turn in range(max(1, rounds // 3)):
                path = folder / f"many-{kind}-{number}-{turn}"
                with opened(kind, path) as store:
                    Tasks(store).manager.submit_many([Task(id=f"t{each}", inputs=INPUTS) for each in range(count)])
                command = [sys.executable, __file__, "--worker", kind, str(path)]
                workers = [subprocess.Popen(command, stdin=-1, stdout=-1, text=True) for _ in range(number)]
                for worker in workers:
                    assert worker.stdout is not None
                    worker.stdout.readline()
                begin = time.perf_counter()
                done = sum(int(worker.communicate("go\n", timeout=120)[0]) for worker in workers)
                taken.append((time.perf_counter() - begin) / count * 1e6)
                assert done == count
            yield Figure(f"list, claim, report by {number} processes, {kind}", statistics.median(taken), 0, 0, None)


def opened(kind: str, path: Path) -> VersionedStore:
    return FileStore(path) if kind == "file" else SQLiteStore(path, kind)  # type: ignore[arg-type]  # power or process


def work_off(kind: str, path: str) -> None:
    """What one of several processes does."""
    agent, done = f"{os.getpid():064}", 0
    with opened(kind, Path(path)) as store:
        manager = TaskManager(store)
        manager.list_pending_tasks()
        print("ready", flush=True)
        sys.stdin.readline()
        while found := manager.list_pending_tasks_for_agent(agent, limit=10):
            for task in found:
                if manager.claim(agent, task.id):
                    manager.report(agent, task.id, {"sum": 3})
                    done += 1
    print(done)


def growth(folder: Path, rounds: int, large: int) -> Iterator[Figure]:
    listings: dict[int, Callable[[int], None]] = {}
    for size in (100, 10_000, large):
        tasks = Tasks(MemoryStore())
        for start in range(0, size - 100, 1000):
            others = [tasks.make(pool_id=f"other{each % 50}") for each in range(min(1000, size - 100 - start))]
            tasks.manager.submit_many(others)
        tasks.manager.submit_many([tasks.make(pool_id="mine") for _ in range(100)])
        listings[size] = listing(tasks.manager)
    for size in (10_000, large):
        yield compare_timed(f"listing 100 of {size:,} tasks / of 100", 0.5, rounds, 50, listings[size], listings[100])
    crowded, quiet = Tasks(MemoryStore()), Tasks(MemoryStore())
    for tasks, size in ((crowded, 100_000), (quiet, 100)):
        for _ in range(0, size, 100):
            tasks.manager.submit_many([tasks.make() for _ in range(100)])
    yield compare_timed(
        "list, claim, report with 100,000 pending / with 100", 0.5, rounds, 50, one_off(crowded), one_off(quiet)
    )
    yield from history(folder, rounds)


def listing(manager: TaskManager) -> Callable[[int], None]:
    def act(count: int) -> None:
        for _ in range(count):
            assert len(manager.list_pending_tasks_for_agent(AGENT, ["mine"], [])) == 100

    return act


def one_off(tasks: Tasks) -> Callable[[int], None]:
    def act(count: int) -> None:
        for _ in range(count):
            (task,) = tasks.manager.list_pending_tasks_for_agent(AGENT, limit=1)
            assert tasks.manager.claim(AGENT, task.id)
            tasks.manager.report(AGENT, task.id, 1)
            tasks.manager.submit(tasks.make())

    return act


def history(folder: Path, rounds: int) -> Iterator[Figure]:
    """100 open tasks, with and without 100,000 that have ended, in SQLite."""
    sides = []
    for finished in (100_000, 0):
        path = folder / f"history-{finished}.db"
        with SQLiteStore(path, "process") as store:
            tasks = Tasks(store)
            for _ in range(0, finished, 1000):
                ids = tasks.manager.submit_many([tasks.make() for _ in range(1000)])
                tasks.manager.claim_many(AGENT, ids)
                tasks.manager.report_many(AGENT, dict.fromkeys(ids, 1))
            tasks.manager.submit_many([tasks.make(pool_id="mine") for _ in range(100)])
            tasks.manager.close()
        sides.append(path)
    stores = [SQLiteStore(path, "process") for path in sides]
    managers = [TaskManager(store) for store in stores]

    def cold(store: VersionedStore) -> Callable[[int], None]:
        def act(count: int) -> None:
            for _ in range(count):
                assert len(TaskManager(store).list_pending_tasks()) == 100

        return act

    def releasing(manager: TaskManager) -> Callable[[int], None]:
        def act(count: int) -> None:
            for _ in range(count):
                manager.release_expired_claims()

        return act

    yield compare_timed(
        "cold open and list, 100,000 finished / none", 0.5, rounds, 5, *(cold(store) for store in stores)
    )
    yield compare_timed(
        "listing, 100,000 finished / none", 0.5, rounds, 50, *(listing(manager) for manager in managers)
    )
    yield compare_timed("releasing claims, 100,000 finished / none", 0.5, rounds, 200, *map(releasing, managers))
    for store in stores:
        store.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dir", default=".", help="a folder on a real disk")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="only cases with this word in their name")
    parser.add_argument(
        "--large", type=int, default=1_000_000, help="tasks in the largest listing; 2 kB of memory each"
    )
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work_off(*arguments.worker)
        return 0
    folder = Path(tempfile.mkdtemp(prefix="converge-tasks-", dir=arguments.dir))
    cases: dict[str, Callable[[], Iterator[Figure]]] = {
        "cycles": lambda: cycles(folder, arguments.rounds),
        "processes": lambda: processes(folder, arguments.rounds),
        "growth": lambda: growth(folder, arguments.rounds, arguments.large),
    }
    figures: list[Figure] = []
    try:
        print(header("µs"))
        for name, case in cases.items():
            figures += report(case() if arguments.only in name else ())
    finally:
        shutil.rmtree(folder)
    return summary("tasks", figures)


if __name__ == "__main__":
    sys.exit(main())
