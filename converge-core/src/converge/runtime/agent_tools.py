"""The tools that one agent can call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from converge.core.tools import ToolRegistry

if TYPE_CHECKING:
    from collections.abc import Iterable

    from converge.core.tools import Tool

__all__ = ["AgentTools"]


class AgentTools(ToolRegistry):
    """Tools of an agent's own beside those of `shared`, a registry that it may have in common with others.

    What is registered here is the agent's alone. A name is one tool's: what `shared` has cannot be replaced here.
    """

    def __init__(self, shared: ToolRegistry | None = None) -> None:
        super().__init__()
        self._shared = shared
        self._taken: tuple[str, ...] = ()  # nothing that an idle agent has to carry

    def take(self, tools: Iterable[Tool]) -> None:
        """Let the agent have `tools`, in place of those of the last `take`. Raises what `register` raises."""
        for name in self._taken:
            self.unregister(name)
        self._taken = ()
        for tool in tools:
            known = set(self._tools)
            self.register(tool)
            self._taken += (*self._tools.keys() - known,)

    def register(self, tool: Tool) -> None:
        """As `ToolRegistry.register`; `ValueError` too for the name of another tool in the shared registry."""
        name: object = getattr(tool, "name", None)
        shared = self._shared.get(name) if self._shared is not None and isinstance(name, str) else None
        if shared is tool:
            return
        if shared is not None:
            raise ValueError(f"the registry of the runtime has another tool named {name!r}; give this one another name")
        super().register(tool)

    def get(self, name: str) -> Tool | None:
        """The tool of that name, or None."""
        own = super().get(name)
        return self._shared.get(name) if own is None and self._shared is not None else own

    def list_names(self) -> list[str]:
        """The names of all tools, sorted."""
        return sorted({*super().list_names(), *([] if self._shared is None else self._shared.list_names())})

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (self._shared is not None and name in self._shared)

    def __len__(self) -> int:
        return len(self.list_names())
