"""An agent at work with each vendor's own library and function calling."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from converge.coordination.task_manager import TaskManager
from converge.core.identity import Identity
from converge.core.task import Task
from converge.core.tools import tool
from converge.extensions.llm import AnthropicProvider, LLMAgent, MistralProvider, OpenAIProvider
from converge.network.transport.local import LocalTransport, LocalTransportRegistry
from converge.observability.tracing import Span, register_span_exporter, unregister_span_exporter
from converge.runtime.loop import AgentRuntime
from converge.testing.llm import Answer, FunctionCall
from tests.llm.providers.loopback import LoopbackVendor

PATIENCE_SEC = 60


@tool
def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


def calls(name: str, **arguments: Any) -> Answer:
    return Answer("", (FunctionCall(name, arguments),), input_tokens=100, output_tokens=10, finish="tool_calls")


class Kept:
    def __init__(self) -> None:
        self.spans: list[Span] = []

    def export(self, span: Span) -> None:
        self.spans.append(span)


@pytest.mark.parametrize(
    ("provider_class", "name"),
    [(OpenAIProvider, "openai"), (AnthropicProvider, "anthropic"), (MistralProvider, "mistral")],
)
async def test_it_claims_a_task_calls_a_tool_and_reports(provider_class: Any, name: str) -> None:
    kept, tasks = Kept(), TaskManager()
    register_span_exporter(kept)
    try:
        with LoopbackVendor(name) as vendor:
            vendor.will(
                calls("ClaimTask", task_id="t"),
                calls("multiply", a=6, b=7),
                calls("ReportTask", task_id="t", result=42),
            )
            provider = provider_class("sk-0123", base_url=vendor.url)
            agent = LLMAgent(Identity.generate(), provider, tools=[multiply])
            tasks.submit(Task(id="t", objective="What is 6 times 7?"))
            transport = LocalTransport(agent.id, LocalTransportRegistry())
            async with AgentRuntime(agent, transport, task_manager=tasks), asyncio.timeout(PATIENCE_SEC):
                (task,) = await agent.context.wait_for_tasks(["t"])
            await provider.aclose()
    finally:
        unregister_span_exporter(kept)
    assert task.result == 42
    assert len(vendor.seen) == 3
    assert "42" in json.dumps(vendor.seen[2].body["messages"][-1]), "the tool's result is the last that is shown"
    assert agent.counts.values["input_tokens"] == 300
    chats = [span for span in kept.spans if span.name.startswith("chat ")]
    assert [span.attributes["gen_ai.usage.input_tokens"] for span in chats] == [100] * 3
    assert {span.attributes["gen_ai.response.model"] for span in chats} == {f"{name}-model-2026"}
