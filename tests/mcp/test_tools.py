"""The tools of an MCP server that is a program, whatever the program does."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from converge.core.decisions import InvokeTool
from converge.core.errors import ToolParameterError
from converge.core.tool_source import ToolSource
from converge.core.tools import Tool, ToolRegistry
from converge.extensions.mcp import MCPServerUnavailable, MCPTool, MCPToolError, MCPTools, MCPToolsUnusable
from converge.plugins import PluginOptionsError, default_manager
from converge.runtime.executor import StandardExecutor
from tests.mcp.conftest import Fake, eventually, fake_options, is_alive, pids


def by_name(tools: list[MCPTool]) -> dict[str, MCPTool]:
    return {tool.name: tool for tool in tools}


async def test_every_tool_of_the_server_is_a_tool(fake: Fake) -> None:
    made = fake(prefix="f_")
    assert isinstance(made, ToolSource)
    async with made as tools:
        echo = by_name(tools)["f_echo"]
        assert isinstance(echo, Tool)
        assert echo.parameters["properties"] == {"text": {"type": "string"}}
        assert await echo.run({"text": "héllo"}) == "héllo"


async def test_what_a_terminal_would_obey_is_not_in_a_description(fake: Fake) -> None:
    async with fake() as tools:
        assert by_name(tools)["echo"].description == "Does  [31mecho."


async def test_allow_and_deny_choose_tools_by_the_names_of_the_server(fake: Fake) -> None:
    async with fake(prefix="f_", allow=["echo", "die"], deny=["die"]) as tools:
        assert [tool.name for tool in tools] == ["f_echo"]


async def test_a_description_of_ones_own_goes_in_the_place_of_the_servers(fake: Fake) -> None:
    async with fake(descriptions={"echo": "Says it again."}) as tools:
        assert by_name(tools)["echo"].description == "Says it again."
        assert by_name(tools)["die"].description.endswith("die.")


@pytest.mark.parametrize("option", [{"allow": ["ecko"]}, {"deny": ["ecko"]}, {"descriptions": {"ecko": "Says it."}}])
async def test_a_name_that_the_server_does_not_have_is_an_error_that_says_what_it_has(
    fake: Fake, option: dict[str, Any]
) -> None:
    with pytest.raises(MCPToolsUnusable, match=r"has no tool 'ecko'; it has .*echo"):
        await fake(**option).__aenter__()


async def test_names_that_no_tool_can_have_are_left_out_and_logged(
    fake: Fake, caplog: pytest.LogCaptureFixture
) -> None:
    async with fake("odd names") as tools:
        assert "echo" in by_name(tools)
        assert all(tool.name.isprintable() and len(tool.name) < 100 for tool in tools)
    assert caplog.text.count("is left out") == 3


@pytest.mark.parametrize(
    ("manner", "said"),
    [
        ("twice", "two tools named 'echo'"),
        ("endless", "does not end"),
        ("cannot start", "cannot be used"),
        ("floods", "cannot be used"),
        ("one endless line", "cannot be used"),
    ],
)
async def test_a_server_that_cannot_be_used_is_an_error_and_leaves_no_process(
    fake: Fake, tmp_path: Path, manner: str, said: str
) -> None:
    with pytest.raises((MCPToolsUnusable, MCPServerUnavailable), match=said):
        await fake(manner, max_message_bytes=100_000).__aenter__()
    assert [pid for pid in pids(tmp_path) if is_alive(pid)] == []


async def test_a_server_that_does_not_say_its_tools_is_given_up(fake: Fake, tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match=r"MCP server 'python[\d.]*' gave no answer within 1.0 s"):
        await fake("hangs", open_timeout_sec=1.0).__aenter__()
    assert not is_alive(pids(tmp_path)[0])


async def test_a_command_that_is_not_there_is_an_error_that_names_it() -> None:
    with pytest.raises(MCPServerUnavailable, match="'no-such-server' cannot be used: FileNotFoundError"):
        await MCPTools(command="no-such-server").__aenter__()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("error", "failed"),
        ("refuse", "no tools/call"),
        ("big_number", r"\$\.n: .* does not fit in 64 bits"),
        ("bad_base64", "no base64"),
        ("nonsense", "the answer does not fit: .* content"),
    ],
)
async def test_what_the_server_says_went_wrong_is_raised(fake: Fake, name: str, said: str) -> None:
    async with fake() as tools:
        with pytest.raises(MCPToolError, match=said):
            await by_name(tools)[name].run({})


async def test_an_image_comes_as_bytes(fake: Fake) -> None:
    async with fake() as tools:
        value = await by_name(tools)["image"].run({})
    assert value == [{"type": "image", "mime_type": "image/png", "data": b"\0\1\2"}]


async def test_parameters_without_a_json_form_are_refused_before_the_call(fake: Fake) -> None:
    async with fake() as tools:
        for value in (b"bytes", float("nan")):
            with pytest.raises(ToolParameterError, match="tool 'echo': the parameters have no JSON form"):
                await by_name(tools)["echo"].run({"text": value})


async def test_garbage_between_the_messages_is_logged_and_passed_over(
    fake: Fake, caplog: pytest.LogCaptureFixture
) -> None:
    async with fake() as tools:
        assert await by_name(tools)["garbage"].run({}) == "after the garbage"
    assert "sent a line that is no message: this is no message" in caplog.text


async def test_what_the_server_prints_to_stderr_is_logged_harmlessly(
    fake: Fake, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "converge.extensions.mcp.stderr"):
        async with fake() as tools:
            await by_name(tools)["echo"].run({})
            await eventually(lambda: "hello" in caplog.text)
    assert r"hello \x1b[31m from the server" in caplog.text


async def test_a_result_beyond_the_limit_of_a_message_fails_and_the_next_call_works(fake: Fake) -> None:
    async with fake(max_message_bytes=1_000_000) as tools:
        with pytest.raises(MCPServerUnavailable, match="was lost during the call"):
            await by_name(tools)["huge"].run({})
        assert await by_name(tools)["echo"].run({"text": "again"}) == "again"


async def test_a_server_that_dies_fails_the_call_and_is_started_for_the_next(fake: Fake, tmp_path: Path) -> None:
    async with fake() as tools:
        for _ in range(3):
            with pytest.raises(MCPServerUnavailable, match="was lost during the call"):
                await by_name(tools)["die"].run({})
            assert await by_name(tools)["echo"].run({"text": "again"}) == "again"
    assert len(pids(tmp_path)) == 4


async def test_a_server_that_is_killed_while_idle_is_started_for_the_next_call(fake: Fake, tmp_path: Path) -> None:
    async with fake() as tools:
        os.kill(pids(tmp_path)[0], signal.SIGKILL)
        await eventually(lambda: not is_alive(pids(tmp_path)[0]))
        async with asyncio.timeout(30):
            while True:  # the first may still find the connection that is about to be lost
                try:
                    assert await by_name(tools)["echo"].run({"text": "again"}) == "again"
                    break
                except MCPServerUnavailable:
                    await asyncio.sleep(0.01)


async def test_a_server_that_dies_again_and_again_is_left_alone_for_a_while(fake: Fake, tmp_path: Path) -> None:
    made, now = fake(), 100.0
    made._connection._monotonic = lambda: now
    async with made as tools:
        pauses: list[float] = []
        for _ in range(9):
            with pytest.raises(MCPServerUnavailable, match="was lost during the call"):
                await by_name(tools)["die"].run({})
            if pauses:
                with pytest.raises(MCPServerUnavailable, match=r"times in a row; it is tried again in [\d.]+ s"):
                    await by_name(tools)["echo"].run({})
            pauses.append(made._connection._not_before - now)
            now += pauses[-1]
        assert pauses == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]
        assert await by_name(tools)["echo"].run({"text": "at last"}) == "at last"
    assert len(pids(tmp_path)) == 10


async def test_what_a_server_offers_later_changes_nothing(fake: Fake) -> None:
    async with fake("renames") as tools:
        with pytest.raises(MCPServerUnavailable):
            await by_name(tools)["die"].run({})
        assert await by_name(tools)["echo"].run({"text": "still here"}) == "still here"


async def test_a_cancelled_call_is_told_to_the_server_which_goes_on(fake: Fake, tmp_path: Path) -> None:
    async with fake() as tools:
        call = asyncio.create_task(by_name(tools)["hang"].run({}))
        await asyncio.sleep(0.1)
        call.cancel()
        await asyncio.wait({call})
        assert call.cancelled()
        await eventually((tmp_path / "cancelled").exists)
        assert await by_name(tools)["echo"].run({"text": "on"}) == "on"
    assert len(pids(tmp_path)) == 1


async def test_calls_that_overlap_do_not_wait_for_each_other(fake: Fake) -> None:
    async with fake() as tools:
        hanging = asyncio.create_task(by_name(tools)["hang"].run({}))
        texts = [str(number) for number in range(50)]
        assert await asyncio.gather(*(by_name(tools)["echo"].run({"text": text}) for text in texts)) == texts
        assert not hanging.done()
    with pytest.raises(MCPServerUnavailable):
        await hanging


async def test_an_executor_gives_a_hanging_call_up_in_the_time_of_the_options(fake: Fake) -> None:
    async with fake(timeout_sec=0.5) as tools:
        registry = ToolRegistry()
        for tool in tools:
            registry.register(tool)
        executor = StandardExecutor("a", tool_registry=registry)
        outcomes = await executor.execute([InvokeTool("hang"), InvokeTool("huge"), InvokeTool("echo", {"text": "x"})])
        await executor.close()
    assert [outcome.status for outcome in outcomes] == ["failed", "failed", "done"]
    assert str(outcomes[0].error).startswith("TimeoutError")
    assert "and at most 1048576 are taken" in str(outcomes[1].error)


@pytest.mark.parametrize("manner", ["well", "ignores signals"])
async def test_closing_leaves_neither_the_server_nor_what_it_started(fake: Fake, tmp_path: Path, manner: str) -> None:
    async with fake(manner) as tools:
        child = int(str(await by_name(tools)["spawn"].run({})))
        assert is_alive(child)
    await eventually(lambda: not is_alive(child))
    assert not is_alive(pids(tmp_path)[0])


async def test_closed_tools_say_so_and_start_nothing(fake: Fake, tmp_path: Path) -> None:
    async with fake() as tools:
        pass
    with pytest.raises(MCPServerUnavailable, match="is closed"):
        await by_name(tools)["echo"].run({})
    assert len(pids(tmp_path)) == 1


async def test_opening_that_is_cancelled_leaves_no_process(fake: Fake, tmp_path: Path) -> None:
    made = fake("hangs")
    opening = asyncio.create_task(made.open())
    await eventually(lambda: (tmp_path / "starts").exists() and pids(tmp_path))
    opening.cancel()
    await asyncio.wait({opening})
    await made.close()
    assert not is_alive(pids(tmp_path)[0])


async def test_tools_are_opened_once(fake: Fake) -> None:
    made = fake()
    async with made:
        with pytest.raises(RuntimeError, match="opened already"):
            await made.open()


def test_the_plugin_is_found_by_name_and_its_secret_is_read_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_KEY", "s3cret")
    table = {"use": "mcp", **fake_options(tmp_path), "env": {"KEY": {"env": "FAKE_KEY"}, "MODE": "plain"}}
    made = default_manager().build("tool", table, agent_id="a")
    assert isinstance(made, MCPTools)
    assert "s3cret" not in repr(made._options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "either command"),
        ({"command": "a", "url": "https://b.example/mcp"}, "either command"),
        ({"url": "ftp://b.example"}, "is an http or https URL"),
        ({"url": "http://b.example/mcp"}, "is not encrypted"),
        ({"url": "https://me:pass@b.example/mcp"}, "user name or password"),
        ({"url": "https://b.example/mcp", "args": ["x"]}, "args is for a server with command"),
        ({"command": "a", "headers": {"A": "b"}}, "headers is for a server with url"),
        ({"command": "a", "timeout_sec": 0}, "timeout_sec"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises((PluginOptionsError, ValueError), match=said):
        default_manager().build("tool", {"use": "mcp", **options})
