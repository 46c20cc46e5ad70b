"""A part that has tools elsewhere, and has to ask for them before an agent can have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from converge.core.tools import Tool

__all__ = ["ToolSource"]


@runtime_checkable
class ToolSource(Protocol):
    """What a plugin of the kind `tool` may be in the place of one tool: several, which somebody else has.

    The runtime opens it before the agents of a process start and closes it after they have stopped, in one event loop.
    Entries of `[[agents]]` with the same options share one source, unless its constructor names `agent_id`.
    """

    async def open(self) -> Sequence[Tool]:
        """The tools, whose names and number are fixed from now on. Called once.

        May be cancelled, when it takes too long or the application stops: leave nothing behind then. What it raises
        ends the start of the application.
        """
        ...

    async def close(self) -> None:
        """Give everything back, in bounded time; also when `open` has not been called, or has failed."""
        ...
