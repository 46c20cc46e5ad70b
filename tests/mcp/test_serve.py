"""`converge mcp serve`, asked by the official client."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import httpx2
import mcp_types
import pytest
from click.testing import CliRunner
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client

from converge.coordination.pool_manager import PoolManager
from converge.coordination.task_manager import TaskManager
from converge.core.store import Store
from converge.core.task import Task
from converge.extensions.mcp import MCPServerUnavailable, MCPTools
from converge.extensions.storage.sqlite import SQLiteStore
from converge.mcp_server.command import mcp
from tests.mcp.conftest import FAKE, eventually, is_alive, pids
from tests.mcp.serving import command, program, serving_http, write_config


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config whose pools are there already, as when its agents have run."""
    file = write_config(tmp_path)
    with SQLiteStore(tmp_path / "work.db") as store:
        for pool in ("clerks", "others"):
            PoolManager(store).create_pool({"id": pool})
    return file


def stdio(*arguments: str | Path) -> Client:
    program, *args = command("mcp", "serve", *arguments)
    return Client(stdio_client(StdioServerParameters(command=program, args=args), errlog=sys.__stderr__ or sys.stderr))


async def call(client: Client, name: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(name, arguments)
    assert not result.is_error, result.content
    assert isinstance(result.structured_content, dict)
    return result.structured_content


async def refusal(client: Client, name: str, **arguments: Any) -> str:
    result = await client.call_tool(name, arguments)
    assert result.is_error
    (block,) = result.content
    assert isinstance(block, mcp_types.TextContent)
    return block.text


def do(store: Store, task_id: str, result: Any) -> None:
    tasks = TaskManager(store)
    assert tasks.claim("a", task_id)
    tasks.report("a", task_id, result)


async def test_a_client_over_stdio_submits_a_task_and_gets_its_result(config: Path, tmp_path: Path) -> None:
    async with stdio("--store", config, "--pool", "clerks") as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"submit_task", "task_result", "cancel_task", "list_tasks"}
        assert tools["submit_task"].input_schema["required"] == ["objective"]
        assert tools["submit_task"].description
        submitted = await call(client, "submit_task", objective="add", inputs={"numbers": [1, 2]})
        assert submitted["state"] == "pending"
        waiting = asyncio.create_task(call(client, "task_result", task_id=submitted["task_id"], wait_sec=60))
        with SQLiteStore(tmp_path / "work.db") as store:
            task = TaskManager(store).get_task(submitted["task_id"])
            assert task is not None
            assert (task.objective, task.inputs, task.pool_id) == ("add", {"numbers": [1, 2]}, "clerks")
            do(store, task.id, {"sum": 3, "blob": b"\0"})
        assert await waiting == {
            "task_id": task.id,
            "state": "completed",
            "result": {"sum": 3, "blob": {"$bytes": "AA=="}},
        }


async def test_a_client_over_http_cancels_and_lists_its_tasks(config: Path) -> None:
    async with serving_http("--store", config, "--pool", "clerks", "--max-open", "2") as url, Client(url) as client:
        first = await call(client, "submit_task", objective="one")
        second = await call(client, "submit_task", objective="two", timeout_sec=5, required_capabilities=["x"])
        assert "2 tasks are open" in await refusal(client, "submit_task", objective="three")
        cancelled = await call(client, "cancel_task", task_id=first["task_id"])
        assert cancelled == {"cancelled": True, "task_id": first["task_id"], "state": "cancelled", "error": "cancelled"}
        assert not (await call(client, "cancel_task", task_id=first["task_id"]))["cancelled"]
        listed = await call(client, "list_tasks")
        assert [task["task_id"] for task in listed["tasks"]] == [second["task_id"], first["task_id"]]
        still = await call(client, "list_tasks", only_open=True, limit=1)
        assert [task["objective"] for task in still["tasks"]] == ["two"]
        again = await call(client, "submit_task", objective="three", wait_sec=0.1)
        assert again["state"] == "pending"


async def test_a_key_makes_a_repeated_submission_the_same_task(config: Path) -> None:
    async with stdio("--store", config) as client:
        made = [(await call(client, "submit_task", objective="once", idempotency_key="k"))["task_id"] for _ in range(2)]
        assert made[0] == made[1]
        assert "TaskConflict" in await refusal(client, "submit_task", objective="other", idempotency_key="k")


async def test_what_a_client_may_not_have_is_refused_with_a_reason(config: Path, tmp_path: Path) -> None:
    with SQLiteStore(tmp_path / "work.db") as store:
        TaskManager(store).submit(Task("of-an-agent", "secret", pool_id="clerks"))
        TaskManager(store).submit(Task("mcp-of-others", "secret", pool_id="others"))
    async with stdio("--store", config, "--pool", "clerks") as client:
        assert "pool is one of clerks, not 'others'" in await refusal(
            client, "submit_task", objective="x", pool="others"
        )
        for task_id in ("of-an-agent", "mcp-of-others", "mcp-none"):
            for name in ("task_result", "cancel_task"):
                assert "was submitted here" in await refusal(client, name, task_id=task_id)
        assert "wait_sec is 0 to 600" in await refusal(client, "task_result", task_id="mcp-none", wait_sec=601)
        assert "wait_sec is 0 to 600" in await refusal(client, "submit_task", objective="x", wait_sec=-1)
        assert "at most 1048576 are taken" in await refusal(client, "submit_task", objective="x" * 1_100_000)
        assert "there is no tool 'shell'" in await refusal(client, "shell")
        assert "objective" in await refusal(client, "submit_task", inputs={})
        assert (await call(client, "list_tasks"))["tasks"] == []
    async with stdio("--store", config) as client:
        assert "there is no pool 'nowhere' yet" in await refusal(client, "submit_task", objective="x", pool="nowhere")


async def test_tools_that_are_named_are_served_and_run_with_their_limits(config: Path, tmp_path: Path) -> None:
    write_plugin(tmp_path)
    served = serving_http("--store", config, "--tool", "shout", PYTHONPATH=str(tmp_path))
    async with served as url, Client(url) as client:
        (tool,) = [tool for tool in (await client.list_tools()).tools if tool.name == "shout"]
        assert tool.input_schema["properties"] == {"text": {"type": "string"}}
        assert await call(client, "shout", text="hi") == {"result": "HI"}
        assert "ToolParameterError" in await refusal(client, "shout", text=5)


async def test_the_tools_of_another_server_are_served_in_its_place(config: Path, tmp_path: Path) -> None:
    table = f'{{ use = "mcp", command = "{sys.executable}", args = ["-I", "{FAKE}", "{tmp_path}", "well"] }}'
    async with stdio("--store", config, "--tool", table) as client:
        assert await call(client, "echo", text="through") == {"result": "through"}
        assert "MCPToolError" in await refusal(client, "error")
    await eventually(lambda: not is_alive(pids(tmp_path)[0]))


def write_plugin(folder: Path) -> None:
    (folder / "shouting.py").write_text(
        "from converge.core.tools import tool\n\n@tool\ndef shout(text: str) -> str:\n    return text.upper()\n"
    )
    information = folder / "shouting-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: shouting\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[converge.tools]\nshout = shouting:shout\n")


async def test_http_asks_for_the_token_and_an_agent_gives_it(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTHORIZATION", "Bearer s3cret")
    async with serving_http("--store", config, "--token-env", "MCP_TOKEN", MCP_TOKEN="s3cret") as url:
        async with httpx2.AsyncClient() as plain:
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                assert (await plain.post(url, json={}, headers=headers)).status_code == 401
        with pytest.raises(MCPServerUnavailable):
            await MCPTools(url=url).__aenter__()
        async with MCPTools(url=url, headers={"Authorization": "Bearer s3cret"}, prefix="far_") as tools:
            (listing,) = [tool for tool in tools if tool.name == "far_list_tasks"]
            assert await listing.run({}) == {"tasks": [], "left_out": 0}


async def test_a_page_of_another_site_is_refused(config: Path) -> None:
    async with serving_http("--store", config) as url, httpx2.AsyncClient() as plain:
        for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
            answer = await plain.post(url, json={}, headers=headers)
            assert answer.status_code in (403, 421)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--http", "0.0.0.0:0"], "other machines reach it"),
        (["--http", "0.0.0.0:0", "--http-public"], "--http-public takes --token-env"),
        (["--http", "0.0.0.0:0", "--http-public", "--token-env", "NOT_SET", "--insecure"], "NOT_SET is not set"),
        (["--token-env", "X"], "are for --http"),
        (["--store", "memory"], "no other process sees this store"),
        (["--store", "none.toml"], "there is no config none.toml"),
        (["--tool", "nothing"], "--tool nothing"),
        (["--tool", "{ use = "], "--tool { use = "),
        (["--tool", '{ use = "mcp", command = "no-such-server" }'], "its tools cannot be had: MCP server"),
    ],
)
def test_wrong_usage_is_said_in_a_line(config: Path, arguments: list[str], said: str) -> None:
    store = [] if "--store" in arguments else ["--store", str(config)]
    done = CliRunner().invoke(mcp, ["serve", *store, *arguments])
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_port_that_is_taken_is_said_in_a_line(config: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = CliRunner().invoke(mcp, ["serve", "--store", str(config), "--http", address])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: cannot listen on {address}: ")


async def test_standard_streams_that_are_no_pipes_are_said_in_a_line(config: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *command("mcp", "serve", "--store", config), stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 2
    assert errors.startswith(b"Error: standard input and output have to be pipes")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_server_although_its_client_is_there(config: Path, number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        *command("mcp", "serve", "--store", config), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
    await asyncio.wait_for(process.stdout.readline(), 60)
    process.send_signal(number)
    assert await asyncio.wait_for(process.wait(), 60) == 0
    process.stdin.close()


async def test_a_stop_does_not_wait_for_a_call_that_waits(config: Path) -> None:
    async with program("mcp", "serve", "--http", "127.0.0.1:0", "--store", config) as process:
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().split()[-1]
        async with Client(url) as client:

            async def is_submitted() -> object:
                return (await call(client, "list_tasks"))["tasks"]

            waiting = asyncio.create_task(call(client, "submit_task", objective="x", wait_sec=600))
            await eventually(is_submitted)
            process.terminate()
            with pytest.raises(MCPError):
                await waiting
        assert await asyncio.wait_for(process.wait(), 60) == 0
