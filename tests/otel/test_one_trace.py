"""A trace of one task across three agents in two processes, seen whole in a collector."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from typing import TYPE_CHECKING

from tests.otel.collector import silent

if TYPE_CHECKING:
    from pathlib import Path

    from tests.otel.collector import Collector, Received

CONFIG = """
[store]
use = "sqlite"
path = "state.db"

[transport]
use = "store"

[run]
processes = 2
until = "asker"

[plugins]
hooks = [{{ use = "otel", endpoint = "{uri}", service_name = "the house" }}]

[[agents]]
name = "asker"
class = "house:Asker"

[[agents]]
name = "worker"
class = "house:Worker"
capabilities = ["work"]

[[agents]]
name = "expert"
class = "house:Expert"
capabilities = ["expertise"]
"""

HOUSE = """
import asyncio

from converge.core.agent import Agent, AgentState
from converge.core.decisions import ClaimTask, InvokeTool, ReportTask, SendMessage, SubmitTask
from converge.core.message import Message
from converge.core.task import Task, TaskState
from converge.core.tools import ToolRegistry, tool
from converge.network.discovery import DiscoveryQuery
from converge.observability.tracing import trace
from converge.runtime.executor import StandardExecutor


@tool
async def count() -> int:
    return 6


class Asker(Agent):
    asked = False

    def decide(self, messages, tasks):
        if messages:
            self.state = AgentState.OFFLINE
            return []
        if self.asked:
            return []
        self.asked = True
        return [SubmitTask(Task(id="t", inputs={"asker": self.id}, required_capabilities=["work"]))]


class Worker(Agent):
    async def on_start(self):
        tools = ToolRegistry()
        tools.register(count)
        self.executor = StandardExecutor(self.id, tool_registry=tools)

    async def decide(self, messages, tasks):
        decisions = []
        for task in tasks:
            if task.state is TaskState.PENDING:
                decisions.append(ClaimTask(task.id))
                continue
            with trace("look for an expert"):
                while not (found := await self.context.discover(DiscoveryQuery(capabilities=["expertise"]))):
                    await asyncio.sleep(0.05)
            (counted,) = await self.executor.execute([InvokeTool("count", {})])
            answer = await self.context.network.request(
                Message(recipient=found[0].id, payload={"question": counted.value}, task_id=task.id)
            )
            decisions.append(ReportTask(task.id, answer.payload))
            decisions.append(SendMessage(Message(recipient=task.inputs["asker"], payload={}, task_id=task.id)))
        return decisions


class Expert(Agent):
    def decide(self, messages, tasks):
        return [SendMessage(message.reply({"answer": 7 * message.payload["question"]})) for message in messages]
"""


def run(folder: Path, uri: str) -> None:
    (folder / "converge.toml").write_text(CONFIG.format(uri=uri))
    (folder / "house.py").write_text(HOUSE)
    command = [sys.executable, "-m", "converge.cli", "run"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_a_task_that_three_agents_in_two_processes_deal_with_is_one_whole_trace(
    collector: Collector, tmp_path: Path
) -> None:
    run(tmp_path, collector.uri)
    (submitted,) = (span for span in collector.spans if span.name == "submit task")
    spans = {span.span_id: span for span in collector.spans if span.trace_id == submitted.trace_id}

    (root,) = (span for span in spans.values() if span.parent_id not in spans)
    assert (root.name, root.parent_id) == ("decide", None)
    assert {span.resource["service.name"] for span in spans.values()} == {"the house"}
    assert len({span.resource["service.instance.id"] for span in spans.values()}) == 2
    assert len({span.resource["process.pid"] for span in spans.values()}) == 2
    assert len({span.attributes["converge.agent.id"] for span in spans.values() if span.name == "decide"}) == 3

    def way(span: Received) -> list[str]:
        """The names from the root to `span`."""
        return [*([] if span.parent_id is None else way(spans[span.parent_id])), span.name]

    ways = Counter(" > ".join(way(span)) for span in spans.values())
    worked = "decide > submit task > decide"
    assert ways[worked] >= 2  # to claim it, and to work on it
    assert ways[f"{worked} > claim task"] == 1
    assert ways[f"{worked} > look for an expert"] == 1
    assert ways[f"{worked} > execute_tool count"] == 1
    assert ways[f"{worked} > request"] == 1
    assert ways[f"{worked} > request > decide > send"] == 1  # the expert's answer
    assert ways[f"{worked} > report task"] == 1
    assert ways[f"{worked} > send > decide"] == 1  # the asker is told
    (request,) = (span for span in spans.values() if span.name == "request")
    (answer,) = (span for span in spans.values() if " > ".join(way(span)).endswith("request > decide"))
    assert request.resource["process.pid"] != answer.resource["process.pid"]
    assert (request.kind, answer.kind, submitted.kind) == ("client", "consumer", "producer")
    assert {span.attributes["converge.task.id"] for span in spans.values() if "task" in span.name} == {"t"}


def test_a_run_ends_by_itself_also_when_the_collector_says_nothing(collector: Collector, tmp_path: Path) -> None:
    release = threading.Event()
    collector.answer = silent(release)
    try:
        run(tmp_path, collector.uri)
    finally:
        release.set()
    assert collector.requests > 0
