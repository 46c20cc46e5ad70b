"""When `decide` is called, with what, and what becomes of what it answers or raises."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from converge.core.agent import AgentState, Outcome
from converge.core.decisions import Decision, InvokeTool, LeavePool, SendMessage
from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.task import Task
from converge.core.tools import ToolRegistry, tool
from converge.network.identity_registry import IdentityRegistry
from converge.network.transport.local import LocalTransport
from converge.observability.replay import ReplayLog
from converge.runtime import turns
from converge.runtime.loop import Inbox
from tests.core.runtime.conftest import PATIENCE_SEC, Scripted, World, until


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_MAX_BACKOFF_SEC", 0.0)


@tool
def double(number: int) -> int:
    """Twice `number`."""
    return 2 * number


@tool
def broken() -> None:
    """Fails."""
    raise LookupError("nothing there")


def toolbox() -> ToolRegistry:
    registry = ToolRegistry()
    registry.register(double)
    registry.register(broken)
    return registry


# -- when it is called


async def test_decide_is_called_once_at_the_start_and_then_for_each_message(world: World) -> None:
    agent, peer = Scripted(), await world.peer()
    await world.started(agent)
    await agent.called(1)
    for n in (1, 2):
        await peer.tell(agent.id, n)
        await agent.called(n + 1)
    assert agent.payloads == [[], [1], [2]]


async def test_on_tick_runs_without_work_when_the_wait_is_over_and_decide_does_not(world: World) -> None:
    ticks = asyncio.Semaphore(0)

    class Ticking(Scripted):
        def on_tick(self, messages: list[Message], tasks: list[Task]) -> None:
            ticks.release()

    agent = Ticking()
    await world.started(agent, receive_timeout_sec=0.001)
    async with asyncio.timeout(PATIENCE_SEC):
        for _ in range(5):
            await ticks.acquire()
    assert agent.calls == 1


async def test_outcomes_other_than_of_tools_ride_along_so_that_an_agent_that_always_answers_never_spins(
    world: World,
) -> None:
    agent, peer = Scripted(*[[LeavePool("nowhere")]] * 100), await world.peer()
    await world.started(agent)
    await agent.called(1)
    await peer.tell(agent.id)
    await agent.called(2)
    await peer.tell(agent.id)
    await agent.called(3)
    assert agent.calls == 3
    assert [[outcome.status for outcome in outcomes] for _, _, outcomes in agent.shown] == [
        [],
        ["refused"],
        ["refused"],
    ]


async def test_tool_results_come_back_with_the_next_call_at_once(world: World) -> None:
    agent = Scripted([InvokeTool("double", {"number": 21}), InvokeTool("broken"), InvokeTool("absent")])
    await world.started(agent, tool_registry=toolbox())
    await agent.called(2)
    good, bad, absent = agent.shown[1][2]
    assert good == Outcome(InvokeTool("double", {"number": 21}), "done", 42)
    assert (bad.status, bad.error) == ("failed", "LookupError: nothing there")
    assert (absent.status, absent.error) == ("refused", "there is no tool 'absent'; there is broken, double")


async def test_tool_results_are_shown_once(world: World) -> None:
    agent, peer = Scripted([InvokeTool("double", {"number": 1})]), await world.peer()
    await world.started(agent, tool_registry=toolbox())
    await agent.called(2)
    await peer.tell(agent.id)
    await agent.called(3)
    assert agent.shown[2][2] == ()
    assert agent.calls == 3


async def test_a_backlog_is_drained_in_order_in_batches_while_others_get_their_turn(world: World) -> None:
    agent, other, peer = Scripted(), Scripted(), await world.peer()
    await world.started(agent)
    await world.started(other)
    for n in range(101):
        await peer.tell(agent.id, n)
    await peer.tell(other.id, 0)
    await other.called(2)
    async with asyncio.timeout(PATIENCE_SEC):
        while sum(map(len, agent.payloads)) < 101:
            await agent.called(agent.calls + 1)
    assert [n for batch in agent.payloads for n in batch] == list(range(101))
    assert 10 < max(map(len, agent.payloads)) <= 64


async def test_a_small_inbox_holds_messages_back_without_losing_one(world: World) -> None:
    agent, peer = Scripted(), await world.peer()
    await world.started(agent, inbox_kwargs={"maxsize": 2})
    for n in range(20):
        await peer.tell(agent.id, n)
    async with asyncio.timeout(PATIENCE_SEC):
        while sum(map(len, agent.payloads)) < 20:
            await agent.called(agent.calls + 1)
    assert [n for batch in agent.payloads for n in batch] == list(range(20))


async def test_an_inbox_of_the_callers_may_drop_what_does_not_fit(world: World) -> None:
    inbox, go = Inbox(1, drop_when_full=True), asyncio.Event()

    async def wait() -> list[Any]:
        await go.wait()
        return []

    agent, peer = Scripted(lambda messages, tasks: wait()), await world.peer()
    await world.started(agent, inbox=inbox)
    await agent.called(1)
    for n in range(5):
        await peer.tell(agent.id, n)
    await until(lambda: inbox.dropped == 4)
    go.set()
    await agent.called(2)
    assert agent.payloads == [[], [0]]


async def test_a_blocking_agent_decides_in_a_thread_of_its_own_and_the_event_loop_goes_on(world: World) -> None:
    release, threads = threading.Event(), list[str]()

    class Computing(Scripted):
        blocking = True

        def decide(self, messages: list[Message], tasks: list[Task]) -> list[Any]:  # type: ignore[override]  # plain
            threads.append(threading.current_thread().name)
            if messages:
                assert release.wait(PATIENCE_SEC), "nobody else had a turn"
                return [SendMessage(Message(recipient=messages[0].sender, payload={"n": "done"}))]
            return []

    agent, other, peer = Computing(), Scripted(), await world.peer()
    await world.started(agent)
    await world.started(other)
    await peer.tell(agent.id)
    await peer.tell(other.id)
    await other.called(2)
    release.set()
    assert (await peer.hear()).payload == {"n": "done"}
    assert set(threads) == {f"converge-decide-{agent.id[:8]}"}


async def test_a_blocking_agent_with_an_async_decide_runs_on_the_event_loop(world: World) -> None:
    ran_in = list[threading.Thread]()

    def note(messages: list[Message], tasks: list[Task]) -> list[Any]:
        ran_in.append(threading.current_thread())
        return []

    agent = Scripted(note)
    agent.blocking = True
    await world.started(agent)
    await agent.called(1)
    assert ran_in == [threading.main_thread()]


# -- what goes wrong in it


@pytest.mark.usefixtures("no_retries")
@pytest.mark.parametrize(
    "answer",
    [ValueError("no"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), 5, None, "ClaimTask", b"x",
     {"a": 1}, {1, 2}, iter([]), (n for n in [1]), StopIteration(), ExceptionGroup("both", [ValueError("a")])],
    ids=lambda answer: type(answer).__name__,
)  # fmt: skip
async def test_the_loop_survives_what_decide_raises_or_answers(world: World, answer: Any) -> None:
    agent, peer = Scripted([], answer), await world.peer()
    runtime = await world.started(agent)
    await agent.called(1)
    for n in range(1, 4):
        await peer.tell(agent.id, n)
        await agent.called(n + 1)
    assert agent.payloads == [[], [1], [2], [3]]
    assert runtime.is_healthy()
    assert world.counted("converge_decide_failures_total") == 1
    assert world.counted("converge_messages_failed_total") == 1


@pytest.mark.usefixtures("no_retries")
@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), asyncio.CancelledError()])
@pytest.mark.parametrize("blocking", [False, True])
async def test_the_loop_survives_a_plain_decide_and_an_on_tick_that_raise(
    world: World, error: BaseException, blocking: bool
) -> None:
    class Plain(Scripted):
        def on_tick(self, messages: list[Message], tasks: list[Task]) -> None:
            if self.answers:
                raise self.answers.pop()

        def decide(self, messages: list[Message], tasks: list[Task]) -> Any:
            if self.answers:
                raise self.answers.pop()
            loop.call_soon_threadsafe(self._note, messages)
            return []

        def _note(self, messages: list[Message]) -> None:
            self.shown.append((messages, [], ()))
            self._called.set()

    loop = asyncio.get_running_loop()
    agent, peer = Plain(error, error), await world.peer()
    agent.blocking = blocking
    runtime = await world.started(agent)
    await agent.called(1)
    await peer.tell(agent.id)
    await agent.called(2)
    assert runtime.is_healthy()
    assert world.counted("converge_decide_failures_total") == 2


@pytest.mark.usefixtures("no_retries")
async def test_one_poisonous_message_costs_itself_and_none_of_its_batch(world: World) -> None:
    def picky(messages: list[Message], tasks: list[Task]) -> list[Any]:
        if any(message.payload["n"] == 3 for message in messages):
            raise ValueError("3 again")
        handled.extend(message.payload["n"] for message in messages)
        return []

    handled = list[int]()
    agent, peer = Scripted(*[picky] * 30), await world.peer()
    inbox = Inbox()
    runtime = world.runtime(agent, inbox=inbox)
    for n in range(1, 8):
        await inbox.push(peer.message(agent.id, n))
    await runtime.start()
    async with asyncio.timeout(PATIENCE_SEC):
        while len(handled) < 6:
            await agent.called(agent.calls + 1)
    assert agent.payloads[:2] == [[1, 2, 3, 4, 5, 6, 7], [1]]
    assert handled == [1, 2, 4, 5, 6, 7]
    assert world.counted("converge_messages_failed_total") == 1


@pytest.mark.usefixtures("no_backoff", "no_retries")
async def test_five_failures_in_a_row_are_an_error_and_one_success_mends_it(world: World) -> None:
    agent, peer = Scripted([], *[ValueError("again")] * 5), await world.peer()
    runtime = await world.started(agent)
    await agent.called(1)
    for n in range(1, 6):
        assert runtime.is_healthy()
        await peer.tell(agent.id, n)
        await agent.called(n + 1)
    await until(lambda: agent.state is AgentState.ERROR)
    assert (runtime.running, runtime.is_healthy(), runtime.is_ready()) == (True, False, True)
    await peer.tell(agent.id, 6)
    await agent.called(7)
    await until(lambda: runtime.is_healthy())
    assert world.counted("converge_messages_failed_total") == 5


@pytest.mark.usefixtures("no_backoff")
async def test_a_first_decide_that_fails_is_repeated_until_it_works(world: World) -> None:
    agent = Scripted(OSError("not yet"), OSError("not yet"), OSError("not yet"), [InvokeTool("double", {"number": 1})])
    await world.started(agent, tool_registry=toolbox())
    await agent.called(5)
    assert agent.shown[4][2][0].value == 2


@pytest.mark.usefixtures("no_retries")
async def test_tool_results_survive_a_failure_that_a_message_caused(world: World) -> None:
    release = asyncio.Event()

    @tool
    async def slow() -> str:
        """Waits for the message."""
        await release.wait()
        return "result"

    registry = ToolRegistry()
    registry.register(slow)
    agent, peer = Scripted([InvokeTool("slow")], ValueError("the message")), await world.peer()
    inbox = Inbox()
    await world.started(agent, tool_registry=registry, inbox=inbox)
    await agent.called(1)
    await inbox.push(peer.message(agent.id, 1))
    release.set()
    await agent.called(3)
    assert agent.payloads == [[], [1], []]
    assert [outcome.value for outcome in agent.shown[2][2]] == ["result"]


async def test_a_tool_result_that_decide_fails_on_is_not_shown_for_ever(world: World) -> None:
    agent = Scripted([InvokeTool("double", {"number": 1})], ValueError("that result"))
    await world.started(agent, tool_registry=toolbox())
    await agent.called(3)
    assert [len(outcomes) for _, _, outcomes in agent.shown] == [0, 1, 0]


@pytest.mark.usefixtures("no_retries")
async def test_what_the_agent_does_to_its_list_of_messages_does_not_hide_a_failure(world: World) -> None:
    def clear(messages: list[Message], tasks: list[Task]) -> ValueError:
        messages.clear()
        return ValueError("after clearing")

    agent, peer = Scripted([], clear), await world.peer()
    await world.started(agent)
    await agent.called(1)
    await peer.tell(agent.id)
    await agent.called(2)
    await peer.tell(agent.id)
    await agent.called(3)
    assert world.counted("converge_messages_failed_total") == 1


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1), asyncio.CancelledError()])
async def test_an_executor_that_raises_shows_as_failed_decisions_and_the_messages_count_as_dealt_with(
    world: World, error: BaseException
) -> None:
    class Broken:
        async def execute(self, decisions: Iterable[Decision]) -> Sequence[Outcome] | None:
            raise error

    agent, peer = Scripted([], [LeavePool("p")]), await world.peer()
    runtime = await world.started(agent, executor_factory=lambda *args, **kwargs: Broken())
    await agent.called(1)
    for n in (1, 2):
        await peer.tell(agent.id, n)
        await agent.called(n + 1)
    assert agent.payloads == [[], [1], [2]]
    (outcome,) = agent.shown[2][2]
    assert (outcome.status, type(error).__name__ in str(outcome.error)) == ("failed", True)
    assert runtime.is_healthy()
    assert world.counted("converge_execute_failures_total") == 1


async def test_an_executor_may_keep_no_outcomes(world: World) -> None:
    executed = list[Decision]()

    class Silent:
        async def execute(self, decisions: Iterable[Decision]) -> Sequence[Outcome] | None:
            executed.extend(decisions)
            return None

    agent, peer = Scripted([LeavePool("p")]), await world.peer()
    await world.started(agent, executor_factory=lambda *args, **kwargs: Silent())
    await agent.called(1)
    await peer.tell(agent.id)
    await agent.called(2)
    assert (executed, agent.shown[1][2]) == ([LeavePool("p")], ())


# -- which messages it sees, and how it sends them


async def test_what_an_agent_sends_without_a_signature_is_signed_by_it(world: World) -> None:
    peer = await world.peer()
    agent = Scripted([SendMessage(Message(recipient=peer.id, payload={"n": 1}))])
    await world.started(agent)
    message = await peer.hear()
    assert (message.sender, message.verify()) == (agent.id, True)


async def test_an_agent_cannot_send_in_the_name_of_another(world: World) -> None:
    peer = await world.peer()
    agent = Scripted([SendMessage(peer.message(peer.id, "forged")), SendMessage(Message(recipient=peer.id))])
    await world.started(agent)
    assert (await peer.hear()).sender == agent.id, "the first one was not sent"
    await until(lambda: agent.outcomes)
    assert agent.outcomes[0].status == "refused"
    assert "sends in its own name only" in str(agent.outcomes[0].error)


def forged(recipient: str, n: int) -> Message:
    """Signed, by another than the sender it names, as bytes that travel."""
    honest = Message(recipient=recipient, payload={"n": n}).sign(Identity.generate())
    data = bytearray(honest.to_bytes())
    data[-1] ^= 1  # in the signature
    return Message.from_bytes(bytes(data))


async def test_without_a_registry_unsigned_messages_are_taken_and_forged_ones_never(world: World) -> None:
    agent, peer = Scripted(), await world.peer()
    await world.started(agent)
    await agent.called(1)
    await peer.transport.send(forged(agent.id, 1))
    await peer.transport.send(Message(sender="somebody", recipient=agent.id, payload={"n": 2}))
    await agent.called(2)
    assert agent.payloads == [[], [2]]
    assert world.counted("converge_messages_refused_total") == 1
    assert world.counted("converge_messages_received_total") == 1


async def test_with_a_registry_only_verified_messages_of_those_in_it_are_taken_and_once(world: World) -> None:
    agent, known, unknown = Scripted(), await world.peer(), await world.peer()
    registry = IdentityRegistry()
    registry.register(known.id, known.identity.public_key)
    await world.started(agent, identity_registry=registry)
    await agent.called(1)
    good = known.message(agent.id, "good")
    for message in (
        unknown.message(agent.id, "unknown"),
        Message(sender=known.id, recipient=agent.id, payload={"n": "unsigned"}),
        forged(agent.id, 1),
        good,
        good,
        known.message(agent.id, "last"),
    ):
        await known.transport.send(message)
    async with asyncio.timeout(PATIENCE_SEC):
        while sum(map(len, agent.payloads)) < 2:
            await agent.called(agent.calls + 1)
    assert [n for batch in agent.payloads for n in batch] == ["good", "last"]
    assert world.counted("converge_messages_refused_total") == 4


async def test_bytes_that_are_no_message_are_counted_and_passed_over(world: World) -> None:
    class Noisy(LocalTransport):
        noise = 3

        async def receive(self, timeout: float | None = None) -> Message:
            if self.noise:
                self.noise -= 1
                return Message.from_bytes(b"\xc1 noise")
            return await super().receive(timeout)

    agent, peer = Scripted(), await world.peer()
    await world.started(agent, Noisy(agent.id, world.registry))
    await peer.tell(agent.id, 1)
    await agent.called(2)
    assert agent.payloads == [[], [1]]
    assert world.counted("converge_messages_refused_total") == 3


async def test_the_replay_log_has_what_came_and_what_went(world: World) -> None:
    log, peer = ReplayLog(), await world.peer()
    agent = Scripted([], [SendMessage(Message(recipient=peer.id, payload={"n": "answer"}))])
    await world.started(agent, replay_log=log)
    await agent.called(1)
    await peer.tell(agent.id, "question")
    await peer.hear()
    await until(lambda: len(log.events) == 2)
    logged = [Message.from_dict(event["data"]) for event in log.events]
    assert [message.payload["n"] for message in logged] == ["question", "answer"]
    assert all(message.verify() for message in logged), "as they travelled, signed"
