"""Serving over streamable HTTP."""

from __future__ import annotations

import asyncio
import hmac
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import uvicorn
from mcp.server.transport_security import TransportSecuritySettings
from starlette.responses import PlainTextResponse

from converge.observability.errors import AddressError
from converge.observability.http import Address

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from mcp.server.lowlevel.server import Server
    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["serve_http"]

_MAX_CONNECTIONS = 1_000
_SHUTDOWN_SEC = 1


async def serve_http(
    server: Server[dict[str, Any]],
    address: Address,
    stop: asyncio.Event,
    on_ready: Callable[[str], object],
    *,
    token: str | None = None,
    public: bool = False,
    cert: Path | None = None,
    key: Path | None = None,
) -> None:
    """Serve any number of clients at `address` until `stop` is set; `on_ready` is called with the URL.

    With a `token`, requests need it as `Authorization: Bearer TOKEN`; with `cert` (and `key`) it is https.
    `AddressError` for an address that other
    machines reach, unless it is `public` and there is a token; an OSError when it cannot be listened on.
    """
    if not address.is_local and not (public and token):
        raise AddressError(
            str(address), "other machines reach it; use 127.0.0.1, or allow it with --http-public and --token-env"
        )
    local = [f"{host}:*" for host in ("127.0.0.1", "localhost", "[::1]")]
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=address.is_local,  # beyond, the token is what a stranger's page does not have
        allowed_hosts=local,
        allowed_origins=[f"http://{host}" for host in local],
    )
    app: ASGIApp = server.streamable_http_app(transport_security=security, host=address.host)
    if token is not None:
        app = _WithToken(app, token)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        limit_concurrency=_MAX_CONNECTIONS,
        lifespan="on",
        ssl_certfile=cert,
        ssl_keyfile=key,
        timeout_graceful_shutdown=_SHUTDOWN_SEC,
    )
    config.load()  # what is wrong with the certificate is said before anything listens
    listening = _listen(address)
    web = _Embedded(config)
    serving = asyncio.create_task(web.serve(sockets=[listening]))
    stopped = asyncio.create_task(stop.wait())
    host, port = listening.getsockname()[:2]
    scheme = "http" if cert is None else "https"
    try:
        while not web.started and not serving.done():  # noqa: ASYNC110  # uvicorn has no event for it
            await asyncio.sleep(0.01)
        if web.started:
            on_ready(f"{scheme}://{Address(host, port)}/mcp")
        await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        web.should_exit = True
        done, _ = await asyncio.wait({serving}, timeout=_SHUTDOWN_SEC + 2)
        if not done:
            serving.cancel()
            await asyncio.wait({serving})
        listening.close()
    if not serving.cancelled():
        serving.result()


def _listen(address: Address) -> socket.socket:
    try:
        family, _, _, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(place[:2], family=family)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror or error}") from error


class _Embedded(uvicorn.Server):
    """Leaves the signals to who runs it."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


class _WithToken:
    """Answers 401 to requests without the token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._expected = app, b"Bearer " + token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            if not hmac.compare_digest(given, self._expected):
                refused = PlainTextResponse("a bearer token is needed", 401, {"WWW-Authenticate": "Bearer"})
                await refused(scope, receive, send)
                return
        await self._app(scope, receive, send)
