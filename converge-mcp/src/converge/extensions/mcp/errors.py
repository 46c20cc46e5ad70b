"""What goes wrong between an agent and an MCP server."""

from __future__ import annotations

from converge.core.errors import ConvergeError

__all__ = ["MCPServerUnavailable", "MCPToolError", "MCPToolsUnusable"]


class MCPServerUnavailable(ConvergeError, ConnectionError):
    """The server cannot be started or reached, or it ended during the call. The next call tries again."""


class MCPToolError(ConvergeError, RuntimeError):
    """The server said that the call failed; the text is the server's, and as untrusted as any result of a tool."""


class MCPToolsUnusable(ConvergeError, ValueError):
    """What the server offers does not fit the options, or cannot be taken."""
