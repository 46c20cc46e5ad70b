"""Agents that do as the test says, on real transports of a registry of their own."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

import pytest

from converge.core.agent import Agent, Outcome
from converge.core.identity import Identity
from converge.core.message import Message
from converge.network.transport.local import LocalTransport, LocalTransportRegistry
from converge.observability.metrics import MetricsCollector
from converge.runtime import retries
from converge.runtime.loop import AgentRuntime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from converge.core.task import Task
    from converge.network.transport.base import Transport

PATIENCE_SEC = 10.0


class Scripted(Agent):
    """Answers its first calls of `decide` with `answers` (decisions, an exception to raise, or a function of messages
    and tasks, plain or async), later ones with nothing. Keeps what it was shown.
    """

    def __init__(self, *answers: Any) -> None:
        super().__init__(Identity.generate())
        self.answers = list(answers)
        self.shown: list[tuple[list[Message], list[Task], tuple[Outcome, ...]]] = []
        self._called = asyncio.Event()

    async def decide(self, messages: list[Message], tasks: list[Task]) -> Any:
        self.shown.append((messages, tasks, self.outcomes))
        self._called.set()
        answer = self.answers.pop(0) if self.answers else []
        if callable(answer):
            answer = answer(messages, tasks)
        if inspect.isawaitable(answer):
            answer = await answer
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def called(self, times: int) -> None:
        """Return when `decide` has been called that often."""
        async with asyncio.timeout(PATIENCE_SEC):
            while len(self.shown) < times:
                self._called.clear()
                await self._called.wait()

    @property
    def calls(self) -> int:
        return len(self.shown)

    @property
    def payloads(self) -> list[list[Any]]:
        """The payloads of the messages of each call."""
        return [[message.payload["n"] for message in messages] for messages, _, _ in self.shown]


class World:
    """A registry of transports, and what runs on it."""

    def __init__(self) -> None:
        self.registry = LocalTransportRegistry()
        self.metrics = MetricsCollector()
        self._runtimes: list[AgentRuntime] = []
        self._peers: list[Peer] = []

    def runtime(self, agent: Agent, transport: Transport | None = None, **options: Any) -> AgentRuntime:
        """A runtime of `agent`; the test's end stops it."""
        carrier = LocalTransport(agent.id, self.registry) if transport is None else transport
        runtime = AgentRuntime(agent, carrier, metrics_collector=self.metrics, **options)
        self._runtimes.append(runtime)
        return runtime

    async def started(self, agent: Agent, transport: Transport | None = None, **options: Any) -> AgentRuntime:
        runtime = self.runtime(agent, transport, **options)
        await runtime.start()
        return runtime

    async def peer(self) -> Peer:
        """Somebody to write messages to agents."""
        peer = Peer(self.registry)
        await peer.transport.start()
        self._peers.append(peer)
        return peer

    def counted(self, name: str) -> float:
        counters: dict[str, float] = self.metrics.snapshot()["counters"]
        return counters.get(name, 0)

    async def close(self) -> None:
        for runtime in self._runtimes:
            await runtime.stop()
        for peer in self._peers:
            await peer.transport.stop()


class Peer:
    """An identity with a transport and no runtime."""

    def __init__(self, registry: LocalTransportRegistry) -> None:
        self.identity = Identity.generate()
        self.id = self.identity.fingerprint
        self.transport = LocalTransport(self.id, registry)

    def message(self, recipient: str, n: object = 0) -> Message:
        return Message(recipient=recipient, payload={"n": n}).sign(self.identity)

    async def tell(self, recipient: str, n: object = 0) -> None:
        await self.transport.send(self.message(recipient, n))

    async def hear(self) -> Message:
        return await self.transport.receive(PATIENCE_SEC)


async def until(condition: Callable[[], object]) -> None:
    """Return when `condition` holds; for what announces itself by no event."""
    async with asyncio.timeout(PATIENCE_SEC):
        while not condition():  # noqa: ASYNC110  # there is no event
            await asyncio.sleep(0.001)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.close()


@pytest.fixture
def no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that failed alone is not shown again in this test."""
    monkeypatch.setattr(retries, "_FIRST_PAUSE_SEC", 1e9)


@pytest.fixture
def retries_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that failed alone is shown again without a pause."""
    monkeypatch.setattr(retries, "_FIRST_PAUSE_SEC", 0.0)
