"""`converge mcp serve`: lets MCP clients submit tasks to the agents of a run."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import tomllib
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from converge.core.errors import ConvergeError
from converge.observability.http import Address

if TYPE_CHECKING:
    from converge.core.store import Store
    from converge.core.tools import ToolRegistry
    from converge.runtime.tools.sources import ToolSources

__all__ = ["mcp", "serve"]

_file = click.Path(path_type=Path, dir_okay=False, exists=True)


class _Misused(click.ClickException):
    """What the user can mend on the command line, in a file or in the environment, as one line."""

    exit_code = 2

    def __init__(self, error: Exception | str) -> None:
        super().__init__(" ".join(str(error).split()) or type(error).__name__)


@click.group()
def mcp() -> None:
    """Speak the Model Context Protocol."""


@mcp.command()
@click.option("--store", metavar="STORE", default="converge.toml", show_default=True, help="As for `converge store`.")
@click.option("--pool", "pools", multiple=True, metavar="ID", help="Only these pools get tasks; repeat it for more.")
@click.option(
    "--tool", "tools", multiple=True, metavar="NAME", help='Serve this plugin, or { use = "NAME", … }, too; repeat it.'
)
@click.option("--max-open", type=click.IntRange(1), default=100, show_default=True, help="Tasks open at a time.")
@click.option(
    "--http", metavar="HOST:PORT", help="Serve over HTTP, at /mcp, instead of stdio; port 0 takes a free one."
)
@click.option("--token-env", metavar="NAME", help="Clients of --http need the bearer token in this variable.")
@click.option("--http-public", is_flag=True, help="Let --http be an address that other machines reach.")
@click.option("--cert", type=_file, help="PEM file with the certificate, for https.")
@click.option("--key", type=_file, help="PEM file with its key, unless that is in the file of --cert.")
@click.option("--insecure", is_flag=True, help="Let --http-public do without --cert: a proxy encrypts, say.")
def serve(
    store: str,
    pools: tuple[str, ...],
    tools: tuple[str, ...],
    max_open: int,
    http: str | None,
    token_env: str | None,
    http_public: bool,
    cert: Path | None,
    key: Path | None,
    insecure: bool,
) -> None:
    """Let MCP clients submit tasks, and get their results from the agents of a `converge run` on the same store.

    A --tool is a NAME, or a table with options: '{ use = "NAME", … }'. Serves one client over standard input and
    output, until it closes them, or any number with --http. Whoever reaches the server may submit tasks to its pools
    and call its tools. Exit codes: 0 stopped, 1 failed, 2 wrong usage.
    """
    if http is None and (token_env or http_public or cert or key or insecure):
        raise _Misused("--token-env, --http-public, --cert, --key and --insecure are for --http")
    if http_public and not (token_env and (cert or insecure)):
        raise _Misused("--http-public takes --token-env, and --cert (or --insecure): strangers reach that address")
    token = None if token_env is None else os.environ.get(token_env)
    if token_env is not None and not token:
        raise _Misused(f"the environment variable {token_env} is not set, or empty; put the token into it")
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        address = None if http is None else Address.parse(http)
        with ExitStack() as stack:
            opened = stack.enter_context(_opened(store))
            asyncio.run(_serve(opened, pools, tools, max_open, address, token, http_public, cert, key))
    except (ConvergeError, ValueError, FileNotFoundError) as error:
        raise _Misused(error) from error
    except OSError as error:
        said = error.strerror if error.filename is None and error.strerror else str(error)
        raise click.ClickException(said) from error


def _opened(text: str) -> Store:
    from converge.cli.store_names import named_store  # this is a command of converge-cli, which has it

    named = named_store(text)
    store = named.open(create=True)
    if not store.shared:
        store.close()
        raise ValueError(f"{named.where}: no other process sees this store; use one that they share, such as sqlite")
    return store


async def _serve(
    store: Store,
    pools: tuple[str, ...],
    tools: tuple[str, ...],
    max_open: int,
    address: Address | None,
    token: str | None,
    public: bool,
    cert: Path | None,
    key: Path | None,
) -> None:
    from converge.coordination.pool_manager import PoolManager
    from converge.coordination.task_manager import TaskManager
    from converge.core.tools import ToolRegistry
    from converge.mcp_server.serving import server_of
    from converge.mcp_server.task_tools import TaskTools
    from converge.runtime.tools.calls import ToolCalls
    from converge.runtime.tools.sources import ToolSources

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    tasks, registry = TaskManager(store), ToolRegistry()
    for each in TaskTools(tasks, PoolManager(store), pools, max_open=max_open).tools():
        registry.register(each)
    sources = ToolSources()
    for text in tools:
        _add_tool(text, registry, sources)
    calls = ToolCalls("mcp", registry)
    try:
        await sources.open()
        server = server_of(registry, calls, version("converge-mcp"))
        if address is None:
            from converge.mcp_server.stdio import serve_stdio

            await serve_stdio(server, stop)
        else:
            from converge.mcp_server.http import serve_http

            await serve_http(server, address, stop, _say, token=token, public=public, cert=cert, key=key)
    finally:
        await calls.close()
        await sources.close()
        tasks.close()


def _add_tool(text: str, registry: ToolRegistry, sources: ToolSources) -> None:
    """Register the tool that `--tool` names, or let the registry have those of a source."""
    from converge.core.tool_source import ToolSource
    from converge.core.tools import Tool
    from converge.plugins import default_manager

    where = f"--tool {text}"
    try:
        table: str | dict[str, object] = tomllib.loads(f"tool = {text}")["tool"] if text.startswith("{") else text
        made = default_manager().build("tool", table, where=where, agent_id="mcp")
        if isinstance(made, ToolSource) and not isinstance(made, Tool):
            sources.add(made, table, registry, where)
        else:
            registry.register(cast("Tool", made))  # it looks for itself
    except (TypeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{where}: {error}") from None


def _say(url: str) -> None:
    click.echo(f"serving MCP at {url}")
