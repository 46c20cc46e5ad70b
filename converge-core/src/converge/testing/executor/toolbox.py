"""The tools that the contract of executors calls: globals of a module, so that they may run in processes."""

from __future__ import annotations

import asyncio
import sys
import time

from converge.core.tool_call import current_call
from converge.core.tools import ToolRegistry, tool

__all__ = ["add", "add_async", "exits", "key", "raises", "sleeps", "toolbox"]


@tool
def add(a: int, b: int) -> int:
    """The sum."""
    return a + b


@tool
async def add_async(a: int, b: int) -> int:
    """The sum, by a coroutine."""
    await asyncio.sleep(0)
    return a + b


@tool
def raises(text: str) -> None:
    """Raise an error."""
    raise LookupError(text)


@tool
def exits(code: int) -> None:
    """End the program, or try to."""
    sys.exit(code)


@tool
def sleeps(seconds: float) -> float:
    """Do nothing for a while, in a way that blocks its thread."""
    time.sleep(seconds)
    return seconds


@tool
def key() -> str:
    """The key that this call has for what must not happen twice."""
    return current_call().idempotency_key


def toolbox() -> ToolRegistry:
    """All of them."""
    registry = ToolRegistry()
    for each in (add, add_async, raises, exits, sleeps, key):
        registry.register(each)
    return registry
