"""MCP messages on byte streams: one JSON-RPC message a line, each of bounded length."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio
import mcp_types
from mcp.shared.message import SessionMessage

if TYPE_CHECKING:
    import asyncio

    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

__all__ = ["MAX_GARBAGE", "printable", "read_messages", "write_messages"]

MAX_GARBAGE = 100
"""Lines in a row that are no message, after which the other side is given up."""

_log = logging.getLogger(__name__)


async def read_messages(
    reader: asyncio.StreamReader, into: MemoryObjectSendStream[SessionMessage | Exception], label: str
) -> None:
    """Hand on the messages of `reader` until it ends, sends a line beyond its limit, or only garbage; close `into`.

    A line that is no message is logged and passed over: programs print.
    """
    garbage = 0
    async with into:
        while garbage < MAX_GARBAGE:
            try:
                line = await reader.readline()
            except ValueError:
                _log.error("%s sent a message beyond max_message_bytes; its connection is closed", label)
                return
            except ConnectionError as error:
                _log.warning("%s: reading from it failed: %s", label, error)
                return
            if not line:
                return
            try:
                message = mcp_types.jsonrpc_message_adapter.validate_json(line, by_name=False)
            except ValueError:
                garbage += bool(line.strip())
                _log.warning("%s sent a line that is no message: %s", label, printable(line))
                continue
            garbage = 0
            try:
                await into.send(SessionMessage(message))
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return  # who read the messages is gone
        _log.error("%s sent %d lines in a row that are no messages; its connection is closed", label, garbage)


async def write_messages(writer: asyncio.StreamWriter, out: MemoryObjectReceiveStream[SessionMessage]) -> None:
    """Write the messages of `out` until it ends, or the other side reads no more."""
    try:
        async with out:
            async for message in out:
                writer.write(message.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
                await writer.drain()
    except (anyio.ClosedResourceError, ConnectionError):
        return  # the reading side sees the end


def printable(line: bytes, limit: int = 500) -> str:
    """`line` for a log: shortened, and with nothing in it that a terminal or a log would obey."""
    text = line[:limit].decode(errors="replace").rstrip()
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    return f"{shown}… ({len(line)} bytes)" if len(line) > limit else shown
