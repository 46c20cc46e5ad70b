"""An MCP server that is a program: started in a session of its own, and ended with everything in it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import anyio
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage

from converge.extensions.mcp.lines import printable, read_messages, write_messages

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
    from pathlib import Path

    from mcp.client._transport import TransportStreams

__all__ = ["EXIT_GRACE_SEC", "TERM_GRACE_SEC", "program"]

EXIT_GRACE_SEC = 2.0
"""For a server to end by itself once its standard input is closed, as the specification of MCP has it."""

TERM_GRACE_SEC = 2.0
_KILL_GRACE_SEC = 2.0
_POLL_SEC = 0.01
_log = logging.getLogger(__name__)
_stderr_log = logging.getLogger("converge.extensions.mcp.stderr")


@asynccontextmanager
async def program(
    command: str,
    args: Sequence[str],
    env: Mapping[str, str],
    cwd: Path | None,
    *,
    max_message_bytes: int,
    label: str,
    on_end: Callable[[], object],
) -> AsyncGenerator[TransportStreams, None]:
    """Run the program, with streams of the messages from and to it; an OSError when it cannot be started.

    Leaving closes its standard input, then ends its process group with SIGTERM and SIGKILL, in at most some seconds;
    being cancelled meanwhile skips the waiting, never the killing. `on_end` is called when nothing comes from it any
    more.
    """
    process = await asyncio.create_subprocess_exec(
        command,
        *args,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**get_default_environment(), **env},
        cwd=cwd,
        start_new_session=True,
        limit=max_message_bytes,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    incoming, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    write, outgoing = anyio.create_memory_object_stream[SessionMessage](0)
    jobs = [
        asyncio.create_task(read_messages(process.stdout, incoming, label)),
        asyncio.create_task(write_messages(process.stdin, outgoing)),
        asyncio.create_task(_log_lines(process.stderr, label)),
    ]
    jobs[0].add_done_callback(lambda _: on_end())
    try:
        yield read, write
    finally:
        try:
            await _end(process)
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.wait(jobs)
            for stream in (incoming, read, write, outgoing):
                stream.close()
            _close_pipes(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        if not await _ended(process, EXIT_GRACE_SEC):
            _signal_group(process, signal.SIGTERM)
            await _ended(process, TERM_GRACE_SEC)
    finally:
        _signal_group(process, signal.SIGKILL)  # also when the server has ended: what it started may not have
    if not await _ended(process, _KILL_GRACE_SEC):
        _log.error("the process %d of an MCP server is still there after SIGKILL", process.pid)


def _signal_group(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # nobody left, or, on macOS, only zombies
        os.killpg(process.pid, number)


async def _ended(process: asyncio.subprocess.Process, seconds: float) -> bool:
    """Whether the program ends in time. Not `wait`, which also waits for who has inherited its pipes."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while process.returncode is None and loop.time() < until:  # noqa: ASYNC110  # nothing sets an event
        await asyncio.sleep(_POLL_SEC)
    return process.returncode is not None


def _close_pipes(process: asyncio.subprocess.Process) -> None:
    """A process that has left the group may hold the other ends; nothing public closes ours."""
    process._transport.close()  # type: ignore[attr-defined]


async def _log_lines(reader: asyncio.StreamReader, label: str) -> None:
    """What the server prints for people; a line beyond 64 KiB goes to the log in parts."""
    while chunk := await reader.read(65_536):
        while not chunk.endswith(b"\n") and len(chunk) < 65_536 and (more := await reader.read(65_536 - len(chunk))):
            chunk += more
        for line in chunk.splitlines():
            if line.strip():
                _stderr_log.info("%s: %s", label, printable(line))
