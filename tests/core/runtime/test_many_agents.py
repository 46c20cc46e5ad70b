"""What agents of one process share: a timer, the way to the store thread, a renewer; and what each does without."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing
from typing import Any

import pytest

from converge.coordination.task_manager import TaskManager
from converge.core.message import Message
from converge.core.task import Task
from converge.network.transport.local import LocalTransport, LocalTransportRegistry
from converge.runtime.scheduler import Scheduler
from converge.runtime.shared.alarms import Alarms
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


class HandSet(asyncio.SelectorEventLoop):
    """An event loop whose clock a test sets, and whose timers it fires."""

    def __init__(self) -> None:
        self.now, self.timers = 1000.03, dict[float, Any]()
        super().__init__()

    def time(self) -> float:
        return self.now

    def call_at(  # type: ignore[override]  # typed loosely: it keeps what it is given
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> Any:
        self.timers[when] = lambda: callback(*args)

    def fire(self) -> None:
        self.now = min(self.timers)
        asyncio._set_running_loop(self)
        try:
            self.timers.pop(self.now)()
        finally:
            asyncio._set_running_loop(None)


class Rung:
    def __init__(self, *again: float) -> None:
        self.at, self.again = list[float](), [*again]

    def ring(self, now: float) -> float | None:
        self.at.append(now)
        return now + self.again.pop(0) if self.again else None


def test_those_that_wait_for_long_are_rung_together_and_others_at_their_time() -> None:
    loop, alarms = HandSet(), Alarms()
    many, soon, later = [Rung() for _ in range(1000)], Rung(), Rung(30.0, 0.01)
    with closing(loop):
        alarms.set(soon, loop.now + 1.9, loop)
        for number, one in enumerate(many):
            alarms.set(one, loop.now + 30.0 + number / 10_000, loop)
        alarms.set(later, loop.now + 1.0, loop)
        fired = 0
        while loop.timers:
            loop.fire()
            fired += 1
        assert soon.at == [1001.93]
        assert fired <= 8, "a thousand alarms in a tenth of a second are two or three wakes"
        for number, one in enumerate(many):
            assert 0 <= one.at[0] - (1030.03 + number / 10_000) <= 0.125
        assert later.at == [1001.03, 1031.125, 1031.135]


async def test_who_rests_sleeps_on_until_it_does_not() -> None:
    scheduler, rests = Scheduler(), [0.002] * 3 + [0.0]
    scheduler.rests = lambda: rests.pop(0)
    assert await scheduler.wait_for_work(0.002) is False
    assert rests == []
    scheduler.rests = lambda: 3600.0
    waiting = asyncio.create_task(scheduler.wait_for_work(0.002))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    scheduler.notify()
    assert await waiting is True


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
