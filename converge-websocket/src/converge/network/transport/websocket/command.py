"""`converge hub`: a hub from the command line, until it is told to stop."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import click

from converge.core.errors import ConvergeError
from converge.core.identity import Identity
from converge.network.transport.websocket.hub import WebSocketHub
from converge.network.transport.websocket.watching import routes_of
from converge.observability.http import Address, HttpServer

__all__ = ["hub"]

_AGENT_ID = re.compile(r"[0-9a-f]{64}")
_file = click.Path(path_type=Path, dir_okay=False)


class _Failed(click.ClickException):
    """An error as one line, with an exit code that scripts can use."""

    def __init__(self, error: Exception) -> None:
        super().__init__(" ".join(str(error).split()) or type(error).__name__)


class _Misused(_Failed):
    """The same for what the user can mend on the command line or in a file."""

    exit_code = 2


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0 takes a free one.")
@click.option("--identity", type=_file, help="PEM file with the key of the hub; made when it is not there.")
@click.option("--allow", multiple=True, metavar="FILE|ID", help="Only these agents: an id, or a file with one a line.")
@click.option("--cert", type=_file, help="PEM file with the certificate, for TLS.")
@click.option("--key", type=_file, help="PEM file with its key, unless that is in the file of --cert.")
@click.option("--insecure", is_flag=True, help="Listen beyond this machine without TLS: the network is trusted.")
@click.option("--http", metavar="HOST:PORT", help="Serve /health, /ready and /metrics there; port 0 takes a free one.")
@click.option("--http-public", is_flag=True, help="Let --http be an address that other machines reach.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines for scripts.")
def hub(
    host: str,
    port: int,
    identity: Path | None,
    allow: tuple[str, ...],
    cert: Path | None,
    key: Path | None,
    insecure: bool,
    http: str | None,
    http_public: bool,
    as_json: bool,
) -> None:
    """Run a hub, through which the agents of many processes and hosts send each other messages.

    Prints where it listens and the hub id, which agents on other machines name as hub_id. Runs until SIGTERM or Ctrl-C.
    Exit codes: 0 stopped, 1 failed (the address is in use), 2 wrong usage or files.
    """
    try:
        made = WebSocketHub(
            host,
            port,
            None if identity is None else _identity(identity),
            allow=_allowed(allow) if allow else None,
            cert=cert,
            key=key,
            insecure=insecure,
        )
        watched = None if http is None else HttpServer(routes_of(made), Address.parse(http), public=http_public)
    except (ConvergeError, ValueError, OSError) as error:
        raise _Misused(error) from error
    try:
        asyncio.run(_run(made, watched, as_json))
    except OSError as error:
        raise _Failed(error) from error


def _identity(file: Path) -> Identity:
    if not file.exists():
        Identity.generate().save(file)
    return Identity.load(file)


def _allowed(entries: tuple[str, ...]) -> set[str]:
    """The ids given, and those in the files given; `ValueError` for what is neither."""
    ids: set[str] = set()
    for entry in entries:
        if _AGENT_ID.fullmatch(entry):
            ids.add(entry)
            continue
        for number, line in enumerate(Path(entry).read_text().splitlines(), 1):
            text = line.partition("#")[0].strip()
            if text and not _AGENT_ID.fullmatch(text):
                raise ValueError(f"{entry}, line {number}: {text[:80]!r} is no agent id, which is 64 hex digits")
            ids |= {text} - {""}
    return ids


async def _run(made: WebSocketHub, watched: HttpServer | None, as_json: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(made)
        said = {"uri": made.uri, "hub_id": made.hub_id}
        if watched is not None:
            said["http"] = (await stack.enter_async_context(watched)).url
        if as_json:
            click.echo(json.dumps(said))
        else:
            click.echo(f"listening on {made.uri}\nhub id       {made.hub_id}")
            if watched is not None:
                click.echo(f"health at    {watched.url}/health, /ready and /metrics")
        await stop.wait()
    if as_json:
        click.echo(json.dumps({"stopped": True, "metrics": made.metrics()}))
