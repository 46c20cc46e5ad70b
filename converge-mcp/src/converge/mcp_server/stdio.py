"""Serving over the standard streams of this process."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
from mcp.shared.message import SessionMessage

from converge.extensions.mcp.lines import read_messages, write_messages

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from mcp.server.lowlevel.server import Server

__all__ = ["MAX_MESSAGE_BYTES", "serve_stdio"]

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
_FLUSH_SEC = 1.0


async def serve_stdio(server: Server[dict[str, Any]], stop: asyncio.Event) -> None:
    """Serve one client on standard input and output until it closes them or `stop` is set.

    While it does, what anything here prints goes to standard error. Raises a `ValueError` when the streams are no
    pipes.
    """
    async with _standard_streams() as (reader, writer):
        incoming, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        write, outgoing = anyio.create_memory_object_stream[SessionMessage](0)
        jobs = [
            asyncio.create_task(read_messages(reader, incoming, "the client")),
            asyncio.create_task(write_messages(writer, outgoing)),
        ]
        serving = asyncio.create_task(server.run(read, write, server.create_initialization_options()))
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
            write.close()
            await asyncio.wait(jobs[1:], timeout=_FLUSH_SEC)  # what was answered is written
        finally:
            for task in (*jobs, serving, stopped):
                task.cancel()
            await asyncio.wait({*jobs, serving, stopped})
            for stream in (incoming, read, write, outgoing):
                stream.close()
        if not serving.cancelled() and (error := serving.exception()) is not None:
            raise error


@asynccontextmanager
async def _standard_streams() -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter], None]:
    """The streams as pipes of the event loop, out of the reach of `print` and of what reads standard input."""
    for number in (0, 1):
        mode = os.fstat(number).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(number)):
            raise ValueError("standard input and output have to be pipes, as an MCP client makes them; or use --http")
    sys.stdout.flush()
    kept = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    try:
        async with _piped(os.dup(kept[0]), os.dup(kept[1])) as streams:
            yield streams
    finally:
        for number, copy in enumerate(kept):
            os.set_blocking(copy, True)  # who shares them does not expect what an event loop needs
            os.dup2(copy, number)
            os.close(copy)


@asynccontextmanager
async def _piped(source: int, target: int) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter], None]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=MAX_MESSAGE_BYTES)
    with os.fdopen(source, "rb", 0) as coming, os.fdopen(target, "wb", 0) as going:
        incoming, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), coming)
        outgoing, protocol = await loop.connect_write_pipe(lambda: asyncio.streams.FlowControlMixin(loop=loop), going)
        try:
            yield reader, asyncio.StreamWriter(outgoing, protocol, reader, loop)
        finally:
            incoming.close()
            outgoing.close()
            await asyncio.sleep(0)  # where they let go of their files
