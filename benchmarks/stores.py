"""What the stores cost, as ratios to what they stand on, both measured in turn in one run.

Run: `python benchmarks/stores.py [--dir FOLDER] [--rounds N] [--only WORD]`. FOLDER (default: the current one) has to
be on a real disk; everything is made in a folder of its own there and removed. A figure is the median over the rounds;
in each round both sides do the same number of operations, one right after the other, with values that change each time
and are encoded each time. Exit code 1 when a bar is missed.

- SQLite against plain apsw with the same schema, statement and pragmas (and no checksum, lock or check of the value);
- 16 threads that put on one object against one that does, and how many of their puts share a flush. The gain in time
  depends on what a flush costs: beyond it a put costs its share of the interpreter, which threads do not share;
- file store against create, write, fsync, close, rename and fsync of the folder, of bytes of the same length;
- memory store, put and get, against msgpack pack and unpack;
- a get among 1,000,000 keys against one among 1,000;
- four processes that write one SQLite store for ten seconds: the longest put, and how late an event loop beside runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import apsw
import msgpack
from figures import Figure, compare_numbered, each, header, report, summary

from converge.extensions.storage.file import FileStore
from converge.extensions.storage.memory import MemoryStore
from converge.extensions.storage.sqlite import SQLiteStore
from converge.extensions.storage.sqlite.opening import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from converge.core.plain import Plain

KEYS = 1_000
CALLERS = 16
PUT = """
INSERT INTO kv(key, version, crc, value) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT(key) DO UPDATE SET version = ?2, crc = ?3, value = ?4
"""
GET = "SELECT version, crc, value FROM kv WHERE key = ?"


def value(number: int) -> dict[str, Plain]:
    """A task record of some 330 bytes."""
    return {
        "id": f"task-{number}", "objective": "read the report and say what changed", "state": "assigned",
        "inputs": {"report": f"reports/{number}.md", "sections": ["summary", "figures"]}, "pool": "reviewers",
        "claim": {"agent": "5f3c" * 16, "epoch": number % 7, "since": 1_795_000_000_000 + number, "ttl": 300.0},
        "constraints": {"timeout_sec": 60.0, "max_retries": 2}, "result": None,
    }  # fmt: skip


def key(number: int) -> str:
    """One of `KEYS` keys, in no order of the tree."""
    return f"task:{number * 7919 % KEYS:08}"


def plain_database(path: Path, durability: str) -> apsw.Connection:
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", "FULL" if durability == "power" else "NORMAL")
    for statement in SCHEMA:
        connection.execute(statement)
    return connection


def sqlite_put(folder: Path, rounds: int, durability: str) -> Iterator[Figure]:
    plain = plain_database(folder / f"plain-{durability}.db", durability)
    version = 0

    def put_plain(number: int) -> None:
        nonlocal version
        version += 1
        plain.execute(PUT, (key(number).encode(), version, 0, msgpack.packb(value(number))))

    def put_plain_many(number: int) -> None:
        nonlocal version
        rows = []
        for place in range(100):
            version += 1
            rows.append((key(number * 100 + place).encode(), version, 0, msgpack.packb(value(number + place))))
        with plain:
            plain.executemany(PUT, rows)

    with SQLiteStore(folder / f"store-{durability}.db", durability) as store:  # type: ignore[arg-type]  # one of the two

        def put(number: int) -> None:
            store.put(key(number), value(number))

        def put_many(number: int) -> None:
            store.put_many({key(number * 100 + place): value(number + place) for place in range(100)})

        yield compare_numbered(f"SQLite put, {durability}", 0.8, rounds, 1000, put, put_plain)
        yield compare_numbered(f"SQLite put_many of 100, {durability}", 0.7, rounds, 20, put_many, put_plain_many)
    plain.close()


def sqlite_callers(folder: Path, rounds: int) -> Iterator[Figure]:
    operations = 500
    flushes = 0

    def flushed() -> bool:
        nonlocal flushes
        flushes += 1
        return False

    with SQLiteStore(folder / "callers.db") as store:
        store._database._writer.connection.set_commit_hook(flushed)

        def work(own: int, start: int) -> None:
            for number in range(start, start + operations):
                store.put(key(number * CALLERS + own), value(number))

        def all_callers(start: int) -> float:
            threads = [threading.Thread(target=work, args=(own, start)) for own in range(CALLERS)]
            begin = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return (time.perf_counter() - begin) / (CALLERS * operations) * 1e6

        pairs = []
        for number in range(rounds + 1):
            start = number * operations
            alone = each(operations * 4, lambda each: store.put(key(each), value(each)), start)
            flushes = 0
            pairs.append((all_callers(start), alone))
    many, one = (statistics.median(side) for side in zip(*pairs[1:], strict=True))
    ratio = statistics.median(alone / shared for shared, alone in pairs[1:])
    yield Figure(f"SQLite put, power, {CALLERS} callers against one", many, one, ratio, 5.0)
    yield Figure(f"  puts of {CALLERS} callers that share a flush", 0, 0, CALLERS * operations / flushes, 5.0)


def sqlite_large(folder: Path, rounds: int) -> Iterator[Figure]:
    chance = random.Random(1)
    stores = {}
    for size in (KEYS, 1_000_000):
        store = stores[size] = SQLiteStore(folder / f"size-{size}.db", "process")
        for start in range(0, size, 10_000):
            store.put_many({f"task:{number:08}": value(number) for number in range(start, min(size, start + 10_000))})
    small, large = stores.values()
    figure = compare_numbered(
        "within 2: SQLite get among 1,000,000 keys / among 1,000", 2.0, rounds, 2000,
        lambda _: large.get(f"task:{chance.randrange(1_000_000):08}"),
        lambda _: small.get(f"task:{chance.randrange(KEYS):08}"),
    )  # fmt: skip
    yield figure._replace(ratio=1 / figure.ratio)
    for store in stores.values():
        store.close()


# File and memory


def file_put(folder: Path, rounds: int) -> Iterator[Figure]:
    bare = folder / "bare"
    bare.mkdir()
    descriptor = os.open(bare, os.O_RDONLY | os.O_DIRECTORY)

    def put_bare(number: int) -> None:
        data = msgpack.packb(value(number))
        temporary = f"{bare}/.new-{number}"
        opened = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(opened, data)
        os.fsync(opened)
        os.close(opened)
        os.rename(temporary, f"{bare}/{key(number)}")  # noqa: PTH104  # a Path would slow the bare side down
        os.fsync(descriptor)

    with FileStore(folder / "file") as store:
        yield compare_numbered(
            "file put", 0.8, rounds, 200, lambda number: store.put(key(number), value(number)), put_bare
        )
    os.close(descriptor)


def memory(rounds: int) -> Iterator[Figure]:
    store = MemoryStore()

    def ours(number: int) -> None:
        name = key(number)
        store.put(name, value(number))
        store.get(name)

    def theirs(number: int) -> None:
        key(number)
        msgpack.unpackb(msgpack.packb(value(number)))

    yield compare_numbered("memory put and get / msgpack pack and unpack", 0.5, rounds, 5000, ours, theirs)


# Four processes at once


def crowd(folder: Path) -> Iterator[Figure]:
    path = folder / "crowd.db"
    SQLiteStore(path).close()
    begin = time.time() + 2
    command = [sys.executable, __file__, "--writer", str(path), str(begin)]
    writers = [subprocess.Popen([*command, str(number)], stdout=subprocess.PIPE, text=True) for number in range(4)]
    found = [json.loads(writer.communicate(timeout=60)[0]) for writer in writers]
    puts = sum(each["puts"] for each in found)
    print(f"four writers for 10 s: {puts / 10:,.0f} puts/s in all, median put {found[1]['median'] * 1e3:.2f} ms")
    yield Figure("ms, longest put of four processes", 0, 0, max(one["worst"] for one in found) * 1e3, 250, at_most=True)
    yield Figure("ms, longest stall of an event loop beside", 0, 0, found[0]["late"] * 1e3, 50, at_most=True)


def write_for_ten_seconds(path: str, begin: float, number: int) -> dict[str, float]:
    """What one of the four processes does; the first one writes from a thread, beside an event loop."""
    taken: list[float] = []
    with SQLiteStore(path) as store:

        def write() -> None:
            time.sleep(max(0, begin - time.time()))
            count = 0
            while time.time() < begin + 10:
                start = time.perf_counter()
                store.put(f"{number}:{key(count)}", value(count))
                taken.append(time.perf_counter() - start)
                count += 1

        late = 0.0
        if number == 0:
            late = asyncio.run(beside(write))
        else:
            write()
    return {"puts": len(taken), "worst": max(taken), "median": statistics.median(taken), "late": late}


async def beside(work: Callable[[], None]) -> float:
    """By how much a loop that wakes every millisecond was late at worst, while `work` ran in a thread."""
    thread = asyncio.create_task(asyncio.to_thread(work))
    worst = 0.0
    while not thread.done():
        start = time.perf_counter()
        await asyncio.sleep(0.001)
        worst = max(worst, time.perf_counter() - start - 0.001)
    await thread
    return worst


def flush(folder: Path) -> float:
    """Microseconds of a 4 KiB write and flush, to tell what the disk does."""
    descriptor = os.open(folder / "flush", os.O_WRONLY | os.O_CREAT)

    def once(number: int) -> None:
        os.pwrite(descriptor, b"x" * 4096, number % 100 * 4096)
        os.fdatasync(descriptor)

    taken = statistics.median(each(20, once, 0) for _ in range(25))
    os.close(descriptor)
    return taken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dir", default=".", help="a folder on a real disk")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="only cases with this word in their name")
    parser.add_argument("--writer", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.writer:
        path, begin, number = arguments.writer
        print(json.dumps(write_for_ten_seconds(path, float(begin), int(number))))
        return 0
    folder = Path(tempfile.mkdtemp(prefix="converge-stores-", dir=arguments.dir))
    cases: dict[str, Callable[[], Iterator[Figure]]] = {
        "memory": lambda: memory(arguments.rounds),
        "sqlite put process": lambda: sqlite_put(folder, arguments.rounds, "process"),
        "sqlite put power": lambda: sqlite_put(folder, arguments.rounds, "power"),
        "sqlite callers": lambda: sqlite_callers(folder, arguments.rounds),
        "file": lambda: file_put(folder, arguments.rounds),
        "sqlite large": lambda: sqlite_large(folder, arguments.rounds),
        "crowd": lambda: crowd(folder),
    }
    figures: list[Figure] = []
    try:
        print(f"a 4 KiB write and flush: {flush(folder):.0f} µs")
        print(header("µs"))
        for name, case in cases.items():
            figures += report(case() if arguments.only in name else ())
    finally:
        shutil.rmtree(folder)
    return summary("stores", figures)


if __name__ == "__main__":
    sys.exit(main())
