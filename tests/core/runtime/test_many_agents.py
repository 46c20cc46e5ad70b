"""What agents of one process share: a timer, the way to the store thread, a renewer; and what each does without."""

from __future__ import annotations

import asyncio
import threading

import pytest

from converge.coordination.task_manager import TaskManager
from converge.core.message import Message
from converge.core.task import Task
from converge.network.transport.local import LocalTransport, LocalTransportRegistry
from converge.runtime.scheduler import Scheduler
from converge.runtime.shared.claims import ClaimRenewer
from converge.runtime.threads import StoreThread
from tests.core.runtime.conftest import PATIENCE_SEC


async def test_waits_of_different_lengths_each_end_in_their_time_also_after_one_that_ended_early() -> None:
    one, other = Scheduler(), Scheduler()
    long = asyncio.create_task(one.wait_for_work(PATIENCE_SEC))
    await asyncio.sleep(0)
    assert await other.wait_for_work(0.001) is False
    one.notify()
    assert await long is True
    assert await one.wait_for_work(0.001) is False
    assert await other.wait_for_work(0.001) is False


async def test_only_one_waits_for_a_notice() -> None:
    scheduler = Scheduler()
    first = asyncio.create_task(scheduler.wait_for_work(PATIENCE_SEC))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="somebody waits for work already"):
        await scheduler.wait_for_work(0)
    scheduler.notify()
    assert await first is True


async def test_a_call_that_is_cancelled_before_it_has_begun_is_left_out_and_the_next_are_made() -> None:
    thread, go, made = StoreThread(), threading.Event(), list[int]()
    thread.open()
    first = asyncio.create_task(thread.run(go.wait, PATIENCE_SEC))
    calls = [asyncio.create_task(thread.run(made.append, number)) for number in range(3)]
    await asyncio.sleep(0)
    calls[1].cancel()
    await asyncio.sleep(0)
    go.set()
    await asyncio.wait([first, *calls])
    thread.close()
    assert made == [0, 2]


async def test_a_transport_tells_of_what_comes_while_nobody_receives_and_of_its_stop() -> None:
    registry, told = LocalTransportRegistry(), list[int]()
    here, there = LocalTransport("here", registry), LocalTransport("there", registry)
    await here.start()
    await there.start()
    assert here.call_when_waiting(lambda: told.append(here.waiting))
    receiving = asyncio.create_task(here.receive())
    await asyncio.sleep(0)
    await there.send(Message(sender="there", recipient="here"))
    await receiving
    assert told == []
    await there.send(Message(sender="there", recipient="here"))
    assert told == [1]
    await here.stop()
    assert told == [1, 0]
    await there.stop()


async def test_a_claim_is_renewed_by_the_shared_renewer_until_its_agent_closes() -> None:
    tasks = TaskManager()
    renewed = asyncio.Event()
    renew = tasks.renew_claim

    def noting(agent_id: str, task_id: str) -> object:
        renewed.set()
        return renew(agent_id, task_id)

    tasks.renew_claim = noting  # type: ignore[method-assign,assignment]  # told of, and done
    task_id = tasks.submit(Task(constraints={"claim_ttl_sec": 0.05}))
    assert tasks.claim("holder", task_id)
    renewer = ClaimRenewer.of(tasks)
    renewer.open("idle", lambda: None)
    renewer.open("holder", lambda: None)
    async with asyncio.timeout(PATIENCE_SEC):
        await renewed.wait()
    await renewer.close("holder")
    assert ClaimRenewer.of(tasks) is renewer
    await renewer.close("idle")
    other = ClaimRenewer.of(tasks)
    assert other is not renewer
    await other.close("nobody")
