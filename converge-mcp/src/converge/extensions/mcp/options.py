"""The options of the tool plugin `mcp`."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from attrs import Attribute, Factory, field, frozen, validators

from converge.observability.http import Address
from converge.plugins import Secret

__all__ = ["MCPToolsOptions"]

_positive: Final = validators.and_(validators.gt(0.0), validators.lt(float("inf")))


def _check_url(options: MCPToolsOptions, _: Attribute[str | None], url: str | None) -> None:
    if url is None:
        return
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"is no URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(f"is an http or https URL with a host, such as https://tools.example/mcp, not {url!r:.100}")
    if parts.username is not None or parts.password is not None:
        raise ValueError('holds a user name or password; write headers = { Authorization = { env = "NAME" } } instead')
    if parts.scheme == "http" and not Address(parts.hostname, 0).is_local and not options.insecure:
        raise ValueError("is not encrypted and leaves this machine; use https, or set insecure = true")


@frozen(kw_only=True)
class MCPToolsOptions:
    """One MCP server: either `command`, a program that speaks MCP on its standard streams, or `url` (streamable HTTP).

    `command` runs with `args`, in `cwd`, with `env` and of this process's environment only what a program needs (PATH,
    HOME, USER, SHELL, TERM, LOGNAME). `headers` go with every request to `url`. Both take secrets: `{ env = "NAME" }`.
    `insecure` allows plain http to another machine. `prefix` goes before the names of the tools; `allow` and `deny`
    name tools as the server does, and `descriptions` has your words for them in the place of the server's.
    `timeout_sec` is for one call, `open_timeout_sec` for starting and being told the tools. A message of the server
    takes at most `max_message_bytes`.
    """

    command: str | None = field(default=None, validator=validators.optional(validators.min_len(1)))
    args: list[str] = Factory(list)
    env: dict[str, str | Secret] = Factory(dict)
    cwd: Path | None = None
    insecure: bool = False
    url: str | None = field(default=None, validator=_check_url)
    headers: dict[str, str | Secret] = Factory(dict)
    prefix: str = field(default="", validator=validators.max_len(64))
    allow: list[str] | None = None
    deny: list[str] = Factory(list)
    descriptions: dict[str, str] = Factory(dict)
    timeout_sec: float = field(default=60.0, validator=_positive)
    open_timeout_sec: float = field(default=30.0, validator=_positive)
    max_message_bytes: int = field(default=8 * 1024 * 1024, validator=validators.ge(1024))

    def __attrs_post_init__(self) -> None:
        if (self.command is None) == (self.url is None):
            raise ValueError("name the server: either command (with args) or url")
        given = {"args": self.args, "env": self.env, "cwd": self.cwd} if self.url else {"headers": self.headers}
        if wrong := [name for name, value in given.items() if value]:
            raise ValueError(f"{', '.join(wrong)} is for a server with {'command' if self.url else 'url'}")

    @property
    def label(self) -> str:
        """How the log and error texts name the server: no argument, no query, no secret."""
        if self.command is not None:
            return f"MCP server {Path(self.command).name!r}"
        parts = urlsplit(self.url or "")
        return f"MCP server {parts.scheme}://{parts.netloc}{parts.path}"
