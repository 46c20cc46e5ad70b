"""The fixture of the contract, what an executor may declare, and what the tests share."""
# these are tests, shipped to authors
# the name of a test is its sentence

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar, TypeAlias

import pytest
from attrs import frozen

from converge.coordination.pool_manager import PoolManager
from converge.coordination.task_manager import TaskManager
from converge.core.agent import Agent, Outcome
from converge.core.decisions import Decision
from converge.core.identity import Identity
from converge.network.network import AgentNetwork
from converge.network.transport.local import LocalTransport, LocalTransportRegistry
from converge.runtime.executor import Executor

__all__ = ["Bench", "ExecutorFixtures", "MakeExecutor", "Shout", "on_a_bench"]

MakeExecutor: TypeAlias = Callable[..., Executor]


@frozen
class Shout(Decision):
    """A decision that no executor knows."""

    text: str = ""


class Bench:
    """An agent with a network, managers and an executor, and a peer that hears what it sends."""

    def __init__(self, make: MakeExecutor, patience: float) -> None:
        registry = LocalTransportRegistry()
        self.agent, self.peer = Agent(Identity.generate()), Agent(Identity.generate())
        self.tasks, self.pools = TaskManager(), PoolManager()
        self.hearing = LocalTransport(self.peer.id, registry)
        self.network = AgentNetwork(LocalTransport(self.agent.id, registry))
        self._make, self._patience, self._made = make, patience, list[Executor]()

    def executor(self, **context: Any) -> Executor:
        """A new executor of the agent, which is given `context` besides the network and the managers."""
        self._made.append(self._make(self.agent.id, self.network, self.tasks, self.pools, **context))
        return self._made[-1]

    async def outcomes(self, *decisions: object, **context: Any) -> list[Outcome]:
        """What becomes of decisions, carried out by a new executor."""
        return await self.carried_out(self.executor(**context), *decisions)

    async def carried_out(self, executor: Executor, *decisions: Any) -> list[Outcome]:
        """What becomes of decisions; there is an outcome for each, in order."""
        async with asyncio.timeout(self._patience):
            outcomes = list(await executor.execute(list(decisions)) or ())
        assert [outcome.decision for outcome in outcomes] == list(decisions)
        assert all((outcome.error is None) == (outcome.status in ("done", "waiting")) for outcome in outcomes)
        return outcomes

    async def statuses(self, *decisions: object, **context: Any) -> Sequence[str]:
        """How decisions end."""
        return [outcome.status for outcome in await self.outcomes(*decisions, **context)]

    async def close(self) -> None:
        """Close what was made."""
        async with asyncio.timeout(self._patience):
            for executor in self._made:
                closed = close() if (close := getattr(executor, "close", None)) is not None else None
                if inspect.isawaitable(closed):
                    await closed


class ExecutorFixtures:
    """What the author of an executor gives and declares."""

    takes_handlers: ClassVar[bool] = True
    """Whether it takes `custom_handlers`."""
    takes_policies: ClassVar[bool] = True
    """Whether it takes a `safety_policy`."""
    runs_tools: ClassVar[bool] = True
    """Whether it takes a `tool_registry`."""
    patience: ClassVar[float] = 30.0
    """After how many seconds a call is taken for blocked."""

    @pytest.fixture
    def make(self) -> MakeExecutor:
        """What makes an executor: `make(agent_id, network, task_manager, pool_manager, **context)`."""
        raise NotImplementedError("override the fixture `make`")


def on_a_bench(
    needs: str = "",
) -> Callable[[Callable[[Any, Bench], Awaitable[None]]], Callable[[Any, MakeExecutor], None]]:
    """A test that runs in an event loop of its own, and needs no pytest plugin; skipped without what it `needs`."""

    def decorate(test: Callable[[Any, Bench], Awaitable[None]]) -> Callable[[Any, MakeExecutor], None]:
        def run(self: ExecutorFixtures, make: MakeExecutor) -> None:
            if needs and not getattr(self, needs):
                pytest.skip(f"the executor declares {needs} = False")

            async def alone() -> None:
                async with _open(Bench(make, self.patience)) as bench:
                    await test(self, bench)

            asyncio.run(alone())

        run.__name__, run.__qualname__, run.__doc__ = test.__name__, test.__qualname__, test.__doc__
        return run

    return decorate


@asynccontextmanager
async def _open(bench: Bench) -> AsyncIterator[Bench]:
    async with bench.hearing, bench.network.transport:
        bench.network.register_agent(bench.agent)
        try:
            yield bench
        finally:
            await bench.close()
