"""Health tells the truth, whatever ends the loop or the listener of an agent, and who waits for the runtime is told."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from converge.coordination.task_manager import TaskManager
from converge.core.agent import AgentState
from converge.core.decisions import Decision
from converge.core.message import Message
from converge.core.task import Task
from converge.network.transport.local import LocalTransport, LocalTransportRegistry
from converge.runtime.errors import CallFailed
from converge.runtime.inbox import Inbox
from converge.runtime.loop import AgentRuntime
from converge.runtime.scheduler import Scheduler
from converge.runtime.upkeep import FailureStreak
from tests.core.runtime.conftest import PATIENCE_SEC, Scripted, until

if TYPE_CHECKING:
    from tests.core.runtime.conftest import World


def task_of(part: str) -> asyncio.Task[Any]:
    """The task of this event loop that runs the coroutine `part`."""
    [found] = [task for task in asyncio.all_tasks() if part in repr(task.get_coro())]
    return found


async def told(runtime: AgentRuntime) -> Exception:
    """What whoever waits for the runtime is told; it is unhealthy from the first instant on."""
    async with asyncio.timeout(PATIENCE_SEC):
        with pytest.raises(Exception) as raised:
            await runtime.wait_stopped()
    assert (runtime.running, runtime.is_healthy(), runtime.is_ready()) == (False, False, False)
    return raised.value


class Dying(Scheduler):
    """A scheduler, as an application may bring its own, that fails when it is told to."""

    error: BaseException | None = None

    async def wait_for_work(self, timeout: float | None) -> bool:
        woken = await super().wait_for_work(timeout)
        if self.error is not None:
            raise self.error
        return woken


class Hanging(Scripted):
    """Takes its time to stop."""

    is_gone = False

    async def on_stop(self) -> None:
        await asyncio.sleep(0.2)
        self.is_gone = True


@pytest.mark.parametrize(
    "error", [ValueError("lost"), SystemExit(3), GeneratorExit("odd"), asyncio.CancelledError("odd")]
)
async def test_a_loop_that_dies_shows_at_once_and_is_an_error_for_who_waits(world: World, error: BaseException) -> None:
    agent, scheduler = Hanging(), Dying()
    runtime = await world.started(agent, scheduler=scheduler)
    await agent.called(1)
    assert runtime.is_healthy()
    if isinstance(error, asyncio.CancelledError):
        task_of("Keeper._keep").cancel()  # as the end of the event loop does
    else:
        scheduler.error = error
        scheduler.notify()
    await until(lambda: not runtime.is_healthy())
    assert not agent.is_gone, "on_stop is still under way"
    failure = await told(runtime)
    assert isinstance(failure, ValueError | CallFailed)
    assert agent.state is AgentState.OFFLINE
    assert agent.is_gone


@pytest.mark.parametrize("deciding", [False, True])
def test_what_still_runs_when_the_event_loop_ends_is_closed_before(
    deciding: bool, caplog: pytest.LogCaptureFixture
) -> None:
    tasks, registry, agents = TaskManager(), LocalTransportRegistry(), [Hanging() for _ in range(3)]
    task_ids = [tasks.submit(Task()) for _ in agents]

    async def decide(messages: list[Message], tasks: list[Task]) -> list[Decision]:
        if deciding:
            await asyncio.Event().wait()
        return []

    async def leave() -> None:
        for agent, task_id in zip(agents, task_ids, strict=True):
            agent.answers = [decide]
            await AgentRuntime(agent, LocalTransport(agent.id, registry), task_manager=tasks).start()
            assert tasks.claim(agent.id, task_id)
            await agent.called(1)

    asyncio.run(leave())
    assert [(agent.is_gone, agent.state) for agent in agents] == [(True, AgentState.OFFLINE)] * 3
    assert {task.id for task in tasks.list_pending_tasks()} == {*task_ids}, "the claims are given back"
    assert [registry.mailbox(agent.id) for agent in agents] == [None] * 3
    assert "it goes on" not in caplog.text


class Listened(LocalTransport):
    """A transport that a listener has to wait in, as one that brings messages from elsewhere."""

    async def receive(self, timeout: float | None = None) -> Message:
        return await super().receive(timeout)


async def test_a_loop_or_a_listener_that_is_cancelled_from_outside_goes_on(world: World) -> None:
    agent, peer = Scripted(), await world.peer()
    runtime = await world.started(agent, Listened(agent.id, world.registry))
    await agent.called(1)
    for part in ("AgentRuntime._work", "Upkeep.forever"):
        task_of(part).cancel()
        await asyncio.sleep(0)
    await peer.tell(agent.id, 1)
    await agent.called(2)
    assert runtime.is_healthy()


@pytest.mark.parametrize("blocking", [False, True])
async def test_user_code_that_cancels_the_task_it_runs_in_has_failed_and_no_more(world: World, blocking: bool) -> None:
    def cancel() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    async def suicide(messages: list[Message], tasks: list[Task]) -> list[Decision]:
        cancel()
        await asyncio.sleep(0)
        return []

    def plain(messages: list[Message], tasks: list[Task]) -> list[Decision]:
        cancel()
        return []

    class Rude(LocalTransport):
        rude = 2

        async def receive(self, timeout: float | None = None) -> Message:
            if self.rude:
                self.rude -= 1
                cancel()
                await asyncio.sleep(0)
            return await super().receive(timeout)

    agent, peer = Scripted([], suicide, plain), await world.peer()
    runtime = await world.started(agent, Rude(agent.id, world.registry))
    for n in range(1, 4):
        await agent.called(n)
        await peer.tell(agent.id, n)
    await until(lambda: [3] in agent.payloads)
    assert runtime.is_healthy()
    assert world.counted("converge_decide_failures_total") >= 1
    assert world.counted("converge_receive_failures_total") == 2
    begun = time.monotonic()
    await runtime.stop()
    assert time.monotonic() - begun < PATIENCE_SEC, "what it forgot of being cancelled does not keep it from stopping"
    assert agent.state is AgentState.OFFLINE


async def test_a_handler_of_a_decision_that_cancels_its_task_fails_alone(world: World) -> None:
    class Odd(Decision):
        pass

    async def handle(decision: Odd) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    agent = Scripted([Odd()])
    runtime = await world.started(agent, executor_kwargs={"custom_handlers": {Odd: handle}})
    await until(lambda: agent.outcomes)
    assert [outcome.status for outcome in agent.outcomes] == ["failed"]
    assert runtime.is_healthy()


@pytest.mark.parametrize(
    ("method", "garbage"), [("receive", b"\xc1"), ("receive", None), ("receive_verified", 5), ("receive_verified", [1])]
)
async def test_a_transport_that_receives_garbage_shows_and_a_message_mends_it(
    world: World, method: str, garbage: Any
) -> None:
    class Garbled(LocalTransport):
        broken = True

    async def answer(self: Garbled, *args: Any, **options: Any) -> Any:
        return garbage if self.broken else await getattr(LocalTransport, method)(self, *args, **options)

    setattr(Garbled, method, answer)
    agent, peer = Scripted(), await world.peer()
    transport = Garbled(agent.id, world.registry)
    runtime = await world.started(agent, transport)
    await agent.called(1)
    await until(lambda: not runtime.is_healthy())
    assert runtime.running
    assert not runtime.is_ready()
    transport.broken = False
    await peer.tell(agent.id, 1)
    await agent.called(2)
    await until(runtime.is_healthy)
    assert agent.payloads == [[], [1]]


@pytest.mark.parametrize("kind", [LocalTransport, Listened])
async def test_a_transport_that_somebody_else_stopped_is_unhealthy_until_it_is_started_again(
    world: World, kind: type[LocalTransport]
) -> None:
    agent = Scripted()
    runtime = await world.started(agent, kind(agent.id, world.registry))
    await agent.called(1)
    await runtime.transport.stop()
    await until(lambda: not runtime.is_healthy())
    await runtime.transport.start()
    await until(runtime.is_healthy)


def test_a_streak_of_failures_lasts_while_it_goes_on_and_not_when_a_step_waits() -> None:
    now = [0.0]
    streak = FailureStreak(lambda: now[0])
    seen: list[tuple[float, bool]] = []

    def look() -> None:
        seen.append((round(now[0], 3), streak.lasts))

    for pause in (0.1, 0.2, 0.4, 0.8):
        streak.failed()
        look()
        now[0] += pause
    assert seen == [(0.0, False), (0.1, False), (0.3, False), (0.7, True)], "within a second"
    seen.clear()
    look()
    now[0] += 2.0
    look()  # the step after the last failure has waited for longer than any pause
    streak.failed()
    look()
    streak.failures = 0
    look()
    assert [lasts for _, lasts in seen] == [True, False, True, False]


async def test_a_decide_that_takes_long_is_no_failure_and_a_health_check_may_say_otherwise(world: World) -> None:
    never, late = asyncio.Event(), [False]

    async def hang(messages: list[Message], tasks: list[Task]) -> list[Decision]:
        await never.wait()
        return []

    agent = Scripted(hang)
    runtime = await world.started(agent, health_check=lambda: not late[0])
    await agent.called(1)
    assert runtime.is_healthy()
    late[0] = True
    assert not runtime.is_healthy()


async def test_an_inbox_of_the_callers_that_raises_shows_and_the_agent_goes_on_when_it_works_again(
    world: World,
) -> None:
    class Broken(Inbox):
        error: BaseException | None = None

        async def push(self, message: Message) -> None:
            if self.error is not None:
                raise self.error
            await super().push(message)

    inbox = Broken()
    agent, peer = Scripted(), await world.peer()
    runtime = await world.started(agent, inbox=inbox)
    await agent.called(1)
    inbox.error = SystemExit(3)
    await peer.tell(agent.id, 1)
    await until(lambda: world.counted("converge_receive_failures_total") == 1)
    inbox.error = None
    await peer.tell(agent.id, 2)
    await agent.called(2)
    assert runtime.is_healthy()
