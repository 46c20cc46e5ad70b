"""A small HTTP server for what watches over a process: GET and HEAD of a few paths, and nothing else.

It has no authentication and no TLS, so it listens on this machine unless it is told that the network is trusted.
Requests are parsed by h11 (RFC 9112). A connection is closed after its answer.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeAlias

from converge.observability.errors import AddressError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import TracebackType

    import h11

__all__ = [
    "MAX_CONNECTIONS",
    "MAX_REQUEST_BYTES",
    "REQUEST_TIMEOUT_SEC",
    "Address",
    "HttpServer",
    "Response",
    "Route",
]

MAX_REQUEST_BYTES: Final = 8_192
"""The most that the line and the headers of a request may take."""
MAX_CONNECTIONS: Final = 64
"""How many may be open at one time; a further one is answered with 503 and closed."""
REQUEST_TIMEOUT_SEC: Final = 5.0
"""How long a connection has to send its request, and to take the answer."""

_ANSWER_TIMEOUT_SEC = 10.0
_ALLOWED = ("GET", "HEAD")
_PHRASES = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
_log = logging.getLogger(__name__)


class Response(NamedTuple):
    """What a route answers."""

    body: str
    status: int = 200
    content_type: str = "text/plain; charset=utf-8"


Route: TypeAlias = "Callable[[], Awaitable[Response]]"
"""Gives the answer for its path. One that raises is a 500 without details; the log has them."""


class Address(NamedTuple):
    """Where to listen. Port 0 takes a free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address in `HOST:PORT`, `[IPV6]:PORT`, or `:PORT` and `PORT` on 127.0.0.1; else `AddressError`."""
        host, _, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise AddressError(text, "write an IPv6 address in brackets: [::1]:9464")
        if not port.isdecimal() or not port.isascii() or int(port) > 65_535:
            raise AddressError(text, "write HOST:PORT, with a port from 0 to 65535")
        return cls(host or "127.0.0.1", int(port))

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class HttpServer:
    """Serves `routes` (path → route) at `address`, from the start of an `async with` block to its end.

    `AddressError` for an address that other machines reach, unless `public` says that they may; an `OSError` that names
    the address when it cannot be listened on. `url` is where it is. For one event loop.
    """

    def __init__(self, routes: Mapping[str, Route], address: Address, *, public: bool = False) -> None:
        if not address.is_local and not public:
            raise AddressError(
                str(address),
                "other machines reach it, and anybody who does may read what agents do; listen on 127.0.0.1, behind a "
                "proxy that asks who it is, or say that the network is trusted (public)",
            )
        self._routes, self._address = dict(routes), address
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where it listens, with the port it has; `RuntimeError` while it does not."""
        if self._server is None:
            raise RuntimeError("the server does not listen; enter its block first")
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"http://{Address(host, port)}"

    async def __aenter__(self) -> Self:
        try:
            self._server = await asyncio.start_server(
                self._serve, self._address.host, self._address.port, limit=MAX_REQUEST_BYTES
            )
        except OSError as error:
            raise OSError(error.errno, f"cannot listen on http://{self._address}: {error.strerror or error}") from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
            for connection in self._connections:
                connection.cancel()
            if self._connections:
                await asyncio.wait(self._connections)
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # a connection is served in a task
        self._connections.add(task)
        try:
            await self._answer(reader, writer)
        except (ConnectionError, TimeoutError) as error:
            _log.debug("a connection has broken: %r", error)
        except asyncio.CancelledError:
            pass  # the server ends; nobody else cancels this
        finally:
            self._connections.discard(task)
            writer.transport.abort()  # what was to be sent is sent by now, or never will be

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        import h11

        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST_BYTES)
        if len(self._connections) > MAX_CONNECTIONS:
            response, head = _error(503), False
        else:
            response, head = await self._response(connection, reader)
        body = response.body.encode()
        headers = [
            ("Content-Type", response.content_type),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("Connection", "close"),
            *([("Allow", ", ".join(_ALLOWED))] if response.status == 405 else ()),
        ]
        head_bytes = f"HTTP/1.1 {response.status} {_PHRASES[response.status]}\r\n".encode() + b"".join(
            f"{name}: {value}\r\n".encode() for name, value in headers
        )
        writer.write(head_bytes + b"\r\n" + (b"" if head else body))
        async with asyncio.timeout(REQUEST_TIMEOUT_SEC):
            await writer.drain()
            writer.write_eof()
            while await reader.read(MAX_REQUEST_BYTES):  # until the other side has it: a close now could lose it
                pass

    async def _response(self, connection: h11.Connection, reader: asyncio.StreamReader) -> tuple[Response, bool]:
        """What to answer, and whether without its body."""
        import h11

        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_SEC):
                request = await _request(connection, reader)
        except TimeoutError:
            return _error(408), False
        except h11.RemoteProtocolError as error:
            return _error(431 if error.error_status_hint == 431 else 400), False
        if request is None:
            raise ConnectionResetError("it was closed before it had asked")
        method, path = request.method.decode("ascii"), request.target.decode("ascii", "replace").partition("?")[0]
        route = self._routes.get(path)
        if route is None:
            return Response(f"there is {', '.join(sorted(self._routes))}\n", 404), method == "HEAD"
        if method not in _ALLOWED:
            return _error(405), False
        return await _routed(path, route), method == "HEAD"


async def _request(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    import h11

    received = 0
    while True:
        event: Any = connection.next_event()
        if event is h11.NEED_DATA:
            data = await reader.read(MAX_REQUEST_BYTES)
            received += len(data)
            if received > MAX_REQUEST_BYTES:
                raise h11.RemoteProtocolError("the request is too large", error_status_hint=431)
            connection.receive_data(data)
        elif isinstance(event, h11.Request):
            return event
        else:
            return None


async def _routed(path: str, route: Route) -> Response:
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_SEC):
            return await route()
    except Exception:  # noqa: BLE001  # who asks learns that it failed, and the log why
        _log.exception("answering %s failed", path)
        return _error(500)


def _error(status: int) -> Response:
    return Response(f"{_PHRASES[status]}\n", status)
