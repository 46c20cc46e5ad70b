"""What a call of a tool costs where it runs: against the standard library's own processes.

Run: `python benchmarks/tools.py [--rounds N] [--calls N]`. Linux. Sides of a comparison run in turn, round by round;
figures are medians over the rounds, in microseconds a call; all calls wait for the one before. Exit code 1 when a bar
is missed.

- A tool in a warm process, with its limits, its timeout and what kills it, beside a bare call in a warm
  `concurrent.futures.ProcessPoolExecutor`, which has none of these, and beside a process for each call from
  multiprocessing's forkserver, which is the plain way to a call that can be killed.
- A tool that hangs: what it takes beyond its timeout until the next tool has answered, in a process killed and
  replaced, beside the same with a forkserver process.
- In a thread and on the event loop (for information).

Every forkserver process imports this file, so Converge is imported where it is used.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from multiprocessing.connection import Connection

IMPORTED = ["argparse", "asyncio", "concurrent.futures", "json", "multiprocessing", "statistics"]
TIMEOUT_SEC = 0.1
WARM, COLD, HUNG = 300, 20, 5
"""Calls in a round that are warm, that start a process, and that hang."""


def plus_one(x: int) -> int:
    return x + 1


def hang(x: int) -> int:
    time.sleep(60)
    return x


class InProcess:
    name, isolation = "process", "process"

    def run(self, params: dict[str, Any]) -> int:
        return plus_one(params["x"])


class Hanging:
    name, isolation, timeout_sec = "hanging", "process", TIMEOUT_SEC

    def run(self, params: dict[str, Any]) -> int:
        return hang(params["x"])


class InThread:
    name, isolation = "thread", "thread"

    def run(self, params: dict[str, Any]) -> int:
        return plus_one(params["x"])


class Inline:
    name = "inline"

    async def run(self, params: dict[str, Any]) -> int:
        return plus_one(params["x"])


class Figure(NamedTuple):
    """One line of the report; `bar` 0 is for information."""

    name: str
    ours: float
    theirs: float
    ratio: float
    bar: float

    @property
    def met(self) -> bool:
        """Whether theirs takes long enough beside ours."""
        return self.ratio >= self.bar


class Tools:
    """Our side: an executor with the tools above."""

    def __init__(self) -> None:
        from converge.core.decisions import InvokeTool
        from converge.core.tools import ToolRegistry
        from converge.runtime.executor import StandardExecutor

        registry = ToolRegistry()
        for each in (InProcess, Hanging, InThread, Inline):
            registry.register(each())
        self.executor, self.decision = StandardExecutor("me", tool_registry=registry), InvokeTool

    async def call(self, name: str, x: int) -> object:
        (outcome,) = await self.executor.execute([self.decision(name, {"x": x})])
        return outcome.value

    def calls(self, name: str) -> Callable[[int], Awaitable[None]]:
        async def act(count: int) -> None:
            for x in range(count):
                assert await self.call(name, x) == x + 1

        return act

    async def hangs(self, count: int) -> None:
        for x in range(count):
            assert await self.call("hanging", x) is None
            assert await self.call("process", x) == x + 1


class Library:
    """The standard library's side."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(IMPORTED)
        self.pool = ProcessPoolExecutor(1, mp_context=self.context)

    async def pooled(self, count: int) -> None:
        loop = asyncio.get_running_loop()
        for x in range(count):
            assert await loop.run_in_executor(self.pool, plus_one, x) == x + 1

    async def forked(self, count: int) -> None:
        for x in range(count):
            assert await asyncio.to_thread(self._fork, plus_one, x, 60) == x + 1

    async def hangs(self, count: int) -> None:
        for x in range(count):
            assert await asyncio.to_thread(self._fork, hang, x, TIMEOUT_SEC) is None
            assert await asyncio.to_thread(self._fork, plus_one, x, 60) == x + 1

    def _fork(self, call: Callable[[int], int], x: int, timeout: float) -> int | None:
        ours, theirs = self.context.Pipe(duplex=False)
        process = self.context.Process(target=answer, args=(theirs, call, x))
        process.start()
        theirs.close()
        value: int | None = ours.recv() if ours.poll(timeout) else None
        process.kill()
        process.join()
        ours.close()
        return value


def answer(channel: Connection, call: Callable[[int], int], x: int) -> None:
    channel.send(call(x))


async def timed(count: int, act: Callable[[int], Awaitable[None]], idle_sec: float = 0.0) -> float:
    """Microseconds for each of `count` calls, without the `idle_sec` in which each only waits."""
    begin = time.perf_counter()
    await act(count)
    return ((time.perf_counter() - begin) / count - idle_sec) * 1e6


async def compare(
    name: str,
    bar: float,
    rounds: int,
    ours: tuple[int, Callable[[int], Awaitable[None]]],
    theirs: tuple[int, Callable[[int], Awaitable[None]]],
    idle_sec: float = 0.0,
) -> Figure:
    """Ours, then theirs, `rounds` times in turn; one round before is not counted."""
    taken = [
        (await timed(*ours, idle_sec=idle_sec), await timed(*theirs, idle_sec=idle_sec)) for _ in range(rounds + 1)
    ][1:]
    our, their = (statistics.median(side) for side in zip(*taken, strict=True))
    return Figure(name, our, their, statistics.median(each[1] / each[0] for each in taken), bar)


async def measured(rounds: int) -> list[Figure]:
    tools, library = Tools(), Library()
    pooled = (WARM, library.pooled)
    try:
        return [
            await compare("process : pool of processes", 0.4, rounds, (WARM, tools.calls("process")), pooled),
            await compare(
                "process : forkserver per call", 5.0, rounds, (WARM, tools.calls("process")), (COLD, library.forked)
            ),
            await compare(
                "hung, killed, next : forkserver",
                0.2,
                rounds,
                (HUNG, tools.hangs),
                (HUNG, library.hangs),
                idle_sec=TIMEOUT_SEC,
            ),
            await compare("thread : pool of processes", 0.0, rounds, (WARM, tools.calls("thread")), pooled),
            await compare("inline : pool of processes", 0.0, rounds, (WARM, tools.calls("inline")), pooled),
        ]
    finally:
        library.pool.shutdown()
        await tools.executor.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    figures = asyncio.run(measured(parser.parse_args().rounds))
    print(f"{'':34} {'ours µs':>10} {'theirs µs':>10} {'ratio':>7} {'bar':>5}")
    for figure in figures:
        bar = f"{figure.bar:5.1f}" if figure.bar else ""
        print(f"{figure.name:34} {figure.ours:10.0f} {figure.theirs:10.0f} {figure.ratio:7.2f} {bar}")
    print(json.dumps({figure.name: round(figure.ratio, 2) for figure in figures}))
    missed = [figure.name for figure in figures if not figure.met]
    for name in missed:
        print(f"bar missed: {name}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
