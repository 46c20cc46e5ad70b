"""The tools of an MCP server behind a URL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import mcp_types
import pytest
from mcp.server.lowlevel.server import Server
from starlette.applications import Starlette

from converge.extensions.mcp import MCPServerUnavailable, MCPTool, MCPTools
from converge.mcp_server.http import serve_http
from converge.observability.http import Address

SEEN: list[str | None] = []


class JsonServer(Server[dict[str, Any]]):
    """Answers with JSON in the place of a stream of events."""

    def streamable_http_app(self, **options: Any) -> Starlette:
        return super().streamable_http_app(**options, json_response=True)


def server(kind: type[Server[dict[str, Any]]] = Server) -> Server[dict[str, Any]]:
    async def list_tools(context: Any, params: Any) -> mcp_types.ListToolsResult:
        schema = {"type": "object"}
        names = "echo", "hang", "huge"
        return mcp_types.ListToolsResult(tools=[mcp_types.Tool(name=name, input_schema=schema) for name in names])

    async def call_tool(context: Any, params: mcp_types.CallToolRequestParams) -> mcp_types.CallToolResult:
        SEEN.append(context.request.headers.get("x-key"))
        if params.name == "hang":
            await asyncio.Event().wait()
        text = "x" * 300_000 if params.name == "huge" else str((params.arguments or {}).get("text"))
        return mcp_types.CallToolResult(content=[mcp_types.TextContent(text=text)])

    return kind("far", on_list_tools=list_tools, on_call_tool=call_tool)


@asynccontextmanager
async def serving(made: Server[dict[str, Any]], port: int = 0) -> AsyncIterator[str]:
    """The URL of the server, which ends after."""
    stop = asyncio.Event()
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    job = asyncio.create_task(serve_http(made, Address("127.0.0.1", port), stop, ready.set_result))
    try:
        yield await asyncio.wait_for(ready, 60)
    finally:
        stop.set()
        await asyncio.wait_for(job, 60)


def by_name(tools: list[MCPTool]) -> dict[str, MCPTool]:
    return {tool.name: tool for tool in tools}


@pytest.mark.parametrize("kind", [Server, JsonServer])
async def test_calls_carry_the_headers_and_one_that_is_too_large_fails_alone(kind: type[Any]) -> None:
    SEEN.clear()
    async with (
        serving(server(kind)) as url,
        MCPTools(url=url, headers={"X-Key": "k"}, max_message_bytes=100_000) as tools,
    ):
        assert await by_name(tools)["echo"].run({"text": "hi"}) == "hi"
        with pytest.raises(MCPServerUnavailable, match="was lost during the call"):
            await by_name(tools)["huge"].run({})
        assert await by_name(tools)["echo"].run({"text": "again"}) == "again"
    assert SEEN == ["k"] * 3


async def test_a_call_that_hangs_is_given_up_and_the_next_one_works() -> None:
    async with serving(server()) as url, MCPTools(url=url, timeout_sec=0.5) as tools:
        with pytest.raises(TimeoutError, match=r"MCP server http://127.0.0.1:\d+/mcp gave no answer within 0.5 s"):
            await by_name(tools)["hang"].run({})
        assert await by_name(tools)["echo"].run({"text": "on"}) == "on"


async def test_a_server_that_is_started_anew_is_found_again() -> None:
    async with serving(server()) as url:
        made = MCPTools(url=url, timeout_sec=20)
        tools = by_name(await made.open())
        assert await tools["echo"].run({"text": "1"}) == "1"
    with pytest.raises(MCPServerUnavailable):
        await tools["echo"].run({"text": "2"})
    async with serving(server(), int(url.rpartition(":")[2].split("/")[0])):
        assert await tools["echo"].run({"text": "3"}) == "3"
        await made.close()


async def test_a_url_where_nobody_is_is_an_error_that_names_it_without_its_query() -> None:
    async with serving(server()) as url:
        pass
    with pytest.raises(MCPServerUnavailable, match=r"MCP server http://127.0.0.1:\d+/mcp cannot be used") as raised:
        await MCPTools(url=f"{url}?key=s3cret").__aenter__()
    assert "s3cret" not in str(raised.value)
