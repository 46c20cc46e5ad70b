"""Starting and stopping one agent."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from converge.coordination.task_manager import TaskManager
from converge.core.agent import AgentState
from converge.core.decisions import ClaimTask
from converge.core.message import Message
from converge.core.task import Task
from converge.core.topic import Topic
from converge.extensions.storage.memory import MemoryStore
from converge.extensions.storage.sqlite import SQLiteStore
from converge.network.discovery import DiscoveryQuery, DiscoveryService
from converge.network.errors import TransportClosed
from converge.network.transport.local import LocalTransport, LocalTransportRegistry
from converge.runtime import loop as loop_module
from converge.runtime.life import STOP_TIMEOUT_SEC
from converge.runtime.loop import AgentRuntime
from tests.core.runtime.conftest import PATIENCE_SEC, Scripted, World

if TYPE_CHECKING:
    from pathlib import Path


ALL = DiscoveryQuery()


@pytest.fixture
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What hangs is given up sooner than users would want."""
    monkeypatch.setattr(loop_module, "_STEP_SEC", 0.05)
    monkeypatch.setattr(loop_module, "_LOOP_END_SEC", 0.05)


def ignoring(released: asyncio.Event) -> Any:
    """An awaitable that does not end when it is cancelled."""

    async def hang() -> list[Any]:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue
        return []

    return hang()


async def test_a_started_agent_runs_is_healthy_ready_and_discoverable_and_a_stopped_one_is_not(world: World) -> None:
    agent, discovery = Scripted(), DiscoveryService()
    runtime = world.runtime(agent, discovery_service=discovery)
    assert (runtime.running, runtime.is_healthy(), runtime.is_ready()) == (False, False, False)
    await runtime.start()
    assert (runtime.running, runtime.is_healthy(), runtime.is_ready()) == (True, True, True)
    assert [found.id for found in discovery.query(ALL)] == [agent.id]
    await agent.called(1)
    await runtime.stop()
    assert (runtime.running, runtime.is_healthy(), runtime.is_ready()) == (False, False, False)
    assert discovery.query(ALL) == []
    assert agent.state is AgentState.OFFLINE
    with pytest.raises(TransportClosed):
        await runtime.transport.receive(0.0)
    with pytest.raises(RuntimeError, match="this agent has no context yet"):
        _ = agent.context


async def test_stopping_twice_at_once_and_before_a_start_is_no_error(world: World) -> None:
    runtime = world.runtime(Scripted())
    await runtime.stop()
    await runtime.start()
    await asyncio.gather(runtime.stop(), runtime.stop(), runtime.stop())
    await runtime.stop()
    await runtime.wait_stopped()
    assert not runtime.running


async def test_an_agent_starts_again_and_is_asked_again_what_to_do(world: World) -> None:
    agent = Scripted()
    runtime, peer = await world.started(agent), await world.peer()
    await agent.called(1)
    await runtime.stop()
    async with runtime:
        await agent.called(2)
        await peer.tell(agent.id, 1)
        await agent.called(3)
        assert runtime.is_healthy()
    assert agent.payloads == [[], [], [1]]


async def test_starting_a_running_one_is_refused_and_changes_nothing(world: World) -> None:
    runtime = await world.started(Scripted())
    with pytest.raises(RuntimeError, match="runs already; stop it first"):
        await runtime.start()
    assert runtime.is_healthy()


@pytest.mark.parametrize("fails", ["transport", "on_start", "exit", "registering", "taking over"])
async def test_a_start_that_fails_leaves_nothing_behind_and_can_be_repeated(world: World, fails: str) -> None:
    class Discovery(DiscoveryService):
        def register(self, descriptor: Any, *, ttl_sec: float | None = None) -> None:
            if fails == "registering":
                raise OSError("no register")
            super().register(descriptor, ttl_sec=ttl_sec)

    class Manager(TaskManager):
        def take_over(self, agent_id: str) -> Any:
            if fails == "taking over":
                raise OSError("no taking over")
            return super().take_over(agent_id)

    class Carrier(LocalTransport):
        async def start(self) -> None:
            await super().start()
            if fails == "transport":
                raise OSError("no carrier")

    class Starter(Scripted):
        def on_start(self) -> None:
            if fails == "on_start":
                raise ValueError("not today")
            if fails == "exit":
                raise SystemExit(3)

    agent, discovery, tasks = Starter(), Discovery(), Manager()
    runtime = world.runtime(agent, Carrier(agent.id, world.registry), task_manager=tasks, discovery_service=discovery)
    before = asyncio.all_tasks()
    with pytest.raises((OSError, ValueError, RuntimeError)):
        await runtime.start()
    assert asyncio.all_tasks() == before
    assert not runtime.running
    assert agent.state is AgentState.OFFLINE
    assert discovery.query(ALL) == []
    with pytest.raises(TransportClosed):
        await runtime.transport.receive(0.0)
    fails = "nothing"
    await runtime.start()
    await agent.called(1)
    assert runtime.is_healthy()


async def test_a_cancelled_start_leaves_nothing_running(world: World) -> None:
    never = asyncio.Event()

    class Slow(Scripted):
        async def on_start(self) -> None:
            await never.wait()

    runtime = world.runtime(Slow())
    before = asyncio.all_tasks()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await runtime.start()
    assert asyncio.all_tasks() == before
    assert not runtime.running


async def test_a_runtime_that_is_still_starting_can_be_stopped_and_is_not_ready(world: World) -> None:
    starting, never = asyncio.Event(), asyncio.Event()

    class Slow(Scripted):
        async def on_start(self) -> None:
            starting.set()
            await never.wait()

    runtime = world.runtime(Slow())
    start = asyncio.create_task(runtime.start())
    await starting.wait()
    assert (runtime.running, runtime.is_ready(), runtime.is_healthy()) == (False, False, False)
    async with asyncio.timeout(1.0):
        await runtime.stop()
        with pytest.raises(RuntimeError, match="was stopped before it had started"):
            await start


async def test_the_hooks_are_called_in_order_and_what_they_send_is_signed(world: World) -> None:
    peer, order = await world.peer(), list[str]()

    class Hooked(Scripted):
        async def on_start(self) -> None:
            order.append("start")
            await self.context.network.send(Message(sender=self.id, recipient=peer.id, payload={"n": "start"}))

        def on_tick(self, messages: list[Message], tasks: list[Task]) -> None:
            order.append("tick")

        async def decide(self, messages: list[Message], tasks: list[Task]) -> Any:
            order.append("decide")
            return await super().decide(messages, tasks)

        async def on_stop(self) -> None:
            order.append("stop")
            await self.context.network.send(Message(sender=self.id, recipient=peer.id, payload={"n": "stop"}))

    agent = Hooked()
    runtime = await world.started(agent)
    await agent.called(1)
    await runtime.stop()
    assert order == ["start", "tick", "decide", "stop"]
    for word in ("start", "stop"):
        message = await peer.hear()
        assert (message.payload, message.verify(), message.sender) == ({"n": word}, True, agent.id)


async def test_topics_and_capabilities_that_on_start_adds_count(world: World) -> None:
    news, discovery, peer = Topic("news"), DiscoveryService(), await world.peer()

    class Learner(Scripted):
        def on_start(self) -> None:
            self.topics.append(news)
            self.capabilities.add("read")

    agent = Learner()
    await world.started(agent, discovery_service=discovery)
    await agent.called(1)
    await peer.transport.send(Message(topics=[news], payload={"n": 1}).sign(peer.identity))
    await agent.called(2)
    assert [found.id for found in discovery.query(DiscoveryQuery(topics=[news], capabilities=["read"]))] == [agent.id]


async def test_wait_stopped_returns_when_the_agent_has_gone_offline_by_itself(world: World) -> None:
    agent = Scripted()

    def leave(messages: list[Message], tasks: list[Task]) -> list[Any]:
        agent.state = AgentState.OFFLINE
        return []

    agent.answers = [leave]
    runtime = await world.started(agent)
    async with asyncio.timeout(PATIENCE_SEC):
        await runtime.wait_stopped()
    assert (runtime.running, agent.calls) == (False, 1)


async def test_the_decisions_of_the_call_that_goes_offline_are_carried_out(world: World) -> None:
    agent, tasks = Scripted(), TaskManager()

    def leave(messages: list[Message], seen: list[Task]) -> list[Any]:
        agent.state = AgentState.OFFLINE
        return [ClaimTask("t")]

    agent.answers = [leave]
    submitted = Task(id="t")
    tasks.submit(submitted)
    runtime = await world.started(agent, task_manager=tasks)
    await runtime.wait_stopped()
    assert [outcome.status for outcome in agent.outcomes] == ["done"]
    assert submitted.assigned_to is None  # claimed, and given back at the end


async def test_an_agent_that_on_tick_takes_offline_is_not_asked_any_more(world: World) -> None:
    class Leaver(Scripted):
        def on_tick(self, messages: list[Message], tasks: list[Task]) -> None:
            self.state = AgentState.OFFLINE

    agent = Leaver()
    runtime = await world.started(agent)
    await runtime.wait_stopped()
    assert agent.calls == 0


@pytest.mark.usefixtures("short_steps")
@pytest.mark.parametrize("hangs", ["decide", "on_stop", "receive", "transport stop", "everything"])
async def test_stop_returns_soon_whatever_ignores_being_cancelled(world: World, hangs: str) -> None:
    released, deciding = asyncio.Event(), asyncio.Event()

    def hanging(what: str) -> bool:
        return hangs in (what, "everything")

    class Carrier(LocalTransport):
        async def receive(self, timeout: float | None = None) -> Message:
            return await (ignoring(released) if hanging("receive") else super().receive(timeout))

        async def stop(self) -> None:
            await super().stop()
            if hanging("transport stop"):
                await ignoring(released)

    class Hanger(Scripted):
        async def on_stop(self) -> None:
            if hanging("on_stop"):
                await ignoring(released)

        async def decide(self, messages: list[Message], tasks: list[Task]) -> list[Any]:
            deciding.set()
            if hanging("decide"):
                await ignoring(released)
            return []

    tasks = TaskManager()
    agent = Hanger()
    tasks.submit(Task(id="mine"))
    runtime = await world.started(agent, Carrier(agent.id, world.registry), task_manager=tasks)
    tasks.claim(agent.id, "mine")
    await deciding.wait()
    begun = time.monotonic()
    await runtime.stop()
    assert time.monotonic() - begun < 3.0
    assert not runtime.running
    task = tasks.get_task("mine")
    assert task is not None
    assert task.assigned_to is None, "the claim is given back all the same"
    released.set()


def test_the_steps_of_a_stop_take_less_than_it_promises() -> None:
    from converge.runtime.calls import GRACE_SEC

    steps = 4  # on_stop, unregistering, giving claims back, stopping the transport
    assert loop_module._LOOP_END_SEC + steps * (loop_module._STEP_SEC + GRACE_SEC) < STOP_TIMEOUT_SEC <= 10.0


async def test_stop_does_not_wait_for_a_decide_in_a_thread_that_never_returns(world: World) -> None:
    inside, released = threading.Event(), threading.Event()

    class Blocking(Scripted):
        blocking = True

        def decide(self, messages: list[Message], tasks: list[Task]) -> list[Any]:  # type: ignore[override]  # plain
            inside.set()
            released.wait(PATIENCE_SEC)
            return []

    runtime = await world.started(Blocking())
    assert await asyncio.to_thread(inside.wait, PATIENCE_SEC)
    async with asyncio.timeout(2.0):
        await runtime.stop()
    released.set()


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError()])
async def test_an_on_stop_that_raises_is_counted_and_the_rest_of_the_stop_is_done(
    world: World, error: BaseException
) -> None:
    class Unwilling(Scripted):
        def on_stop(self) -> None:
            raise error

    agent, discovery = Unwilling(), DiscoveryService()
    runtime = await world.started(agent, discovery_service=discovery)
    await runtime.stop()
    assert world.counted("converge_stop_failures_total") == 1
    assert discovery.query(ALL) == []
    with pytest.raises(TransportClosed):
        await runtime.transport.receive(0.0)


async def test_an_agent_may_stop_its_own_runtime(world: World) -> None:
    agent = Scripted()
    runtime = world.runtime(agent)

    async def stop() -> None:
        await runtime.stop()

    agent.answers = [lambda messages, tasks: stop()]
    await runtime.start()
    async with asyncio.timeout(3.0):
        await runtime.wait_stopped()
    assert not runtime.running


async def test_health_and_readiness_ask_the_checks_and_a_check_that_raises_says_no(world: World) -> None:
    answers = {"healthy": True, "ready": True}

    def health() -> bool:
        return answers["healthy"] and bool(answers["there"])  # KeyError until it is there

    runtime = await world.started(Scripted(), health_check=health, ready_check=lambda: answers["ready"])
    assert (runtime.is_healthy(), runtime.is_ready()) == (False, True)
    answers.update(there=True, ready=False)
    assert (runtime.is_healthy(), runtime.is_ready()) == (True, False)
    answers["healthy"] = False
    assert not runtime.is_healthy()


async def test_cycles_of_starting_and_stopping_leave_no_thread_task_file_or_object(tmp_path: Path) -> None:
    registry = LocalTransportRegistry()

    async def cycle() -> list[weakref.ref[Any]]:
        with SQLiteStore(tmp_path / "store.db") as store:
            tasks = TaskManager(store)
            agents = [Scripted(), Scripted()]
            runtimes = [AgentRuntime(agent, LocalTransport(agent.id, registry), None, tasks) for agent in agents]
            for runtime, agent in zip(runtimes, agents, strict=True):
                await runtime.start()
                await agent.called(1)
            await asyncio.gather(*(runtime.stop() for runtime in runtimes))
            tasks.close()
            return [weakref.ref(tasks), *map(weakref.ref, runtimes)]

    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    others = set(threading.enumerate())  # a hung tool of another test may have left one
    await cycle()
    gc.collect()
    before = (open_files(), asyncio.all_tasks())
    gone = [reference for _ in range(10) for reference in await cycle()]
    for thread in threading.enumerate():
        if thread.name.startswith("converge-store"):
            thread.join(PATIENCE_SEC)  # it is told to end, and may still be about to
    left = set(threading.enumerate()) - others
    assert [thread.name for thread in left if thread.name.startswith("converge")] == []
    gc.collect()
    assert [reference() for reference in gone if reference() is not None] == []
    assert (open_files(), asyncio.all_tasks()) == before


async def test_a_receiving_job_that_cannot_go_on_does_not_end_the_agent(world: World) -> None:
    failing = [RuntimeError("plugin"), OSError("line"), SystemExit(2), ValueError("garbled")]

    class Bad(LocalTransport):
        async def receive(self, timeout: float | None = None) -> Message:
            if failing:
                raise failing.pop()
            return await super().receive(timeout)

    agent, peer = Scripted(), await world.peer()
    runtime = await world.started(agent, Bad(agent.id, world.registry))
    await peer.tell(agent.id, 7)
    await agent.called(2)
    assert runtime.is_healthy()
    assert agent.payloads == [[], [7]]
    assert world.counted("converge_receive_failures_total") == 4


async def test_a_transport_that_answers_without_ever_waiting_does_not_keep_the_event_loop(world: World) -> None:
    class Flood(LocalTransport):
        async def receive(self, timeout: float | None = None) -> Message:
            return Message.from_bytes(b"\xc1 noise")

    begun, agent = time.monotonic(), Scripted()
    runtime = await world.started(agent, Flood(agent.id, world.registry))
    async with asyncio.timeout(PATIENCE_SEC):
        await agent.called(1)
        await runtime.stop()
    assert world.counted("converge_messages_refused_total") > 0
    assert time.monotonic() - begun < PATIENCE_SEC


async def test_a_store_that_fails_in_the_background_is_counted_and_tried_again(world: World) -> None:
    class Moody(MemoryStore):
        failures = 2
        written = asyncio.Event()

        def put(self, key: str, value: Any) -> None:
            if key.startswith("checkpoint:") and self.failures:
                self.failures -= 1
                raise OSError("disk full")
            super().put(key, value)
            self.written.set()

    agent, store = Scripted(), Moody()
    runtime = await world.started(agent, checkpoint_store=store, checkpoint_interval_sec=0.01)
    await agent.called(1)
    store.written.clear()
    async with asyncio.timeout(PATIENCE_SEC):
        await store.written.wait()
    assert runtime.is_healthy()
    assert world.counted("converge_checkpoint_failures_total") == 2
    assert abs(float(str(store.get(f"checkpoint:{agent.id}"))) - time.time()) < 60


async def test_a_second_stop_does_not_end_what_undoes_a_start(world: World) -> None:
    begun, gone = asyncio.Event(), list[str]()

    class Starter(Scripted):
        async def on_start(self) -> None:
            begun.set()
            await asyncio.Event().wait()

    class Carrier(LocalTransport):
        async def stop(self) -> None:
            await asyncio.sleep(0.02)
            await super().stop()
            gone.append(self.agent_id)

    agent = Starter()
    runtime = AgentRuntime(agent, Carrier(agent.id, world.registry))
    starting = asyncio.create_task(runtime.start())
    await begun.wait()
    stops = [asyncio.create_task(runtime.stop())]
    await asyncio.sleep(0.005)
    stops.append(asyncio.create_task(runtime.stop()))
    await asyncio.gather(*stops)
    with pytest.raises(RuntimeError, match="was stopped before it had started"):
        await starting
    assert gone == [agent.id]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there are no eager tasks before Python 3.12")
def test_an_event_loop_whose_tasks_begin_at_once_changes_nothing() -> None:
    async def live() -> None:
        asyncio.get_running_loop().set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009  # not in 3.11
        world, agent = World(), Scripted()
        peer, runtime = await world.peer(), await world.started(agent, task_manager=TaskManager())
        await agent.called(1)
        await peer.tell(agent.id, 1)
        await agent.called(2)
        await runtime.stop()
        async with runtime:
            await agent.called(3)
            agent.state = AgentState.OFFLINE
            await peer.tell(agent.id, 2)
            await runtime.wait_stopped()
        assert not runtime.running
        await world.close()

    asyncio.run(live())
