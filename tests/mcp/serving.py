"""`converge mcp serve` and `converge run` as programs of their own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

CONFIG = """
[store]
use = "sqlite"
path = "work.db"

[transport]
use = "store"

[[pools]]
id = "clerks"

[[pools]]
id = "others"
"""
AGENT = """
[[agents]]
class = "clerk:Clerk"
pools = ["clerks"]
"""
CLERK = '''
"""An agent that does what a task says."""

from converge.core.agent import Agent
from converge.core.decisions import ClaimTask, InvokeTool, ReportTask


class Clerk(Agent):
    def decide(self, messages, tasks):
        decisions = []
        for outcome in self.outcomes:
            if isinstance(outcome.decision, InvokeTool):
                answer = {"status": outcome.status, "value": outcome.value, "error": str(outcome.error or "")}
                decisions.append(ReportTask(outcome.decision.task_id, answer))
        for task in tasks:
            if task.assigned_to != self.id:
                decisions.append(ClaimTask(task.id))
            elif task.objective == "add":
                decisions.append(ReportTask(task.id, {"sum": sum(task.inputs["numbers"]), "blob": b"raw"}))
            elif task.objective == "call" and task.id not in self.asked:
                self.asked.add(task.id)
                decisions.append(InvokeTool(task.inputs["tool"], task.inputs["params"], task_id=task.id))
        return decisions

    def on_start(self):
        self.asked = set()
'''


def write_config(folder: Path, more: str = "") -> Path:
    """A config in `folder` with a pool `clerks` and its agent; `more` goes to the entry of the agent."""
    (folder / "clerk.py").write_text(CLERK)
    file = folder / "converge.toml"
    file.write_text(CONFIG + AGENT + more)
    return file


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "converge.cli", *map(str, arguments)]


@asynccontextmanager
async def program(*arguments: str | Path, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`converge ARGUMENTS`, ended with SIGTERM after, which it has to obey."""
    process = await asyncio.create_subprocess_exec(
        *command(*arguments),
        stdout=asyncio.subprocess.PIPE,
        stdin=asyncio.subprocess.DEVNULL,
        env=os.environ | environment,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(60):
                await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
    assert process.returncode in (0, 130), process.returncode  # `converge run` says that it was interrupted


@asynccontextmanager
async def serving_http(*arguments: str | Path, **environment: str) -> AsyncIterator[str]:
    """The URL of `converge mcp serve --http` with these arguments."""
    async with program("mcp", "serve", "--http", "127.0.0.1:0", *arguments, **environment) as process:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            line = (await process.stdout.readline()).decode()
        assert line.startswith("serving MCP at http://127.0.0.1:"), line
        yield line.split()[-1]
