"""What running agents costs: idle ones, the way to `decide`, and requests, beside bare queues and other libraries.

Run: `python benchmarks/runtime.py [--rounds N] [--only WORD] [--agents N] [--dir FOLDER]`. Sides of a comparison run in
turn, round by round; figures are medians over the rounds. Exit code 1 when a bar is missed.

- Idle agents in one process of their own: memory by the resident set, identities, agents, transports and runtimes
  included; the same by tracemalloc, in a second process; how long all take to start; and how much of a core they use
  for 31 s, in which each has had its regular turn. Without a store, with tasks, pools and discovery on the memory
  store, and on one SQLite store.
- A message to an agent until its `decide`, against a round trip through two bare queues; and a task submitted in the
  process until the `decide` of an idle agent, against such a round trip every 2 ms, which is the rhythm of the tasks.
- A task submitted by another process, on SQLite, until `decide`; by the monotonic clock, which the two share.
- A burst of 200 messages to an agent whose `decide` takes 20 ms, against as many sleeps of 20 ms as it needs at best.
- Requests of one agent to another through their runtimes, signed and verified both ways, 64 in flight and one; against
  autogen-core's `send_message` and pykka's `ask`, which sign nothing, each in an environment of its own under `.bench`.
  One that cannot be installed is printed as SKIPPED and counts neither way.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from environments import environment, run_peer
from figures import Figure, compare, header, micros, report, summary

from converge.coordination.pool_manager import PoolManager
from converge.coordination.task_manager import TaskManager
from converge.core.agent import Agent
from converge.core.decisions import Decision, SendMessage
from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.task import Task
from converge.extensions.storage.memory import MemoryStore
from converge.extensions.storage.sqlite import SQLiteStore
from converge.network.discovery import DiscoveryService
from converge.network.identity_registry import IdentityRegistry
from converge.network.transport.local import LocalTransport, LocalTransportRegistry
from converge.runtime.loop import AgentRuntime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from converge.core.plain import Plain

PAYLOAD: dict[str, Plain] = {
    "kind": "bid", "task": "t-4711", "amount": 12.5, "note": "x" * 160, "tags": ["a", "b"], "n": 42,
    "ref": "0192f1a0-7c3e-7b1a-9d55-0a1b2c3d4e5f",
}  # fmt: skip
PEERS = {"autogen-core": ("autogen_requests.py", 1.5), "pykka": ("pykka_requests.py", 1.0)}
STORES = {"none": "no store", "memory": "memory store", "sqlite": "SQLite"}
AT_ONCE = 250  # starts
IDLE_SEC, TURNS, WINDOW, REQUESTS = 31.0, 500, 64, 3_200
TASKS, TASK_PAUSE_SEC = 100, 0.002
BURST, DECIDE_SEC, SHOWN = 200, 0.02, 64
FOREIGN_TASKS = 200


def memory() -> int:
    """The resident set of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


# Idle agents


class Idle(Agent):
    """Has nothing to do."""

    decided = 0

    async def decide(self, messages: list[Message], tasks: list[Task]) -> list[Decision]:
        Idle.decided += 1
        return []


def shared(kind: str, folder: str, stack: ExitStack) -> dict[str, Any]:
    """What all agents of a process use."""
    if kind == "none":
        return {}
    store: Any = MemoryStore() if kind == "memory" else stack.enter_context(SQLiteStore(Path(folder) / "idle.db"))
    tasks = TaskManager(store)
    stack.callback(tasks.close)
    return {"task_manager": tasks, "pool_manager": PoolManager(store), "discovery_service": DiscoveryService(store)}


async def idle(kind: str, count: int, folder: str, *, traced: bool) -> dict[str, float]:
    """Start `count` agents, and stop them after a while: what that takes."""
    with ExitStack() as stack:
        parts, registry = shared(kind, folder, stack), LocalTransportRegistry()

        def make() -> AgentRuntime:
            agent = Idle(Identity.generate())
            return AgentRuntime(agent, LocalTransport(agent.id, registry), **parts)

        async with make():  # what the first one loads and opens is not counted
            await asyncio.sleep(0.1)
            gc.collect()
            if traced:
                tracemalloc.start()
            before = memory()
            runtimes = [make() for _ in range(count)]
            begin, worked = time.perf_counter(), time.process_time()
            for first in range(0, count, AT_ONCE):
                await asyncio.gather(*(runtime.start() for runtime in runtimes[first : first + AT_ONCE]))
            while Idle.decided <= count:  # noqa: ASYNC110  # an event would have to be set by the ten-thousandth
                await asyncio.sleep(0.005)
            found = {"start": time.perf_counter() - begin, "start_cpu": time.process_time() - worked}
            await asyncio.sleep(0.1)
            gc.collect()
            found["kb"] = (tracemalloc.get_traced_memory()[0] if traced else memory() - before) / count / 1000
            tracemalloc.stop()
            begin, worked = time.perf_counter(), time.process_time()
            await asyncio.sleep(0 if traced else IDLE_SEC)
            found["cpu"] = (time.process_time() - worked) / (time.perf_counter() - begin) * 100
            begin = time.perf_counter()
            for first in range(0, count, AT_ONCE):
                await asyncio.gather(*(runtime.stop() for runtime in runtimes[first : first + AT_ONCE]))
            found["stop"] = time.perf_counter() - begin
    return found


def child(*arguments: str) -> dict[str, float]:
    """What this script prints when it is called with these arguments, in a process of its own."""
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} has failed: {done.stderr[-500:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def idle_agents(folder: Path, agents: int) -> Iterator[Figure]:
    for kind, name in STORES.items():
        at = folder / f"idle-{kind}"
        at.mkdir()
        found = child("--idle", kind, str(agents), str(at))
        (at / "traced").mkdir()
        traced = child("--idle", kind, str(min(agents, 2_000)), str(at / "traced"), "--traced")
        yield Figure(f"kB of {agents:,} idle agents each, resident, {name}", 0, 0, found["kb"], 12, at_most=True)
        yield Figure(f"  the same, tracemalloc, {name}", 0, 0, traced["kb"], 12, at_most=True)
        yield Figure(f"  seconds in which all started, {name}", 0, 0, found["start"], None)
        yield Figure(f"  seconds of a core for that, {name}", 0, 0, found["start_cpu"], None)
        yield Figure(f"  % of a core while idle, {name}", 0, 0, found["cpu"], 2, at_most=True)
        yield Figure(f"  seconds in which all stopped, {name}", 0, 0, found["stop"], None)


# The way to `decide`


class Noting(Agent):
    """Tells whoever waits that there were messages or tasks."""

    def __init__(self) -> None:
        super().__init__(Identity.generate())
        self.seen: asyncio.Future[float] | None = None
        self.known: set[str] = set()

    async def decide(self, messages: list[Message], tasks: list[Task]) -> list[Decision]:
        new = {task.id for task in tasks} - self.known
        self.known |= new
        if (messages or new) and self.seen is not None and not self.seen.done():
            self.seen.set_result(time.perf_counter())
        return []

    def next_look(self) -> asyncio.Future[float]:
        self.seen = asyncio.get_running_loop().create_future()
        return self.seen


async def queue_round_trips(turns: int = TURNS, pause: float = 0.0) -> float:
    here: asyncio.Queue[object] = asyncio.Queue()
    there: asyncio.Queue[object] = asyncio.Queue()

    async def answer() -> None:
        for _ in range(turns):
            here.put_nowait(await there.get())

    answering, taken = asyncio.create_task(answer()), []
    for _ in range(turns):
        begin = time.perf_counter()
        there.put_nowait(PAYLOAD)
        await here.get()
        taken.append(time.perf_counter() - begin)
        await asyncio.sleep(pause)
    await answering
    return statistics.median(taken) * 1e6


async def messages_to_decide() -> float:
    """From before `send` until the agent's `decide` is called, in the middle."""
    registry, agent = LocalTransportRegistry(), Noting()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(AgentRuntime(agent, LocalTransport(agent.id, registry)))
        sender = await stack.enter_async_context(LocalTransport("sender", registry))
        await asyncio.sleep(0.01)
        taken = []
        for _ in range(TURNS):
            seen, begin = agent.next_look(), time.perf_counter()
            await sender.send(Message(sender="sender", recipient=agent.id, payload=PAYLOAD))
            taken.append(await seen - begin)
            await asyncio.sleep(0)
    return statistics.median(taken) * 1e6


async def tasks_to_decide(*, submitting: bool) -> float:
    """From the submission until the `decide` of an idle agent, with or without what the submission itself takes."""
    tasks, agent = TaskManager(), Noting()
    async with AgentRuntime(agent, LocalTransport(agent.id, LocalTransportRegistry()), task_manager=tasks):
        await asyncio.sleep(0.01)
        taken = []
        for _ in range(TASKS):
            seen, begin = agent.next_look(), time.perf_counter()
            task_id = tasks.submit(Task(inputs=PAYLOAD))
            begin = begin if submitting else time.perf_counter()
            taken.append(await seen - begin)
            tasks.claim("another", task_id)  # so that the agent is idle again, and has nothing to list
            tasks.report("another", task_id, 1)
            await asyncio.sleep(TASK_PAUSE_SEC)
    return statistics.median(taken) * 1e6


async def burst() -> float:
    """Seconds until an agent has dealt with `BURST` messages."""

    class Slow(Agent):
        def __init__(self) -> None:
            super().__init__(Identity.generate())
            self.left, self.done = BURST, asyncio.Event()

        async def decide(self, messages: list[Message], tasks: list[Task]) -> list[Decision]:
            if messages:
                await asyncio.sleep(DECIDE_SEC)
                self.left -= len(messages)
                if not self.left:
                    self.done.set()
            return []

    registry, agent = LocalTransportRegistry(), Slow()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(AgentRuntime(agent, LocalTransport(agent.id, registry)))
        sender = await stack.enter_async_context(LocalTransport("sender", registry))
        await asyncio.sleep(0.01)
        begin = time.perf_counter()
        for number in range(BURST):
            await sender.send(Message(sender="sender", recipient=agent.id, payload={**PAYLOAD, "n": number}))
        await agent.done.wait()
        return micros(begin, 1) / 1e3


async def ideal_burst() -> float:
    begin = time.perf_counter()
    for _ in range(-(-BURST // SHOWN)):
        await asyncio.sleep(DECIDE_SEC)
    return micros(begin, 1) / 1e3


def to_decide(rounds: int) -> Iterator[Figure]:
    def round_trip() -> float:
        return asyncio.run(queue_round_trips())

    def slow_round_trip() -> float:
        return asyncio.run(queue_round_trips(TASKS, TASK_PAUSE_SEC))

    yield compare(
        "µs, a message to decide / a queue round trip", 5, rounds,
        lambda: asyncio.run(messages_to_decide()), round_trip, at_most=True,
    )  # fmt: skip
    yield compare(
        "µs, a submitted task to decide, in process / a queue round trip", 5, rounds,
        lambda: asyncio.run(tasks_to_decide(submitting=False)), slow_round_trip, at_most=True,
    )  # fmt: skip
    yield compare(
        "µs,   the same with submitting it / a queue round trip", None, rounds,
        lambda: asyncio.run(tasks_to_decide(submitting=True)), slow_round_trip, at_most=True,
    )  # fmt: skip
    yield compare(
        f"ms, {BURST} messages at a decide of 20 ms / {-(-BURST // SHOWN)} sleeps", 1.2, rounds,
        lambda: asyncio.run(burst()), lambda: asyncio.run(ideal_burst()), at_most=True,
    )  # fmt: skip


# Tasks of another process


class Clocking(Agent):
    """Notes how old each task is when it first sees it, and takes it."""

    def __init__(self, tasks: TaskManager) -> None:
        super().__init__(Identity.generate())
        self.tasks, self.ages, self.done = tasks, dict[str, float](), asyncio.Event()

    async def decide(self, messages: list[Message], tasks: list[Task]) -> list[Decision]:
        now = time.monotonic()
        for task in tasks:
            at = task.inputs["at"]
            assert isinstance(at, float)
            self.ages.setdefault(task.id, now - at)
        if tasks:
            await self.context.run(self.tasks.claim_many, self.id, [task.id for task in tasks])
            await self.context.run(self.tasks.report_many, self.id, dict.fromkeys((task.id for task in tasks), 1))
        if len(self.ages) == FOREIGN_TASKS:
            self.done.set()
        return []


async def foreign_tasks(path: Path) -> list[float]:
    """How old the tasks of another process were in milliseconds, the youngest first."""
    with SQLiteStore(path) as store:
        tasks = TaskManager(store)
        agent = Clocking(tasks)
        transport = LocalTransport(agent.id, LocalTransportRegistry())
        async with AgentRuntime(agent, transport, task_manager=tasks):
            command = [sys.executable, __file__, "--submit", str(path)]
            other = await asyncio.create_subprocess_exec(*command)
            try:
                async with asyncio.timeout(120):
                    await agent.done.wait()
                    await other.wait()
            finally:
                if other.returncode is None:
                    other.kill()
        tasks.close()
    return sorted(age * 1e3 for age in agent.ages.values())


def submit(path: str) -> None:
    """What the other process does: a task every 11 to 37 ms."""
    with SQLiteStore(Path(path)) as store:
        tasks = TaskManager(store)
        for number in range(FOREIGN_TASKS):
            time.sleep(0.011 + number * 7919 % 27 / 1e3)
            tasks.submit(Task(inputs={"at": time.monotonic()}))
        tasks.close()


def other_process(folder: Path) -> Iterator[Figure]:
    ages = asyncio.run(foreign_tasks(folder / "foreign.db"))
    yield Figure("ms, a task of another process to decide, median", 0, 0, statistics.median(ages), None)
    worst = ages[int(len(ages) * 0.99) - 1]
    yield Figure("ms, a task of another process to decide, p99", 0, 0, worst, 20, at_most=True)


# Requests


class Echo(Agent):
    """Answers everything."""

    async def decide(self, messages: list[Message], tasks: list[Task]) -> list[Decision]:
        return [SendMessage(message.reply(message.payload)) for message in messages]


@asynccontextmanager
async def two_agents() -> AsyncIterator[tuple[Agent, Agent]]:
    """One that asks and one that answers, which take only signed messages of each other."""
    registry, allowed = LocalTransportRegistry(), IdentityRegistry()
    echo, asker = Echo(Identity.generate()), Agent(Identity.generate())
    async with AsyncExitStack() as stack:
        for agent in (echo, asker):
            allowed.register(agent.id, agent.identity.public_key)
            transport = LocalTransport(agent.id, registry)
            await stack.enter_async_context(AgentRuntime(agent, transport, identity_registry=allowed))
        yield asker, echo


async def requests(window: int, total: int) -> float:
    async with two_agents() as (asker, echo):

        async def ask(count: int) -> None:
            for _ in range(count):
                await asker.context.network.request(Message(recipient=echo.id, payload=PAYLOAD))

        await ask(5)
        begin = time.perf_counter()
        await asyncio.gather(*(ask(total // window) for _ in range(window)))
        return micros(begin, total // window * window)


def against_peers(rounds: int) -> Iterator[Figure]:
    for peer, (script, bar) in PEERS.items():
        python = environment(peer)
        if python is None:
            print(f"SKIPPED {peer}: it cannot be installed here", flush=True)
            continue
        for window, total, floor in ((WINDOW, REQUESTS, bar), (1, TURNS, None)):

            def theirs(python: Path = python, script: str = script, window: int = window, total: int = total) -> float:
                return run_peer(python, script, json.dumps(PAYLOAD), str(window), str(total))

            def ours(window: int = window, total: int = total) -> float:
                return asyncio.run(requests(window, total))

            try:
                yield compare(
                    f"µs, signed requests, {window} in flight / {peer}, unsigned", floor, rounds, ours, theirs
                )
            except (subprocess.SubprocessError, ValueError) as error:
                print(f"SKIPPED {peer}: {str(error)[:200]}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dir", default=".", help="a folder on a real disk")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--only", default="", help="only cases with this in their name: idle, decide, process, requests"
    )
    parser.add_argument("--agents", type=int, default=10_000)
    parser.add_argument("--idle", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--traced", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--submit", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.submit:
        submit(arguments.submit)
        return 0
    if arguments.idle:
        kind, count, at = arguments.idle
        print(json.dumps(asyncio.run(idle(kind, int(count), at, traced=arguments.traced))))
        return 0
    folder = Path(tempfile.mkdtemp(prefix="converge-runtime-", dir=arguments.dir))
    cases: dict[str, Callable[[], Iterator[Figure]]] = {
        "decide": lambda: to_decide(arguments.rounds),
        "other process": lambda: other_process(folder),
        "requests": lambda: against_peers(arguments.rounds),
        "idle": lambda: idle_agents(folder, arguments.agents),
    }
    figures: list[Figure] = []
    try:
        print(header("", 64))
        for name, case in cases.items():
            figures += report(case() if arguments.only in name else (), 64)
    finally:
        shutil.rmtree(folder)
    return summary("runtime", figures)


if __name__ == "__main__":
    sys.exit(main())
