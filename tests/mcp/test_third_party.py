"""MCP servers of others: the reference servers in Python and in TypeScript, as the package indexes have them today."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from converge.extensions.mcp import MCPToolError, MCPTools

EVERYTHING = "@modelcontextprotocol/server-everything"
CACHE = Path(__file__).parents[2] / ".venv" / "node"
UNREACHABLE = ("ENOTFOUND", "ECONNREFUSED", "ETIMEDOUT", "EAI_AGAIN", "ECONNRESET")
"""What npm prints when the network is the problem."""


async def test_the_time_server_tells_the_time() -> None:
    command = Path(sys.executable).with_name("mcp-server-time")
    async with MCPTools(command=str(command), prefix="time_", allow=["convert_time"]) as (convert,):
        zones = {"source_timezone": "Asia/Kolkata", "target_timezone": "UTC"}
        told = await convert.run({**zones, "time": "12:00"})
        assert isinstance(told, dict)
        assert told["time_difference"] == "-5.5h"
        with pytest.raises(MCPToolError, match=r"(?i)time"):
            await convert.run({**zones, "time": "noon"})


@pytest.fixture(scope="module")
def everything() -> str:
    """The program of the server that shows everything a server can do, installed once into the environment here."""
    program = CACHE / "node_modules" / ".bin" / "mcp-server-everything"
    if not program.exists():
        npm = shutil.which("npm")
        if npm is None or shutil.which("node") is None:
            pytest.skip("there is no node and npm here to run a server in TypeScript")
        CACHE.mkdir(parents=True, exist_ok=True)
        install = [npm, "install", "--prefix", str(CACHE), "--no-audit", "--no-fund", EVERYTHING]
        done = subprocess.run(install, capture_output=True, text=True, timeout=240, check=False)
        if done.returncode and any(sign in done.stderr for sign in UNREACHABLE):
            pytest.skip(f"no package index can be reached: {done.stderr.strip()[-300:]}")
        assert done.returncode == 0, done.stderr
    return str(program)


async def test_a_server_in_typescript_shows_what_servers_can_do(everything: str) -> None:
    async with MCPTools(command=everything, args=["stdio"], env={"SHOWN": "yes"}) as tools:
        run = {tool.name: tool.run for tool in tools}
        assert await run["echo"]({"message": "hi"}) == "Echo: hi"
        weather = await run["get-structured-content"]({"location": "Chicago"})
        assert isinstance(weather, dict)
        assert set(weather) == {"temperature", "conditions", "humidity"}
        image = await run["get-tiny-image"]({})
        assert isinstance(image, list)
        (pixels,) = [block for block in image if isinstance(block, dict)]
        assert isinstance(pixels["data"], bytes)
        assert pixels["data"].startswith(b"\x89PNG")
        environment = await run["get-env"]({})
        assert '"SHOWN": "yes"' in str(environment)
        assert "VIRTUAL_ENV" not in str(environment)
        with pytest.raises(MCPToolError, match="expected string"):
            await run["echo"]({})
        slow = asyncio.create_task(run["trigger-long-running-operation"]({"duration": 60, "steps": 60}))
        await asyncio.sleep(0.1)
        slow.cancel()
        await asyncio.wait({slow})
        assert await run["get-sum"]({"a": 1, "b": 2}) == "The sum of 1 and 2 is 3."
