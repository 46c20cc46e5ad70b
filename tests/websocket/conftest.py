"""Hubs on loopback, agents connected to them, and clients that speak the protocol by hand."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from websockets.asyncio.client import ClientConnection, connect

from converge.core.identity import Identity
from converge.core.message import Message
from converge.network.transport.websocket import WebSocketHub, WebSocketTransport
from converge.network.transport.websocket.handshake import NO_CERTIFICATE
from converge.network.transport.websocket.packets import MAX_PACKET_BYTES
from converge.network.transport.websocket.protocol import ClientEvent, ClientProtocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

ALICE, BOB, CAROL = (Identity.generate() for _ in range(3))


class ByHand:
    """An agent whose packets a test writes itself."""

    def __init__(self, connection: ClientConnection, protocol: ClientProtocol) -> None:
        self.connection, self.protocol = connection, protocol

    async def send(self, packet: bytes) -> None:
        await self.connection.send(packet)

    async def receive(self) -> ClientEvent:
        async with asyncio.timeout(5):
            return self.protocol.receive(await self.connection.recv())

    async def closed(self) -> int | None:
        """The code that the connection ends with."""
        async with asyncio.timeout(5):
            await self.connection.wait_closed()
        return self.connection.close_code


def raw(uri: str) -> connect:
    """A connection that has not begun the handshake."""
    return connect(uri, compression=None, max_size=MAX_PACKET_BYTES, proxy=None, close_timeout=1, ping_interval=None)


@asynccontextmanager
async def by_hand(hub: WebSocketHub, identity: Identity) -> AsyncIterator[ByHand]:
    async with raw(hub.uri) as connection:
        protocol = ClientProtocol(identity, NO_CERTIFICATE, None, MAX_PACKET_BYTES)
        await connection.send(protocol.hello(await connection.recv()))
        protocol.finish(await connection.recv())
        yield ByHand(connection, protocol)


@pytest.fixture
async def hub() -> AsyncIterator[WebSocketHub]:
    async with WebSocketHub() as hub:
        yield hub


class Agents:
    """Connects agents to a hub; all are stopped when the test is over."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def __call__(self, hub: WebSocketHub | str, identity: Identity, **options: object) -> WebSocketTransport:
        uri = hub if isinstance(hub, str) else hub.uri
        transport = WebSocketTransport(identity.fingerprint, uri, identity, **options)  # type: ignore[arg-type]  # of the test's choice
        return await self._stack.enter_async_context(transport)


@pytest.fixture
async def agents() -> AsyncIterator[Agents]:
    async with AsyncExitStack() as stack:
        yield Agents(stack)


def to(recipient: Identity, sender: Identity, n: int = 0, size: int = 0) -> Message:
    return Message(recipient=recipient.fingerprint, payload={"n": n, "fill": "x" * size}).sign(sender)


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop go on until `condition` holds; a condition that never does fails the test."""
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110  # what is waited for is a counter, which has no event
            await asyncio.sleep(0.005)


async def all_of(transport: WebSocketTransport, count: int) -> list[int]:
    """The numbers in the next `count` messages."""
    async with asyncio.timeout(20):
        return [(await transport.receive()).payload["n"] for _ in range(count)]


async def within(seconds: float, work: Awaitable[object]) -> None:
    async with asyncio.timeout(seconds):
        await work
