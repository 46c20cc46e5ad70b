"""A process that runs tools, one call after the other, until its channel is closed or it is killed.

It is forked by `converge.runtime.tools.guard` and has nothing of the runtime's: no store, no keys, no sockets but its
own channel. Its standard output goes where its standard error goes, and its input is empty.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NoReturn

from converge.core.plain import pack
from converge.core.tool_call import ToolCall, calling
from converge.core.tool_reference import ToolReference
from converge.core.tools import FunctionTool
from converge.runtime.calls import contained, described
from converge.runtime.tools.frames import frame, receive
from converge.runtime.tools.linux import adopt_orphans, children_of_mine, die_with_parent

if TYPE_CHECKING:
    import socket

    from converge.core.tools import Tool
    from converge.runtime.tools.limits import ToolLimits

__all__ = ["serve"]

_MAX_ERROR = 10_000


def serve(channel: socket.socket, limits: ToolLimits, guard: int) -> NoReturn:
    """Run the calls that come in, in a process that was just forked. Ends the process."""
    die_with_parent(guard)
    os.setsid()
    adopt_orphans()  # so that what a tool leaves behind is seen here, and is the guard's when this one is killed
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    limits.apply()
    tools: dict[ToolReference, Tool] = {}
    while (request := receive(channel)) is not None:
        channel.sendall(_answered(channel, request, limits, tools))
    os._exit(0)


def _in_trace(call: ToolCall) -> AbstractContextManager[None]:
    """A block in which the span of the call, which is one of the runtime's process, is the open one."""
    if call.traceparent is None:
        return nullcontext()
    from converge.observability.tracing import continuing  # what nobody traces needs none of it

    return continuing(call.traceparent)


def _answered(
    channel: socket.socket, request: list[Any], limits: ToolLimits, tools: dict[ToolReference, Tool]
) -> bytes:
    reference, call, params, most = ToolReference(*request[:4]), ToolCall(*request[4]), request[5], request[6]
    try:
        limits.begin_call()
        tool = tools.get(reference)
        if tool is None:
            tool = tools[reference] = _ready(reference.resolve())
            channel.sendall(frame(["loaded"]))
        with calling(call), _in_trace(call):
            value = tool.run(params)
            if inspect.isawaitable(value):
                value = asyncio.run(_awaited(value))
        return _result(value, most)
    except BaseException as error:  # noqa: BLE001  # whatever a tool raises is its answer
        return frame(["failed", described(contained(error))[:_MAX_ERROR], _is_clean()])


def _ready(tool: Tool) -> Tool:
    """`tool`, with what it makes at its first call made, so that the call's time is its own."""
    if isinstance(tool, FunctionTool):
        _ = tool.parameters
    return tool


def _result(value: object, most: int) -> bytes:
    try:
        packed = pack(value, "the result")
    except TypeError as error:
        text = f"{error}; a tool that returns something else needs isolation='thread'"
        return frame(["failed", f"TypeError: {text}"[:_MAX_ERROR], _is_clean()])
    if len(packed) > most:
        text = f"the result takes {len(packed)} bytes, and at most {most} are taken; store it, and return its key"
        return frame(["failed", f"ValueError: {text}", _is_clean()])
    return frame(["done", packed, _is_clean()])


def _is_clean() -> bool:
    """Whether the tool has left no process; those that have ended by now are reaped."""
    for _ in children_of_mine():
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            break
    return not children_of_mine()


async def _awaited(value: Any) -> object:  # noqa: ANN401  # any awaitable
    return await value
