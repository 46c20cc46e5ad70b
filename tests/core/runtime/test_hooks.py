"""What the listeners of a runtime are told, and when."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Any

import pytest

from converge.coordination.task_manager import TaskManager
from converge.core.decisions import ClaimTask, InvokeTool, JoinPool, ReportTask, SendMessage
from converge.core.message import Message
from converge.core.task import Task
from converge.core.tools import ToolRegistry, tool
from converge.plugins import PluginError, hookimpl
from converge.plugins.lifecycle import EVENTS, Lifecycle
from converge.runtime.application import Application, check
from converge.runtime.config import Config, load_config
from converge.runtime.errors import ConfigError
from converge.runtime.log_hooks import LogHooks
from tests.core.runtime.conftest import Scripted, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.core.runtime.conftest import World


class Diary:
    """Notes every event with what it was about."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []


def _note(event: str, argument: str | None) -> Any:
    source = f"def hook(self, {argument or 'agent'}): self.events.append(({event!r}, {argument}))"
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    return hookimpl(namespace["hook"], specname=f"converge_{event}")


_ABOUT = {
    "message_received": "message",
    "message_sent": "message",
    "decide_finished": "error",
    "decision_executed": "outcome",
    "decision_failed": "outcome",
    "task_claimed": "claim",
    "task_reported": "task_id",
    "tool_called": "outcome",
    "agent_failed": "error",
}
for _event in EVENTS:
    setattr(Diary, _event, _note(_event, _ABOUT.get(_event)))


@tool
def add(a: int, b: int) -> int:
    """The sum."""
    return a + b


async def test_a_life_is_told_from_the_start_to_the_end_in_its_order(world: World) -> None:
    diary, lifecycle, tools = Diary(), Lifecycle(), ToolRegistry()
    lifecycle.add(diary, "diary")
    tools.register(add)
    tasks = TaskManager()
    tasks.submit(Task(id="t"))
    peer = await world.peer()
    decisions = [
        ClaimTask("t"), ReportTask("t", 1), JoinPool("p"), SendMessage(Message(recipient=peer.id)),
        InvokeTool("add", {"a": 1, "b": 2}),
    ]  # fmt: skip
    agent = Scripted(decisions, ValueError("no idea"))
    runtime = await world.started(agent, task_manager=tasks, tool_registry=tools, lifecycle=lifecycle)
    await agent.called(2)
    await peer.tell(agent.id)
    await until(lambda: any(event == "message_received" for event, _ in diary.events))
    await runtime.stop()
    told = [event for event, _ in diary.events if event != "message_received"]
    assert told[:3] == ["runtime_starting", "agent_started", "decide_starting"]
    assert told[3:14] == [
        "decide_finished", "message_sent", "decision_executed", "task_claimed", "decision_executed", "task_reported",
        "decision_failed", "decision_executed", "decision_executed", "tool_called", "decide_starting",
    ]  # fmt: skip
    assert told[14:16] == ["decide_finished", "agent_failed"]
    assert told[-2:] == ["agent_stopped", "runtime_stopped"]
    about = dict(diary.events)
    assert about["task_claimed"].task_id == about["task_reported"] == "t"
    assert about["tool_called"].value == 3
    assert about["message_sent"].verify()
    assert about["message_received"].sender == peer.id
    assert isinstance(about["agent_failed"], ValueError)
    assert lifecycle.failures == {}


async def test_a_start_that_fails_is_told_as_stopped(world: World) -> None:
    class Failing(Scripted):
        def on_start(self) -> None:
            raise LookupError("no")

    diary, lifecycle = Diary(), Lifecycle()
    lifecycle.add(diary, "diary")
    with pytest.raises(LookupError):
        await world.started(Failing(), lifecycle=lifecycle)
    assert [event for event, _ in diary.events] == ["runtime_starting", "agent_stopped", "runtime_stopped"]


async def test_a_listener_that_always_fails_changes_nothing(world: World) -> None:
    class Broken:
        pass

    def fail(self: object) -> None:
        raise SystemExit("broken")

    for event in EVENTS:
        setattr(Broken, event, hookimpl(fail, specname=f"converge_{event}"))
    lifecycle = Lifecycle()
    lifecycle.add(Broken(), "broken")
    tasks = TaskManager()
    tasks.submit(Task(id="t"))
    agent = Scripted([ClaimTask("t"), ReportTask("t", 1)])
    runtime = await world.started(agent, task_manager=tasks, lifecycle=lifecycle)
    await until(lambda: tasks.get_task("t") and tasks.get_task("t").result == 1)  # type: ignore[union-attr]  # it is there
    assert runtime.is_healthy()
    await runtime.stop()
    assert lifecycle.failures["broken"] >= 8


async def test_the_log_has_a_line_for_each_event_and_no_payload(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "converge.lifecycle")
    lifecycle = Lifecycle()
    lifecycle.add(LogHooks(), "log")
    tasks = TaskManager()
    tasks.submit(Task(id="t"))
    peer = await world.peer()
    secret = Message(recipient=peer.id, payload={"password": "hunter2"})
    agent = Scripted([ClaimTask("t"), ReportTask("t", "hunter2"), SendMessage(secret), JoinPool("p")])
    runtime = await world.started(agent, task_manager=tasks, lifecycle=lifecycle)
    await peer.tell(agent.id, "hunter2")
    await until(lambda: "message received" in caplog.text and "decision refused" in caplog.text)
    await runtime.stop()
    lines = [record.getMessage() for record in caplog.records if record.name == "converge.lifecycle"]
    assert {*lines} == {
        "agent started", "task claimed", "task reported", "message sent", "message received", "decision refused",
        "agent stopped",
    }  # fmt: skip
    assert "hunter2" not in caplog.text
    assert all("hunter2" not in str(vars(record)) for record in caplog.records if record.name == "converge.lifecycle")


def config(folder: Path, hooks: str) -> Config:
    file = folder / "converge.toml"
    file.write_text(f'[plugins]\nhooks = [{hooks}]\n[[agents]]\nclass = "converge.core.agent:Agent"\n')
    return load_config(file, environment={})


async def test_a_config_names_the_listeners(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "converge.lifecycle")
    stop = asyncio.Event()
    running = asyncio.create_task(Application(config(tmp_path, '"log"')).run(stop=stop))
    await until(lambda: "agent started" in caplog.text)
    stop.set()
    await running
    assert "agent stopped" in caplog.text


@pytest.mark.parametrize(
    ("hooks", "text"),
    [
        ('"lgo"', "no hooks plugin is named 'lgo'"),
        ('{ use = "log", path = "x" }', "path"),
        ('"log", "log"', "there is a lifecycle plugin 'log' already"),
        ("5", "hooks"),
    ],
)
def test_a_listener_that_does_not_fit_is_an_error_before_anything_starts(tmp_path: Path, hooks: str, text: str) -> None:
    with pytest.raises((ConfigError, PluginError), match=re.escape(text)):
        check(config(tmp_path, hooks))
