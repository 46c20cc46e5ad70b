"""Nobody starves: neither other agents, nor tasks, nor renewals, nor messages, whatever there is much of."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any, Self

import pytest

from converge.coordination.task_manager import TaskManager
from converge.core.decisions import ClaimTask, ReportTask, SendMessage
from converge.core.message import Message
from converge.core.task import Task
from converge.extensions.storage.sqlite import SQLiteStore
from converge.network.errors import Undeliverable
from converge.runtime.scheduler import Scheduler
from tests.core.runtime.conftest import Scripted, until
from tests.core.runtime.leases import WatchedLeases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.core.runtime.conftest import Peer, World


class Worker(Scripted):
    """Claims what it sees, reports what it holds, and keeps the messages."""

    async def decide(self, messages: list[Message], tasks: list[Task]) -> Any:
        self.shown.append((messages, tasks, ()))
        held = [ReportTask(task.id, 1) for task in tasks if task.assigned_to == self.id]
        return held or [ClaimTask(task.id) for task in tasks]


@pytest.fixture(params=["memory", "sqlite"])
def tasks(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TaskManager]:
    if request.param == "memory":
        yield TaskManager()
    else:
        with SQLiteStore(tmp_path / "store.db") as store:
            yield TaskManager(store)


def was_shown(agent: Scripted, n: object) -> Callable[[], bool]:
    return lambda: any(n in payloads for payloads in agent.payloads)


class Flood:
    """Sends messages to an agent as fast as it takes them."""

    def __init__(self, peer: Peer, recipient: str) -> None:
        self._peer, self._recipient = peer, recipient
        self.sent = 0

    async def __aenter__(self) -> Self:
        self._job = asyncio.create_task(self._send())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._job.cancel()
        await asyncio.wait({self._job})

    async def _send(self) -> None:
        while True:
            try:
                await self._peer.tell(self._recipient, self.sent)
                self.sent += 1
            except Undeliverable:
                await asyncio.sleep(0)  # its mailbox is full: the flood is as large as it can be


async def test_a_flood_of_messages_starves_no_task_and_no_other_agent(world: World, tasks: TaskManager) -> None:
    agent, other, peer = Worker(), Scripted(), await world.peer()
    await world.started(agent, task_manager=tasks)
    await world.started(other)
    async with Flood(peer, agent.id):
        await until(lambda: len(agent.payloads) > 5)
        tasks.submit_many([Task(id=str(n)) for n in range(20)])
        await peer.tell(other.id, "me too")
        await until(lambda: tasks.progress().done == 20)
        await until(was_shown(other, "me too"))


async def test_a_flood_of_messages_starves_no_renewal(world: World) -> None:
    tasks, agent, peer, ttl = WatchedLeases(), Scripted([ClaimTask("t")]), await world.peer(), 0.6
    tasks.submit(Task(id="t", constraints={"claim_ttl_sec": ttl}))
    await world.started(agent, task_manager=tasks, claim_ttl_interval_sec=0.01)
    async with Flood(peer, agent.id) as flood:
        await until(lambda: flood.sent > 100 and tasks.progress().claimed == 1)
        await tasks.outlive(ttl)
        held = tasks.get_task("t")
    assert held is not None
    assert (held.assigned_to, held.attempt) == (agent.id, 1), "nobody renewed it"


async def test_a_flood_of_tasks_starves_no_message(world: World, tasks: TaskManager) -> None:
    numbers = itertools.count()

    async def submit() -> None:
        while True:
            tasks.submit_many([Task(id=str(next(numbers))) for _ in range(20)])
            await asyncio.sleep(0)

    agent, peer = Worker(), await world.peer()
    await world.started(agent, task_manager=tasks)
    flood = asyncio.create_task(submit())
    for n in range(1, 4):
        await peer.tell(agent.id, n)
        await until(was_shown(agent, n))
    flood.cancel()
    await asyncio.wait({flood})
    assert next(numbers) > 20


async def test_an_agent_that_always_writes_to_itself_leaves_room_for_the_others(world: World) -> None:
    class Monologue(Scripted):
        async def decide(self, messages: list[Message], tasks: list[Task]) -> Any:
            self.shown.append((messages, tasks, ()))
            return [SendMessage(Message(recipient=self.id, payload={"n": len(self.shown)}))]

    talker, other, peer = Monologue(), Scripted(), await world.peer()
    await world.started(talker)
    await world.started(other)
    for n in range(1, 6):
        await peer.tell(other.id, n)
        await until(was_shown(other, n))
    assert talker.calls > 5


def drained(agent: Scripted, count: int) -> Callable[[], bool]:
    return lambda: sum(map(len, agent.payloads)) == count


async def test_a_burst_is_drained_in_full_batches_without_waiting_for_any_timer(world: World) -> None:
    class Slow(Scripted):
        async def decide(self, messages: list[Message], tasks: list[Task]) -> Any:
            self.shown.append((messages, tasks, ()))
            await asyncio.sleep(0.02)
            return []

    waits: list[float | None] = []

    class Watched(Scheduler):
        async def wait_for_work(self, timeout: float | None) -> bool:
            woken = await super().wait_for_work(timeout)
            waits.append(None if woken else timeout)
            return woken

    agent, peer = Slow(), await world.peer()
    await world.started(agent, scheduler=Watched())
    for n in range(200):
        await peer.tell(agent.id, n)
    await until(drained(agent, 200))
    assert [n for batch in agent.payloads for n in batch] == [*range(200)]
    assert len([batch for batch in agent.payloads if batch]) <= 6, "64 at once: hardly more than 200 / 64 calls"
    assert not any(waits), "no wait ended by its time"
