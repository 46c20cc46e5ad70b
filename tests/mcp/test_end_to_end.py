"""Agents of a run call the tools of MCP servers, and do the tasks of MCP clients."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mcp import Client

from converge.coordination.task_manager import TaskManager
from converge.core.task import Task
from converge.extensions.storage.sqlite import SQLiteStore
from converge.plugins import default_manager
from converge.runtime.application import Application, check
from converge.runtime.config import load_config
from converge.runtime.errors import ConfigError
from tests.mcp.conftest import FAKE, eventually, is_alive, pids
from tests.mcp.serving import CONFIG, command, program, serving_http, write_config
from tests.mcp.test_serve import call, stdio


def fake_tool(folder: Path, manner: str = "well", more: str = "") -> str:
    args = json.dumps(["-I", str(FAKE), str(folder), manner])
    return f'{{ use = "mcp", command = {json.dumps(sys.executable)}, args = {args}{more} }}'


@pytest.fixture(autouse=True)
def imports_are_undone() -> Iterator[None]:
    """The agent's module is another one for each test."""
    before = list(sys.path)
    yield
    sys.path[:] = before
    sys.modules.pop("clerk", None)


async def test_agents_of_a_run_share_one_server_whose_tools_they_call(tmp_path: Path) -> None:
    tool = fake_tool(tmp_path, more=', prefix = "f_", allow = ["echo", "die"]')
    config = load_config(write_config(tmp_path, f"count = 3\ntools = [{tool}]"), environment={})
    check(config)
    stop = asyncio.Event()
    running = asyncio.create_task(Application(config).run(stop=stop))
    with SQLiteStore(tmp_path / "work.db") as store:
        tasks = TaskManager(store)
        wanted = [
            tasks.submit(Task(objective="call", inputs={"tool": name, "params": {"text": "hi"}}, pool_id="clerks"))
            for name in ("f_echo", "f_echo", "f_hang")
        ]
        done = [(await tasks.wait_async(task_id, 60)).result for task_id in wanted]
        lost = tasks.submit(Task(objective="call", inputs={"tool": "f_die", "params": {}}, pool_id="clerks"))
        failed = (await tasks.wait_async(lost, 60)).result
        after = tasks.submit(Task(objective="call", inputs={"tool": "f_echo", "params": {}}, pool_id="clerks"))
        again = (await tasks.wait_async(after, 60)).result
    stop.set()
    assert await running is False
    assert done[:2] == [{"status": "done", "value": "hi", "error": ""}] * 2
    assert isinstance(done[2], dict)
    assert done[2]["status"] == "refused"
    assert isinstance(failed, dict)
    assert failed["status"] == "failed"
    assert str(failed["error"]).startswith("MCPServerUnavailable")
    assert again == {"status": "done", "value": "nothing", "error": ""}
    started = pids(tmp_path)
    assert len(started) == 2  # one for the three agents, one after it died
    assert not any(map(is_alive, started))


class Script:
    """A model that does a task with a tool, whatever it is told."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def chat(self, messages: list[dict[str, object]], **options: object) -> str:
        self.asked.append(str(messages))
        replies: list[list[dict[str, object]]] = [
            [{"type": "ClaimTask", "task_id": "t"}],
            [{"type": "InvokeTool", "tool_name": "f_echo", "params": {"text": "from the model"}}],
            [{"type": "ReportTask", "task_id": "t", "result": "done"}],
        ]
        return json.dumps(replies[min(len(self.asked), 3) - 1])


async def test_a_model_is_told_of_the_tools_and_calls_one(tmp_path: Path) -> None:
    tool = fake_tool(tmp_path, more=', prefix = "f_", allow = ["echo"], descriptions = { echo = "Says it again." }')
    write_config(tmp_path)
    (tmp_path / "converge.toml").write_text(
        CONFIG + f'[[agents]]\nuse = "llm"\nprovider = "script"\npools = ["clerks"]\ntools = [{tool}]\n'
    )
    script, stop = Script(), asyncio.Event()
    with default_manager().override("llm_provider", "script", lambda: script):
        config = load_config(tmp_path / "converge.toml", environment={})
        check(config)
        running = asyncio.create_task(Application(config).run(stop=stop))
        with SQLiteStore(tmp_path / "work.db") as store:
            tasks = TaskManager(store)
            tasks.submit(Task("t", "Say it again.", pool_id="clerks"))
            done = await tasks.wait_async("t", 60)
        stop.set()
        await running
    assert done.result == "done"
    assert "Says it again." in script.asked[0]
    assert "from the model" in script.asked[2]


async def test_a_server_that_cannot_start_ends_the_run_with_the_place_in_the_config(tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path, f"tools = [{fake_tool(tmp_path, 'cannot start')}]"), environment={})
    with pytest.raises(ConfigError, match=r"converge.toml .*tools 0: its tools cannot be had: MCP server 'python"):
        await Application(config).run()


async def test_two_servers_with_a_tool_of_one_name_are_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    tools = f"tools = [{fake_tool(tmp_path)}, {fake_tool(tmp_path / 'other')}]"
    config = load_config(write_config(tmp_path, tools), environment={})
    with pytest.raises(ConfigError, match=r"tools 1: there is another tool named 'echo'"):
        await Application(config).run()
    assert not any(map(is_alive, pids(tmp_path) + pids(tmp_path / "other")))


async def test_a_stop_while_a_server_starts_is_obeyed_and_leaves_no_process(tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path, f"tools = [{fake_tool(tmp_path, 'hangs')}]"), environment={})
    stop = asyncio.Event()
    running = asyncio.create_task(Application(config).run(stop=stop))
    await eventually(lambda: (tmp_path / "starts").exists() and pids(tmp_path))
    stop.set()
    assert await asyncio.wait_for(running, 60) is False
    assert not is_alive(pids(tmp_path)[0])


async def test_a_server_ends_with_an_application_that_is_killed(tmp_path: Path) -> None:
    config = write_config(tmp_path, f"tools = [{fake_tool(tmp_path)}]")
    running = await asyncio.create_subprocess_exec(*command("run", config))
    await eventually(lambda: (tmp_path / "starts").exists() and pids(tmp_path))
    running.kill()
    await running.wait()
    await eventually(lambda: not is_alive(pids(tmp_path)[0]))


async def test_an_agent_of_another_process_does_the_task_of_a_client(tmp_path: Path) -> None:
    """The whole way: client → `converge mcp serve` → store → agent of `converge run` → MCP server → and back."""
    config = write_config(tmp_path, f"tools = [{fake_tool(tmp_path, more=', prefix = ' + chr(34) + 'f_' + chr(34))}]")
    async with program("run", config):
        async with serving_http("--store", config, "--pool", "clerks") as url, Client(url) as client:
            await pool_is_there(client)
            added = await call(client, "submit_task", objective="add", inputs={"numbers": [1, 2]}, wait_sec=60)
            assert added["state"] == "completed"
            assert added["result"] == {"sum": 3, "blob": {"$bytes": "cmF3"}}
        async with stdio("--store", config, "--pool", "clerks") as client:
            inputs = {"tool": "f_echo", "params": {"text": "round"}}
            called = await call(client, "submit_task", objective="call", inputs=inputs, wait_sec=60)
            assert called["result"] == {"status": "done", "value": "round", "error": ""}
    assert not is_alive(pids(tmp_path)[0])


async def pool_is_there(client: Client) -> None:
    async def is_there() -> bool:
        return not (await client.call_tool("submit_task", {"objective": "add", "inputs": {"numbers": []}})).is_error

    await eventually(is_there)
