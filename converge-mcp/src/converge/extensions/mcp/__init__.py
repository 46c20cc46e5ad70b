"""The tools of MCP servers as tools of Converge agents. The SDK is imported when a server is asked, not before."""

from __future__ import annotations

from converge.extensions.mcp.errors import MCPServerUnavailable, MCPToolError, MCPToolsUnusable
from converge.extensions.mcp.options import MCPToolsOptions
from converge.extensions.mcp.tools import MCPTool, MCPTools

__all__ = ["MCPServerUnavailable", "MCPTool", "MCPToolError", "MCPTools", "MCPToolsOptions", "MCPToolsUnusable"]
