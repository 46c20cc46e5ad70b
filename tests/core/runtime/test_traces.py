"""Which trace a turn of an agent, and what comes of it, belongs to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from converge.coordination.task_manager import TaskManager
from converge.core.decisions import ClaimTask, InvokeTool, ReportTask, SendMessage, SubmitTask
from converge.core.message import Message
from converge.core.task import Task
from converge.core.tool_call import current_call
from converge.core.tools import ToolRegistry, tool
from converge.extensions.storage.memory import MemoryStore
from converge.observability.tracing import (
    Span,
    get_current_traceparent,
    register_span_exporter,
    trace,
    unregister_span_exporter,
)
from tests.core.runtime.conftest import Scripted, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.core.runtime.conftest import Peer, World

TRACE, OTHER = "a" * 32, "b" * 32


def header(trace_id: str = TRACE, span_id: str = "1" * 16, flags: str = "01") -> str:
    return f"00-{trace_id}-{span_id}-{flags}"


class Collecting:
    def __init__(self) -> None:
        self.spans: list[Span] = []

    def export(self, span: Span) -> None:
        self.spans.append(span)

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]


@pytest.fixture
def exporter() -> Iterator[Collecting]:
    collecting = Collecting()
    register_span_exporter(collecting)
    yield collecting
    unregister_span_exporter(collecting)


class BlockingStore(MemoryStore):
    """Calls to it are made from the store thread."""

    blocking = True


def asking(peer: Peer, recipient: str, traceparent: str | None) -> Message:
    headers = {} if traceparent is None else {"traceparent": traceparent}
    return Message(recipient=recipient, payload={"n": 0}, headers=headers).sign(peer.identity)


def answer_all(messages: list[Message], _tasks: list[Task]) -> list[SendMessage]:
    return [SendMessage(Message(recipient=message.sender, payload={})) for message in messages]


async def test_a_turn_is_a_child_of_the_message_that_led_to_it_and_parent_of_what_it_sends(
    world: World, exporter: Collecting
) -> None:
    agent, peer = Scripted([], answer_all), await world.peer()
    await world.started(agent)
    await agent.called(1)
    await peer.transport.send(asking(peer, agent.id, header()))
    answer = await peer.hear()
    await until(lambda: exporter.named("send"))
    first, second = exporter.named("decide")
    assert (first.parent_id, first.kind) == (None, "internal")
    assert (second.trace_id, second.parent_id, second.kind) == (TRACE, "1" * 16, "consumer")
    assert second.attributes == {
        "converge.agent.id": agent.id,
        "converge.agent.class": "Scripted",
        "converge.messages": 1,
        "converge.tasks": 0,
        "converge.decisions": 1,
    }
    (sent,) = exporter.named("send")
    assert (sent.trace_id, sent.parent_id, sent.kind) == (TRACE, second.span_id, "producer")
    assert sent.attributes["messaging.destination.name"] == peer.id
    assert sent.attributes["messaging.message.id"] == answer.id
    assert answer.traceparent == sent.traceparent
    assert answer.verify()


async def test_a_reply_names_the_span_that_answers_not_the_one_that_asked(world: World, exporter: Collecting) -> None:
    agent, peer = Scripted([], lambda messages, _: [SendMessage(messages[0].reply({}))]), await world.peer()
    await world.started(agent)
    await agent.called(1)
    await peer.transport.send(asking(peer, agent.id, header()))
    answer = await peer.hear()
    await until(lambda: exporter.named("send"))
    assert answer.traceparent == exporter.named("send")[0].traceparent


async def test_messages_of_several_traces_begin_one_that_is_linked_with_them(
    world: World, exporter: Collecting
) -> None:
    held = asyncio.Event()

    async def wait(_messages: list[Message], _tasks: list[Task]) -> list[Any]:
        await held.wait()
        return []

    agent, peer = Scripted(wait), await world.peer()
    await world.started(agent)
    await agent.called(1)
    for trace_id in (TRACE, OTHER, TRACE):
        await peer.transport.send(asking(peer, agent.id, header(trace_id)))
    await until(lambda: world.counted("converge_messages_received_total") == 3)
    held.set()
    await agent.called(2)
    await until(lambda: len(exporter.named("decide")) == 2)
    span = exporter.named("decide")[1]
    assert span.parent_id is None
    assert [(link.trace_id, link.span_id) for link in span.links] == [(TRACE, "1" * 16), (OTHER, "1" * 16)]


async def test_messages_of_one_trace_are_its_children_and_linked_with_the_other_parents(
    world: World, exporter: Collecting
) -> None:
    agent, peer = Scripted([]), await world.peer()
    runtime = world.runtime(agent)
    await runtime.start()
    await agent.called(1)
    agent.answers = [lambda *_: asyncio.sleep(0.05, [])]
    for span_id in ("1" * 16, "2" * 16):
        await runtime._inbox.push(asking(peer, agent.id, header(TRACE, span_id)))
    runtime._scheduler.notify()
    await until(lambda: len(exporter.named("decide")) == 2)
    span = exporter.named("decide")[1]
    assert (span.trace_id, span.parent_id) == (TRACE, "1" * 16)
    assert [link.span_id for link in span.links] == ["2" * 16]


async def test_a_trace_that_is_not_sampled_goes_on_and_is_exported_nowhere(world: World, exporter: Collecting) -> None:
    agent, peer = Scripted([], answer_all), await world.peer()
    await world.started(agent)
    await agent.called(1)
    await peer.transport.send(asking(peer, agent.id, header(flags="00")))
    answer = await peer.hear()
    assert answer.traceparent is not None
    assert (answer.traceparent[3:35], answer.traceparent[-2:]) == (TRACE, "00")
    await agent.called(2)
    assert TRACE not in {span.trace_id for span in exporter.spans}


@pytest.mark.parametrize("traceparent", [header(), None, "junk"])
async def test_a_process_that_exports_nothing_passes_the_trace_on(world: World, traceparent: str | None) -> None:
    tasks = TaskManager()

    def decide(messages: list[Message], _tasks: list[Task]) -> list[Any]:
        return [*answer_all(messages, []), SubmitTask(Task(id="t"))] if messages else []

    agent, peer = Scripted([], decide), await world.peer()
    await world.started(agent, task_manager=tasks)
    await agent.called(1)
    await peer.transport.send(asking(peer, agent.id, traceparent))
    expected = header() if traceparent == header() else None
    assert (await peer.hear()).traceparent == expected
    await until(lambda: tasks.get_task("t"))
    found = tasks.get_task("t")
    assert found is not None
    assert found.traceparent == expected


async def test_messages_sent_together_have_one_span_and_name_it(world: World, exporter: Collecting) -> None:
    peer = await world.peer()
    agent = Scripted([SendMessage(Message(recipient=peer.id, payload={})) for _ in range(3)])
    await world.started(agent)
    heard = [await peer.hear() for _ in range(3)]
    await until(lambda: exporter.named("send"))
    (span,) = exporter.named("send")
    assert span.attributes["messaging.batch.message_count"] == 3
    assert {message.traceparent for message in heard} == {span.traceparent}
    assert all(message.verify() for message in heard)


async def test_what_is_signed_or_names_a_trace_goes_as_it_is(world: World, exporter: Collecting) -> None:
    agent, peer = Scripted([]), await world.peer()
    await world.started(agent)
    named = Message(recipient=peer.id, payload={}, headers={"traceparent": header(OTHER)})
    with trace("mine"):
        signed = await agent.context.network.send(Message(recipient=peer.id, payload={}).sign(agent.identity))
        sent = await agent.context.network.send(named)
    assert (signed.traceparent, sent.traceparent) == (None, header(OTHER))
    assert {span.parent_id for span in exporter.named("send")} == {exporter.named("mine")[0].span_id}


async def test_a_request_is_one_span_until_its_answer(world: World, exporter: Collecting) -> None:
    asker, other = Scripted([]), Scripted([], lambda messages, _: [SendMessage(messages[0].reply({}))])
    await world.started(asker)
    await world.started(other)
    await other.called(1)
    with trace("mine") as mine:
        await asker.context.network.request(Message(recipient=other.id, payload={"n": 1}, task_id="t"), timeout=10)
    (request,) = exporter.named("request")
    assert (request.parent_id, request.kind, request.attributes["converge.task.id"]) == (mine.span_id, "client", "t")
    answering = [span for span in exporter.named("decide") if span.parent_id == request.span_id]
    assert len(answering) == 1


@pytest.mark.parametrize("store", [MemoryStore, BlockingStore])
async def test_a_task_carries_its_trace_from_who_submits_it_to_who_works_on_it(
    world: World, exporter: Collecting, store: type[MemoryStore]
) -> None:
    submitter = Scripted([SubmitTask(Task(id="t", required_capabilities=["work"]))])
    worker = Scripted([], [ClaimTask("t")], [ReportTask("t", 1)])
    worker.capabilities = ["work"]
    tasks = TaskManager(store())
    await world.started(worker, task_manager=tasks)
    await worker.called(1)
    await world.started(submitter, task_manager=tasks)
    await until(lambda: exporter.named("report task"))
    (submit,), (claim,), (report,) = (exporter.named(f"{move} task") for move in ("submit", "claim", "report"))
    decides = {span.span_id: span for span in exporter.named("decide")}
    assert submit.parent_id is not None
    assert decides[submit.parent_id].attributes["converge.agent.id"] == submitter.id
    assert (submit.kind, submit.attributes["converge.task.id"]) == ("producer", "t")
    for move in (claim, report):
        assert move.trace_id == submit.trace_id
        assert move.parent_id is not None
        assert decides[move.parent_id].parent_id == submit.span_id
        assert move.attributes == {
            "converge.task.id": "t",
            "converge.agent.id": worker.id,
            "converge.outcome": "done",
        }
    found = tasks.get_task("t")
    assert found is not None
    assert found.traceparent == submit.traceparent


async def test_a_claim_among_tasks_of_several_traces_belongs_to_that_of_its_task(
    world: World, exporter: Collecting
) -> None:
    tasks = TaskManager()
    tasks.submit(Task(id="one", traceparent=header(TRACE)))
    tasks.submit(Task(id="two", traceparent=header(OTHER, "2" * 16)))
    agent = Scripted([ClaimTask("two"), ClaimTask("gone")])
    await world.started(agent, task_manager=tasks)
    await until(lambda: len(exporter.named("claim task")) == 2)
    await agent.called(2)
    await until(lambda: len(exporter.named("decide")) == 2)
    (first, second), (two, gone) = exporter.named("decide"), exporter.named("claim task")
    assert (first.parent_id, {link.trace_id for link in first.links}) == (None, {TRACE, OTHER})
    assert (two.trace_id, two.parent_id, two.links) == (OTHER, "2" * 16, (first.context,))
    assert (gone.trace_id, gone.parent_id) == (first.trace_id, first.span_id)
    assert (gone.attributes["converge.outcome"], gone.error) == ("refused", None)
    assert (second.trace_id, second.parent_id) == (OTHER, "2" * 16)  # it holds that one now


async def test_a_move_that_fails_says_so_in_its_span(world: World, exporter: Collecting) -> None:
    agent = Scripted([ReportTask("gone", 1)])
    await world.started(agent, task_manager=TaskManager())
    await until(lambda: exporter.named("report task"))
    (span,) = exporter.named("report task")
    assert span.attributes["converge.outcome"] == "failed"
    assert span.error is not None
    assert "gone" in span.error


async def test_what_makes_no_sense_is_refused_as_ever_and_has_its_span(world: World, exporter: Collecting) -> None:
    class Unshowable:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    odd: Any = Unshowable()
    agent = Scripted([SubmitTask(odd), ClaimTask(odd), InvokeTool(odd, {})], [])
    peer = await world.peer()
    await world.started(agent, task_manager=TaskManager())
    await until(lambda: exporter.named("execute_tool Unshowable"))
    await peer.tell(agent.id)
    await agent.called(2)
    assert {outcome.status for outcome in agent.shown[-1][2]} <= {"failed", "refused"}
    assert exporter.named("claim task")[0].attributes["converge.task.id"] == "Unshowable"
    assert exporter.named("submit task")[0].attributes["converge.task.id"] == "NoneType"


@tool(isolation="thread")
def look() -> str | None:
    """What a tool sees in a thread."""
    return get_current_traceparent()


@tool
async def look_inline() -> str | None:
    """What a tool sees in the event loop."""
    return get_current_traceparent()


@tool(isolation="process")
def look_apart() -> list[str | None]:
    """What a tool sees in a process of its own."""
    return [get_current_traceparent(), current_call().traceparent]


@tool(isolation="thread")
def fail() -> None:
    """Raise."""
    raise ValueError("no")


async def test_a_tool_has_a_span_and_its_result_belongs_to_the_same_trace(world: World, exporter: Collecting) -> None:
    registry = ToolRegistry()
    registry.register(look)
    registry.register(fail)
    agent, peer = Scripted([], [InvokeTool("look", {}), InvokeTool("fail", {})], []), await world.peer()
    await world.started(agent, tool_registry=registry)
    await agent.called(1)
    await peer.transport.send(asking(peer, agent.id, header()))
    await agent.called(3)
    await until(lambda: len(exporter.named("decide")) == 3)
    _, asked, told = exporter.named("decide")
    (looked,), (failed,) = exporter.named("execute_tool look"), exporter.named("execute_tool fail")
    assert agent.shown[2][2][0].value == looked.traceparent
    assert (looked.trace_id, looked.parent_id, looked.error) == (TRACE, asked.span_id, None)
    assert looked.attributes == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "look",
        "converge.agent.id": agent.id,
    }
    assert failed.error == "ValueError: no"
    assert (told.trace_id, told.parent_id) == (TRACE, asked.span_id)


@pytest.mark.parametrize("traced", [True, False])
async def test_a_tool_sees_the_span_of_its_call_wherever_it_runs(world: World, traced: bool) -> None:
    registry = ToolRegistry()
    for each in (look, look_inline, look_apart):
        registry.register(each)
    agent = Scripted([InvokeTool(name, {}) for name in registry.list_names()], [])
    exporter = Collecting()
    if traced:
        register_span_exporter(exporter)
    try:
        await world.started(agent, tool_registry=registry)
        await agent.called(2)
    finally:
        unregister_span_exporter(exporter)
    seen = {outcome.decision.tool_name: outcome.value for outcome in agent.shown[1][2]}  # type: ignore[attr-defined]  # tools are all there is
    spans = {span.attributes["gen_ai.tool.name"]: span.traceparent for span in exporter.spans if "tool" in span.name}
    assert seen == {
        "look": spans.get("look"),
        "look_inline": spans.get("look_inline"),
        "look_apart": [spans.get("look_apart")] * 2,
    }
    assert len(spans) == (3 if traced else 0)


async def test_a_decide_that_raises_ends_its_span_with_the_error(world: World, exporter: Collecting) -> None:
    agent, peer = Scripted([], ValueError("no")), await world.peer()
    await world.started(agent)
    await agent.called(1)
    await peer.transport.send(asking(peer, agent.id, header()))
    await until(lambda: len(exporter.named("decide")) >= 2)
    span = exporter.named("decide")[1]
    assert (span.trace_id, span.error) == (TRACE, "ValueError: no")


async def test_the_trace_in_which_a_runtime_was_started_does_not_swallow_its_turns(
    world: World, exporter: Collecting
) -> None:
    with trace("main") as main:
        await world.started(agent := Scripted([]))
        await agent.called(1)
        await until(lambda: exporter.named("decide"))
    (span,) = exporter.named("decide")
    assert (span.trace_id != main.trace_id, span.parent_id) == (True, None)
