"""The plugin: the tools of one MCP server."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Final

from attrs import fields, frozen

from converge.core.errors import ToolParameterError
from converge.core.tools import Isolation
from converge.extensions.mcp.connection import Connection
from converge.extensions.mcp.errors import MCPToolsUnusable
from converge.extensions.mcp.options import MCPToolsOptions

if TYPE_CHECKING:
    import mcp_types
    from mcp.client.client import Client

    from converge.core.plain import Plain

__all__ = ["MAX_DESCRIPTION_LETTERS", "MAX_NAME_LETTERS", "MAX_SCHEMA_BYTES", "MAX_TOOLS", "MCPTool", "MCPTools"]

MAX_TOOLS: Final = 1_000
MAX_NAME_LETTERS: Final = 128
"""Of a tool, as the specification of MCP advises."""

MAX_DESCRIPTION_LETTERS: Final = 8_000
MAX_SCHEMA_BYTES: Final = 64 * 1024
_MAX_PAGES: Final = 100
_log = logging.getLogger(__name__)


@frozen(eq=False)
class MCPTool:
    """A tool of an MCP server, as it was when the server was first asked.

    `description` and `parameters` (the JSON schema) are the server's words: show them to a model as data, and trust
    them as far as the server. `run` raises `MCPToolError` for what the server says went wrong, `MCPServerUnavailable`
    when it is lost, and `TimeoutError`.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    timeout_sec: float
    server_name: str
    """What the server calls it."""
    _connection: Connection
    isolation: Isolation = "inline"

    async def run(self, params: dict[str, Any]) -> Plain:
        """What the server answers, as plain data; cancelling tells the server that nobody waits any more."""
        from converge.extensions.mcp.content import value_of

        try:
            json.dumps(params, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ToolParameterError(f"tool {self.name!r}: the parameters have no JSON form: {error}") from None
        return value_of(await self._connection.call(self.server_name, params))


class MCPTools:
    """The tools of one MCP server: `use = "mcp"` among the tools of an agent, or in code, as a context manager.

    `async with MCPTools(command="mcp-server-time") as tools:` has the list of them, and ends the server after.

    A tool source (`converge.core.tool_source`).
    Options as in `MCPToolsOptions`. For one event loop, to be opened once.
    """

    converge_options = MCPToolsOptions

    def __init__(self, **options: Any) -> None:
        self._options = MCPToolsOptions(**options)
        self._connection = Connection(self._options)
        self._opened = False

    @classmethod
    def from_options(cls, options: MCPToolsOptions) -> MCPTools:
        """As the plugin manager makes it."""
        return cls(**{field.name: getattr(options, field.name) for field in fields(MCPToolsOptions)})

    async def open(self) -> list[MCPTool]:
        """Start or reach the server and ask for its tools, which are fixed from now on.

        Raises `MCPServerUnavailable` or `TimeoutError` when it cannot be had, and `MCPToolsUnusable` for names that
        cannot be taken or are not there.
        """
        if self._opened:
            raise RuntimeError("these tools have been opened already; make another MCPTools")
        self._opened = True
        offered = await self._connection.ask(_all_tools, self._options.open_timeout_sec)
        return self._chosen(offered)

    async def close(self) -> None:
        """End the server, and every process of its group, in at most some seconds."""
        await self._connection.close()

    async def __aenter__(self) -> list[MCPTool]:
        try:
            return await self.open()
        except BaseException:
            await self.close()
            raise

    async def __aexit__(self, *raised: object) -> None:
        await self.close()

    def _chosen(self, offered: list[mcp_types.Tool]) -> list[MCPTool]:
        options, names = self._options, [tool.name for tool in offered]
        for name in [*(options.allow or ()), *options.deny, *options.descriptions]:
            if name not in names:
                known = ", ".join(sorted(names)[:20]) or "none"
                raise MCPToolsUnusable(f"{options.label} has no tool {name!r}; it has {known}")
        allowed = set(names if options.allow is None else options.allow) - set(options.deny)
        chosen: dict[str, MCPTool] = {}
        for tool in offered:
            if tool.name in allowed and (made := self._tool(tool)) is not None:
                if made.name in chosen:
                    raise MCPToolsUnusable(f"{options.label} has two tools named {tool.name!r}; deny it")
                chosen[made.name] = made
        return list(chosen.values())

    def _tool(self, tool: mcp_types.Tool) -> MCPTool | None:
        """None, with a line in the log, for one that no agent can have."""
        name, schema = self._options.prefix + tool.name, tool.input_schema
        if not tool.name or len(name) > MAX_NAME_LETTERS or not name.isprintable():
            problem = f"its name takes 1 to {MAX_NAME_LETTERS} printable letters"
        elif len(json.dumps(schema)) > MAX_SCHEMA_BYTES:
            problem = f"its schema takes more than {MAX_SCHEMA_BYTES} bytes"
        else:
            described = self._options.descriptions.get(tool.name, tool.description or "")[:MAX_DESCRIPTION_LETTERS]
            return MCPTool(
                name=name,
                description="".join(each if each.isprintable() or each in "\n\t" else " " for each in described),
                parameters=dict(schema),
                timeout_sec=self._options.timeout_sec,
                server_name=tool.name,
                connection=self._connection,
            )
        _log.warning("%s: the tool %.80r is left out: %s", self._options.label, tool.name, problem)
        return None


async def _all_tools(client: Client) -> list[mcp_types.Tool]:
    found: list[mcp_types.Tool] = []
    cursor: str | None = None
    for _ in range(_MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        found += page.tools
        cursor = page.next_cursor
        if len(found) > MAX_TOOLS:
            break
        if cursor is None:
            return found
    raise MCPToolsUnusable(f"the server has more than {MAX_TOOLS} tools, or a list of them that does not end")
