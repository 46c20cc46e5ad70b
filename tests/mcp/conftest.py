from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from converge.extensions.mcp import MCPTools

FAKE = Path(__file__).with_name("fake_server.py")

Fake = Callable[..., MCPTools]


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    """Makes the tools of a server of its own, which notes what happens in `tmp_path`."""

    def make(manner: str = "well", **options: Any) -> MCPTools:
        return MCPTools(**fake_options(tmp_path, manner), **options)

    return make


def fake_options(folder: Path, manner: str = "well") -> dict[str, Any]:
    return {"command": sys.executable, "args": ["-I", str(FAKE), str(folder), manner]}


def pids(folder: Path) -> list[int]:
    """The processes of the server, in the order of their starts."""
    return [int(line) for line in (folder / "starts").read_text().split()]


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that is only waiting to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def eventually(holds: Callable[[], object | Awaitable[object]]) -> None:
    """Wait until what `holds` returns, or what awaiting that gives, is true."""
    async with asyncio.timeout(60):
        while True:
            value = holds()
            if await value if inspect.isawaitable(value) else value:
                return
            await asyncio.sleep(0.01)
