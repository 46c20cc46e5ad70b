"""Cycles of starting and stopping agents under traffic, on whatever transport, and what they leave behind."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple, Self

from converge.coordination.task_manager import TaskManager
from converge.core.decisions import ClaimTask, Decision, SendMessage
from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.task import Task
from converge.core.topic import Topic
from converge.network.discovery import DiscoveryQuery, DiscoveryService
from converge.network.errors import Undeliverable
from converge.runtime.life import STOP_TIMEOUT_SEC
from converge.runtime.loop import AgentRuntime
from converge.runtime.parking import Parking
from tests.core.runtime.conftest import PATIENCE_SEC, Scripted, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from converge.core.store import Store
    from converge.network.transport.base import Transport

NEWS = Topic("news")


class Busy(Scripted):
    """Answers every message, takes every task and keeps it; counts what it has handled."""

    def __init__(self) -> None:
        super().__init__()
        self.handled: Counter[str] = Counter()
        self.topics.append(NEWS)

    async def decide(self, messages: list[Message], tasks: list[Task]) -> list[Decision]:
        await asyncio.sleep(0.001)
        self.handled.update(message.id for message in messages)
        self._called.set()
        answers = [SendMessage(message.reply({})) for message in messages if message.recipient is not None]
        return [*answers, *(ClaimTask(task.id) for task in tasks if task.assigned_to is None)]


class Traffic:
    """Somebody who writes to the agents all the time, and counts the answers."""

    def __init__(self, transport: Transport, identity: Identity, agents: list[Busy]) -> None:
        self._transport, self._identity, self._agents = transport, identity, agents
        self.answers: Counter[str | None] = Counter()
        self._may_write, self._rests = asyncio.Event(), asyncio.Event()
        self._may_write.set()

    async def __aenter__(self) -> Self:
        self._transport.bind_identity(self._identity)
        await self._transport.start()
        self._jobs = {asyncio.create_task(self._write()), asyncio.create_task(self._read())}
        return self

    async def __aexit__(self, *error: object) -> None:
        for job in self._jobs:
            job.cancel()
        await asyncio.wait(self._jobs)
        await self._transport.stop()

    @asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        """Nothing is being sent: what is open now is not the traffic's own, which asks for agents that are gone."""
        self._may_write.clear()
        async with asyncio.timeout(PATIENCE_SEC):
            await self._rests.wait()
        yield
        self._may_write.set()

    async def _write(self) -> None:
        while True:
            self._rests.set()
            await self._may_write.wait()
            self._rests.clear()
            messages = [Message(recipient=agent.id) for agent in self._agents] + [Message(topics=[NEWS])]
            for message in messages:
                with suppress(Undeliverable):  # it is stopped just now
                    await self._transport.send(message.sign(self._identity))
            await asyncio.sleep(0)

    async def _read(self) -> None:
        while True:
            message = await self._transport.receive_verified()
            if message is not None:
                self.answers[message.in_reply_to] += 1
                await self._transport.acknowledge([message])


class Setup:
    """Where the agents live: their transports, and the store that they share."""

    def __init__(self, store: Store, transport: Callable[[str], Transport]) -> None:
        self.store, self.transport = store, transport
        self.tasks, self.discovery = TaskManager(store), DiscoveryService(store)


class Resources(NamedTuple):
    """What is open: files, and threads and tasks by their names."""

    files: int
    threads: Counter[str]
    tasks: Counter[str]

    @classmethod
    def now(cls) -> Resources:
        gc.collect()
        return cls(
            len(os.listdir("/proc/self/fd")),
            Counter(thread.name for thread in threading.enumerate() if thread.name.startswith("converge")),
            Counter(task.get_coro().__qualname__ for task in asyncio.all_tasks()),  # type: ignore[union-attr]  # each has one
        )

    def within(self, most: Resources) -> bool:
        return self.files <= most.files and self.threads <= most.threads and self.tasks <= most.tasks


async def nothing_more_than(most: Resources) -> None:
    """Threads and connections that were told to end may still be about to."""
    with suppress(TimeoutError):
        await until(lambda: Resources.now().within(most))
    now = Resources.now()
    assert now.within(most), (now, most)


def handles_more(agent: Busy, than: int) -> Callable[[], bool]:
    return lambda: sum(agent.handled.values()) > than


async def cycles(setup: Setup, count: int, *, anew: bool) -> None:
    """Start and stop two agents `count` times under traffic, and see what is left after each."""
    agents = [Busy(), Busy()]
    sender = Identity.generate()
    held = {str(n) for n in range(4)}
    setup.tasks.submit_many([Task(id=name, constraints={"max_attempts": 1_000_000}) for name in held])

    def made() -> list[AgentRuntime]:
        return [
            AgentRuntime(
                agent, setup.transport(agent.id), None, setup.tasks, discovery_service=setup.discovery,
                parking=Parking(agent.id, setup.store),
            )
            for agent in agents
        ]  # fmt: skip

    runtimes = made()
    async with Traffic(setup.transport(sender.fingerprint), sender, agents) as traffic:
        first: Resources | None = None
        slowest = 0.0
        for number in range(count):
            if anew:
                runtimes = made()
            await asyncio.gather(*(runtime.start() for runtime in runtimes))
            handled = [sum(agent.handled.values()) for agent in agents]
            async with asyncio.timeout(PATIENCE_SEC):
                for agent, before in zip(agents, handled, strict=True):
                    await until(handles_more(agent, before + number % 3))
            begun = time.monotonic()
            await asyncio.gather(*(runtime.stop() for runtime in runtimes))
            slowest = max(slowest, time.monotonic() - begun)
            assert setup.discovery.query(DiscoveryQuery(), refresh_from_store=True) == []
            assert [task.assigned_to for task in map(setup.tasks.get_task, held) if task] == [None] * len(held)
            async with traffic.quiet():
                first = Resources.now() if first is None else first
                await nothing_more_than(first)
        assert slowest <= STOP_TIMEOUT_SEC
    for agent in agents:
        assert agent.handled, "there was traffic"
        assert agent.handled.most_common(1)[0][1] == 1, "handled twice"
    assert traffic.answers.most_common(1)[0][1] == 1, "answered twice"
