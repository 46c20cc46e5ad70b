"""A model's agent at work: it claims a task, calls a tool, sees the result and reports."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from converge.coordination.task_manager import TaskManager
from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.task import Task, TaskState
from converge.core.tools import tool
from converge.extensions.llm.agent import LLMAgent
from converge.extensions.llm.budget import Budget
from converge.extensions.llm.chat import ChatMessage, Reply, ToolCall, Usage
from converge.extensions.storage.memory import MemoryStore
from converge.network.discovery import AgentDescriptor, DiscoveryService
from converge.network.transport.local import LocalTransport, LocalTransportRegistry
from converge.observability.metrics import MetricsCollector
from converge.observability.tracing import Span, register_span_exporter, unregister_span_exporter
from converge.runtime.loop import AgentRuntime
from tests.llm.agent.conftest import Model, TextModel
from tests.llm.agent.test_memory import is_valid

PATIENCE_SEC = 20.0


@tool
def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


def call(name: str, **arguments: Any) -> Reply:
    return Reply("", (ToolCall(f"call-{name}", name, arguments),), Usage(50, 5), finish="tool_calls")


def text(kind: str, **fields: Any) -> str:
    return json.dumps([{"type": kind, **fields}])


SCRIPTS: dict[str, Any] = {
    "functions": lambda: Model(
        call("ClaimTask", task_id="t"),
        call("multiply", a=6, b=7),
        lambda messages: call("ReportTask", task_id="t", result=result_in(messages)),
    ),
    "text": lambda: TextModel(
        text("ClaimTask", task_id="t"),
        text("InvokeTool", tool_name="multiply", params={"a": 6, "b": 7}),
        text("ReportTask", task_id="t", result=42),
    ),
}


def result_in(messages: Sequence[ChatMessage]) -> Any:
    assert messages[-1].role == "tool"
    return json.loads(messages[-1].content.splitlines()[1])["result"]


async def ended(tasks: TaskManager, task_id: str) -> Task:
    async with asyncio.timeout(PATIENCE_SEC):
        while True:
            task = tasks.get_task(task_id)
            if task is not None and task.state.is_final:
                return task
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("script", SCRIPTS)
async def test_it_claims_calls_a_tool_sees_the_result_and_reports(script: str) -> None:
    model, tasks, metrics = SCRIPTS[script](), TaskManager(), MetricsCollector()
    agent = LLMAgent(Identity.generate(), model, tools=[multiply])
    tasks.submit(Task(id="t", objective="What is 6 times 7?"))
    transport = LocalTransport(agent.id, LocalTransportRegistry())
    async with AgentRuntime(agent, transport, task_manager=tasks, metrics_collector=metrics, store=MemoryStore()):
        task = await ended(tasks, "t")
    assert (task.state, task.result) == (TaskState.COMPLETED, 42)
    assert len(model.shown) == 3, "no call was made for nothing"
    counters = metrics.snapshot()["counters"]
    assert counters["converge_llm_requests_total"] == 3
    assert counters["converge_llm_input_tokens_total"] > 0
    if script == "functions":
        assert all(is_valid(shown) for shown in model.shown)


class Spans:
    def __init__(self) -> None:
        self.spans: list[Span] = []

    def export(self, span: Span) -> None:
        self.spans.append(span)


async def test_a_call_is_a_span_with_the_attributes_of_generative_ai() -> None:
    spans = Spans()
    register_span_exporter(spans)
    try:
        agent = LLMAgent(Identity.generate(), Model("[]", OSError("down")))
        await agent.decide([], [Task()])
        await agent.decide([], [Task()])
    finally:
        unregister_span_exporter(spans)
    good, bad = [span for span in spans.spans if span.name == "chat test-1"]
    assert good.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "model",
        "gen_ai.request.model": "test-1",
        "gen_ai.request.max_tokens": 4096,
        "gen_ai.agent.id": agent.id,
        "gen_ai.response.model": "test-1-0",
        "gen_ai.response.finish_reasons": "stop",
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 10,
    }
    assert good.kind == "client"
    assert bad.attributes["error.type"] == "OSError"
    assert bad.error is not None


async def test_a_call_that_failed_is_made_again_though_nothing_is_new() -> None:
    class Overloaded(Exception):
        retry_after = 0.0

    model, tasks = (
        Model(Overloaded(), call("ClaimTask", task_id="t"), call("ReportTask", task_id="t", result=1)),
        TaskManager(),
    )
    agent = LLMAgent(Identity.generate(), model)
    tasks.submit(Task(id="t"))
    async with AgentRuntime(agent, LocalTransport(agent.id, LocalTransportRegistry()), task_manager=tasks):
        task = await ended(tasks, "t")  # a second later
    assert task.state is TaskState.COMPLETED
    assert agent.counts.values["failures:Overloaded"] == 1


async def test_a_peer_that_was_discovered_can_be_written_to() -> None:
    registry, discovery = LocalTransportRegistry(), DiscoveryService()
    peer = Identity.generate()
    discovery.register(AgentDescriptor(peer.fingerprint, capabilities=["read"], public_key=peer.public_key))
    inbox = LocalTransport(peer.fingerprint, registry)
    await inbox.start()
    model = TextModel(text("SendMessage", message={"recipient": peer.fingerprint, "payload": {"text": "hello"}}))
    agent, tasks = LLMAgent(Identity.generate(), model), TaskManager()
    tasks.submit(Task())
    async with AgentRuntime(agent, LocalTransport(agent.id, registry), task_manager=tasks, discovery_service=discovery):
        received: Message | None = await inbox.receive_verified(timeout=PATIENCE_SEC)
    await inbox.stop()
    assert received is not None
    assert (received.sender, received.payload) == (agent.id, {"text": "hello"})
    assert f'"id":"{peer.fingerprint}","capabilities":["read"]' in model.shown[0][-1]["content"]
    assert f'"id":"{agent.id}"' not in model.shown[0][-1]["content"]


async def test_a_budget_of_requests_a_minute_wakes_the_agent_when_it_is_there_again() -> None:
    class Quick:
        """A clock whose minutes are short."""

        def __init__(self) -> None:
            self.calls = 0

        def time(self) -> float:
            return 1.7e9

        def monotonic(self) -> float:
            self.calls += 1
            return self.calls * 29.9

    model, tasks = Model(call("ClaimTask", task_id="t"), call("ReportTask", task_id="t", result=1)), TaskManager()
    agent = LLMAgent(Identity.generate(), model, budget=Budget(requests_per_minute=1), clock=Quick())
    tasks.submit(Task(id="t"))
    async with AgentRuntime(agent, LocalTransport(agent.id, LocalTransportRegistry()), task_manager=tasks):
        task = await ended(tasks, "t")
    assert task.state is TaskState.COMPLETED
    assert agent.counts.values["budget_stops:requests_per_minute"] >= 1
