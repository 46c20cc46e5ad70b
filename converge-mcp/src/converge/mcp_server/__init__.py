"""Converge as an MCP server: any MCP client submits tasks to pools, and calls tools, with `converge mcp serve`."""

from __future__ import annotations

from converge.mcp_server.serving import server_of
from converge.mcp_server.task_tools import TaskTools

__all__ = ["TaskTools", "server_of"]
