"""The small HTTP server: a few paths, and nothing that anybody sends makes it answer late, or twice, or not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from converge.observability import http as module
from converge.observability.errors import AddressError
from converge.observability.http import MAX_CONNECTIONS, MAX_REQUEST_BYTES, Address, HttpServer, Response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PATIENCE_SEC = 30.0
LOCAL = Address("127.0.0.1", 0)


async def well() -> Response:
    return Response("well\n")


async def broken() -> Response:
    raise RuntimeError("the secret is 42")


async def slow() -> Response:
    await asyncio.sleep(600)
    raise AssertionError("not reached")


@pytest.fixture
async def server() -> AsyncIterator[HttpServer]:
    async with HttpServer({"/well": well, "/broken": broken, "/slow": slow}, LOCAL) as server:
        yield server


async def connected(server: HttpServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = server.url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


async def sent(server: HttpServer, request: bytes, *, end: bool = False) -> bytes:
    """All that comes back, up to the end of the connection."""
    reader, writer = await connected(server)
    try:
        writer.write(request)
        if end:
            writer.write_eof()
        async with asyncio.timeout(PATIENCE_SEC):
            return await reader.read()
    finally:
        writer.close()


def get(path: str, method: str = "GET", headers: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode()


def status(answer: bytes) -> int:
    return int(answer.split()[1])


async def test_a_path_is_answered_and_the_connection_closed(server: HttpServer) -> None:
    answer = await sent(server, get("/well?verbose=1"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert (status(answer), body) == (200, b"well\n")
    for header in (b"Content-Length: 5", b"Connection: close", b"Cache-Control: no-store"):
        assert header in head


async def test_head_is_the_same_without_the_body(server: HttpServer) -> None:
    answer = await sent(server, get("/well", "HEAD"))
    assert answer.endswith(b"Connection: close\r\n\r\n")
    assert b"Content-Length: 5" in answer


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (get("/other"), 404),
        (get("/well/"), 404),
        (get("/../well"), 404),
        (get("/well", "POST", "Content-Length: 3\r\n") + b"abc", 405),
        (get("/well", "DELETE"), 405),
        (get("/broken"), 500),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /well HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"\x16\x03\x01\x02\x00\x01" + bytes(100), 400),  # TLS
        (get("/well", headers="X: " + "a" * MAX_REQUEST_BYTES + "\r\n"), 431),
        (b"GET /" + b"a" * MAX_REQUEST_BYTES + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"GET /well HTTP/1.1\r\nHost: x\r\nX" + b"\x00" * 20 + b": y\r\n\r\n", 400),
    ],
)
async def test_everything_else_is_refused_with_its_code(server: HttpServer, request_: bytes, code: int) -> None:
    answer = await sent(server, request_)
    assert status(answer) == code
    assert b"42" not in answer.partition(b"\r\n\r\n")[2]
    assert (b"Allow: GET, HEAD" in answer) == (code == 405)
    assert status(await sent(server, get("/well"))) == 200


async def test_who_sends_no_request_in_time_is_told_so(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUEST_TIMEOUT_SEC", 0.2)
    assert status(await sent(server, b"GET /well HTTP/1.1\r\nHo")) == 408
    assert await sent(server, b"", end=True) == b""


async def test_a_route_that_hangs_is_given_up(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ANSWER_TIMEOUT_SEC", 0.1)
    assert status(await sent(server, get("/slow"))) == 500


async def test_more_connections_than_it_takes_are_turned_away_and_others_served_later(server: HttpServer) -> None:
    idle = [await connected(server) for _ in range(MAX_CONNECTIONS)]
    while len(server._connections) < MAX_CONNECTIONS:  # noqa: ASYNC110  # it has no event
        await asyncio.sleep(0.001)
    assert status(await sent(server, get("/well"))) == 503
    for _, writer in idle:
        writer.close()
    async with asyncio.timeout(PATIENCE_SEC):
        while status(await sent(server, get("/well"))) != 200:
            pass


async def test_leaving_closes_what_is_open_and_frees_the_port() -> None:
    async with HttpServer({"/well": well}, LOCAL) as server:
        reader, writer = await connected(server)
        address = Address.parse(server.url.removeprefix("http://"))
        await asyncio.sleep(0)
    assert await reader.read() == b""
    writer.close()
    async with HttpServer({"/well": well}, address) as server:
        assert status(await sent(server, get("/well"))) == 200
        with pytest.raises(OSError, match=rf"cannot listen on http://{address}: "):
            await HttpServer({}, address).__aenter__()


def test_it_has_no_url_while_it_does_not_listen() -> None:
    with pytest.raises(RuntimeError, match="does not listen"):
        _ = HttpServer({}, LOCAL).url


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_an_address_that_other_machines_reach_has_to_be_allowed(host: str) -> None:
    with pytest.raises(AddressError, match="other machines reach it"):
        HttpServer({}, Address(host, 80))
    HttpServer({}, Address(host, 80), public=True)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", Address("127.0.0.1", 80)),
        ("localhost:0", Address("localhost", 0)),
        ("[::1]:9464", Address("::1", 9464)),
        (":9464", Address("127.0.0.1", 9464)),
        ("9464", Address("127.0.0.1", 9464)),
    ],
)
def test_an_address_is_read_and_written(text: str, address: Address) -> None:
    assert Address.parse(text) == address == Address.parse(str(address))
    assert address.is_local


@pytest.mark.parametrize("text", ["", "localhost", "localhost:", "x:65536", "x:-1", "::1:80", "x:٣"])
def test_what_is_no_address_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(AddressError, match=r"HOST:PORT|in brackets"):
        Address.parse(text)
