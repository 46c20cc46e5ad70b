"""A tool that is called as an agent would."""

from __future__ import annotations

import asyncio
import copy
import inspect
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from converge.core.decisions import InvokeTool
from converge.core.tools import Isolation, Tool, ToolRegistry
from converge.runtime.executor import StandardExecutor
from converge.runtime.tools.linux import can_isolate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from converge.core.agent import Outcome

__all__ = ["Caller", "calling", "places"]


def places(tool: Tool, *, importable: bool) -> list[Isolation]:
    """Where `tool` may run: where it says, or wherever it can when it says nothing."""
    said: Isolation = getattr(tool, "isolation", "auto")
    if said != "auto":
        return [said]
    first: Isolation = "inline" if inspect.iscoroutinefunction(tool.run) else "thread"
    return [first, "process"] if importable and can_isolate() else [first]


class Caller:
    """Calls one tool through an executor."""

    def __init__(self, executor: StandardExecutor, name: str) -> None:
        self._executor, self._name = executor, name

    async def __call__(self, params: Mapping[str, Any]) -> Outcome:
        """What becomes of a call."""
        (outcome,) = await self._executor.execute([InvokeTool(self._name, copy.deepcopy(dict(params)))])
        return outcome


@asynccontextmanager
async def calling(tool: Tool, isolation: Isolation, patience: float) -> AsyncIterator[Caller]:
    """A caller of `tool` where `isolation` says. What takes longer than `patience` seconds is a `TimeoutError`."""
    registry = ToolRegistry()
    registry.register(tool)
    (name,) = registry.list_names()
    executor = StandardExecutor("contract", tool_registry=registry, tool_isolation=isolation, tool_timeout_sec=patience)
    try:
        async with asyncio.timeout(patience * 2):
            yield Caller(executor, name)
    finally:
        await executor.close()
