"""An agent for which nothing can be new takes no turn; one that has been given a pool or a capability does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from converge.coordination.pool_manager import PoolManager
from converge.coordination.task_manager import TaskManager
from converge.core.agent import Agent
from converge.core.capability import Capability
from converge.core.identity import Identity
from converge.core.task import Task
from converge.extensions.storage.memory import MemoryStore
from converge.runtime.scheduler import Scheduler

if TYPE_CHECKING:
    from converge.core.decisions import Decision
    from converge.core.message import Message
    from tests.core.runtime.conftest import World

OFTEN_SEC = 0.005


class Looking(TaskManager):
    """Counts how often somebody looks."""

    looks = 0

    def list_held_tasks(self, agent_id: str) -> list[Task]:
        self.looks += 1
        return super().list_held_tasks(agent_id)


class Plain(Agent):
    """Notes what it is shown, and has no `on_tick`."""

    def __init__(self) -> None:
        super().__init__(Identity.generate())
        self.shown = asyncio.Event()

    async def decide(self, messages: list[Message], tasks: list[Task]) -> list[Decision]:
        if tasks:
            self.shown.set()
        return []


class Ticking(Plain):
    ticks = 0

    def on_tick(self, messages: list[Message], tasks: list[Task]) -> None:
        self.ticks += 1


async def eventually(holds: Any) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110  # of no one event
            await asyncio.sleep(0.005)


async def test_an_agent_at_rest_looks_at_nothing_and_is_shown_what_comes(world: World) -> None:
    tasks, agent = Looking(), Plain()
    await world.started(agent, task_manager=tasks, receive_timeout_sec=OFTEN_SEC)
    await eventually(lambda: tasks.looks)
    await asyncio.sleep(0.05)
    before = tasks.looks
    await asyncio.sleep(20 * OFTEN_SEC)
    assert tasks.looks == before
    tasks.submit(Task())
    await agent.shown.wait()


async def test_an_agent_at_rest_is_not_even_woken_and_with_a_scheduler_of_its_own_takes_no_turn(world: World) -> None:
    class Counting(Scheduler):
        woken = 0

        async def wait_for_work(self, timeout: float | None) -> bool:
            found = await super().wait_for_work(timeout)
            self.woken += 1
            return found

    class Foreign(Counting):
        @property
        def rests(self) -> None:
            return None

        @rests.setter
        def rests(self, value: object) -> None:
            """As of one that knows nothing of resting."""

    tasks, pools = Looking(), PoolManager(MemoryStore())
    ours, foreign = Counting(), Foreign()
    for scheduler in (ours, foreign):
        await world.started(
            Plain(), task_manager=tasks, pool_manager=pools, receive_timeout_sec=OFTEN_SEC, scheduler=scheduler
        )
    await eventually(lambda: foreign.woken > 5)
    looks, woken = tasks.looks, ours.woken
    before = foreign.woken
    await eventually(lambda: foreign.woken > before + 20)
    assert (tasks.looks, ours.woken) == (looks, woken)


async def test_an_agent_with_an_on_tick_of_its_own_has_it_called_each_time(world: World) -> None:
    agent = Ticking()
    await world.started(agent, task_manager=TaskManager(), receive_timeout_sec=OFTEN_SEC)
    await eventually(lambda: agent.ticks >= 10)


async def test_a_capability_that_somebody_adds_is_noticed_at_the_next_regular_turn(world: World) -> None:
    tasks, agent = TaskManager(), Plain()
    tasks.submit(Task(required_capabilities=["review"]))
    await world.started(agent, task_manager=tasks, receive_timeout_sec=OFTEN_SEC)
    await asyncio.sleep(0.05)
    assert not agent.shown.is_set()
    agent.capabilities.add(Capability("review"))
    await agent.shown.wait()


@pytest.mark.parametrize("where", ["here", "in another process"])
async def test_a_pool_that_somebody_joins_for_it_is_noticed_at_the_next_regular_turn(world: World, where: str) -> None:
    store, agent = MemoryStore(), Plain()
    tasks, pools = TaskManager(MemoryStore()), PoolManager(store)
    pools.create_pool({"id": "p"})
    tasks.submit(Task(pool_id="p"))
    await world.started(agent, task_manager=tasks, pool_manager=pools, receive_timeout_sec=OFTEN_SEC)
    await asyncio.sleep(0.05)
    assert not agent.shown.is_set()
    (pools if where == "here" else PoolManager(store)).join_pool(agent.id, "p")
    await agent.shown.wait()
