"""A start that fails, or hangs and is ended, at each of its steps: nothing is left, and it can be repeated."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from converge.coordination.task_manager import TaskManager
from converge.core.agent import AgentState
from converge.core.task import Task, TaskState
from converge.core.topic import Topic
from converge.extensions.storage.sqlite import SQLiteStore
from converge.network.discovery import DiscoveryQuery, DiscoveryService
from converge.network.transport.local import LocalTransport
from converge.runtime.parking import Parking
from converge.runtime.shared.base import Shared
from tests.core.runtime.conftest import PATIENCE_SEC, Scripted, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from converge.runtime.loop import AgentRuntime
    from tests.core.runtime.conftest import World

NEWS = Topic("news")


class Trap:
    """Raises, or hangs, at the step that it is set to, the first time."""

    def __init__(self, step: str, error: BaseException | None) -> None:
        self.step, self.error = step, error
        self.reached = asyncio.Event()

    def spring(self, step: str) -> None:
        if step == self.step:
            self.step = "none"
            self.reached.set()
            if self.error is not None:
                raise self.error

    async def spring_async(self, step: str) -> None:
        here = step == self.step
        self.spring(step)
        if here:
            await asyncio.Event().wait()


class Place:
    """An agent with everything a runtime can be given, each part of it with the trap inside."""

    def __init__(self, world: World, store: SQLiteStore, trap: Trap) -> None:
        self._others = {*threading.enumerate()}  # another test may have left one that stays

        class Carrier(LocalTransport):
            async def start(self) -> None:
                await super().start()
                await trap.spring_async("transport")

            async def subscribe(self, topic: Topic) -> None:
                await super().subscribe(topic)
                await trap.spring_async("subscribing")

        class Manager(TaskManager):
            def notices(self) -> Any:
                trap.spring("watching")
                return super().notices()

            def take_over(self, agent_id: str) -> Any:
                taken = super().take_over(agent_id)
                trap.spring("taking over")
                return taken

        class Discovery(DiscoveryService):
            def register(self, descriptor: Any, *, ttl_sec: float | None = None) -> None:
                super().register(descriptor, ttl_sec=ttl_sec)
                trap.spring("registering")

        class Lot(Parking):
            def stored(self) -> Any:
                trap.spring("parked messages")
                return super().stored()

        class Starter(Scripted):
            stops = 0

            async def on_start(self) -> None:
                assert self.context.tasks is not None
                await self.context.run(self.context.tasks.claim, self.id, "mine")
                await trap.spring_async("on_start")

            def on_stop(self) -> None:
                self.stops += 1

        self.agent, self.tasks, self.discovery = Starter(), Manager(store), Discovery(store)
        self.agent.topics.append(NEWS)
        self.registry = world.registry
        self.tasks.submit(Task(id="mine"))
        self.runtime: AgentRuntime = world.runtime(
            self.agent, Carrier(self.agent.id, world.registry), task_manager=self.tasks,
            discovery_service=self.discovery, parking=Lot(self.agent.id, store),
        )  # fmt: skip

    async def is_empty(self) -> None:
        """Nothing of the agent is left in the process or in the store."""
        assert not self.runtime.running
        assert not self.runtime.is_healthy()
        assert self.agent.state is AgentState.OFFLINE
        with pytest.raises(RuntimeError, match="this agent has no context yet"):
            _ = self.agent.context
        assert self.registry.mailbox(self.agent.id) is None
        assert self.registry._subscribers == {}
        assert [key for key in Shared._living if key[1] is self.tasks] == []
        assert self.discovery.query(DiscoveryQuery(), refresh_from_store=True) == []
        mine = self.tasks.get_task("mine")
        assert mine is not None
        assert (mine.state, mine.assigned_to) == (TaskState.PENDING, None)
        await until(lambda: not self._threads())

    def _threads(self) -> list[str]:
        left = {*threading.enumerate()} - self._others
        return [thread.name for thread in left if thread.name.startswith("converge")]

    async def works(self) -> None:
        """The same runtime starts all the same."""
        shown = self.agent.calls
        await self.runtime.start()
        await self.agent.called(shown + 1)
        assert self.runtime.is_healthy()
        await self.runtime.stop()
        await self.is_empty()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    with SQLiteStore(tmp_path / "store.db") as opened:
        yield opened


STEPS = ["transport", "watching", "taking over", "parked messages", "subscribing", "registering", "on_start"]
HANGING = ["transport", "subscribing", "on_start"]


@pytest.mark.parametrize("error", [OSError("no"), SystemExit(3)], ids=repr)
@pytest.mark.parametrize("step", STEPS)
async def test_a_start_that_fails(world: World, store: SQLiteStore, step: str, error: BaseException) -> None:
    place = Place(world, store, Trap(step, error))
    before = asyncio.all_tasks()
    with pytest.raises((OSError, RuntimeError)):
        await place.runtime.start()
    assert asyncio.all_tasks() == before
    assert place.agent.stops == (step == "on_start"), "it is called if on_start had begun"
    await place.is_empty()
    await place.works()


def cancelled(runtime: AgentRuntime, start: asyncio.Task[None]) -> None:
    start.cancel()


def stopped(runtime: AgentRuntime, start: asyncio.Task[None]) -> None:
    start.add_done_callback(lambda _: stopping.cancel())
    stopping = asyncio.ensure_future(runtime.stop())


@pytest.mark.parametrize("end", [cancelled, stopped])
@pytest.mark.parametrize("step", HANGING)
async def test_a_start_that_hangs_and_is_ended(
    world: World, store: SQLiteStore, step: str, end: Callable[[AgentRuntime, asyncio.Task[None]], None]
) -> None:
    trap = Trap(step, None)
    place = Place(world, store, trap)
    before = asyncio.all_tasks()
    start = asyncio.create_task(place.runtime.start())
    async with asyncio.timeout(PATIENCE_SEC):
        await trap.reached.wait()
        end(place.runtime, start)
        await asyncio.wait({start})
    assert start.cancelled() or isinstance(start.exception(), RuntimeError)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    await place.is_empty()
    await place.works()


@pytest.mark.parametrize("steps", range(4))
async def test_a_start_that_is_stopped_before_it_has_begun(world: World, store: SQLiteStore, steps: int) -> None:
    place = Place(world, store, Trap("none", None))
    start = asyncio.create_task(place.runtime.start())
    for _ in range(steps):
        await asyncio.sleep(0)
    stops = [asyncio.create_task(place.runtime.stop()) for _ in range(2)]
    await asyncio.wait({start, *stops})
    if start.cancelled() or start.exception() is None:
        await place.runtime.stop()
    else:
        assert isinstance(start.exception(), RuntimeError)
    await place.is_empty()
    await place.works()


async def test_a_start_that_is_cancelled_at_any_moment(world: World, store: SQLiteStore) -> None:
    place = Place(world, store, Trap("none", None))
    before, started = asyncio.all_tasks(), False
    for steps in range(500):
        start = asyncio.create_task(place.runtime.start())
        for _ in range(steps):
            if start.done():
                break
            await asyncio.sleep(0.0001 if steps > 40 else 0)
        start.cancel()
        with suppress(asyncio.CancelledError):
            await start
            started = True
            await place.runtime.stop()
        assert asyncio.all_tasks() == before
        await place.is_empty()
        if started:
            break
    assert started, "in the end it had the time it needs"
