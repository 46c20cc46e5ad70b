"""What messages through the WebSocket hub cost, as ratios to what they stand on, both measured in turn in one run.

Run: `python benchmarks/websocket.py [--rounds N] [--only WORD]`. Everything runs in one process and one event loop over
loopback. A figure is the median over the rounds; in each round both sides do the same work, one right after the other.
Exit code 1 when a bar is missed.

- the hub: messages a second that it forwards in packets of 64, as transports send them under load, against a relay on
  the bare library that forwards one message a frame; the same bare clients at both ends, 512 messages in flight;
- one in flight: a signed message and its signed answer, each verified, between two transports, against 1.5 round trips
  through the bare relay and 2 times sign and verify, as long as these take between the frames of that relay;
- streaming: signed messages a second from transport to transport, 64 under one signature, each verified on its own,
  against the floor of one signature a message with one core that signs and another that verifies. Ours has one core
  for the sender, the hub and the receiver together;
- a topic message among 2,000 subscriptions of others against one among 20.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from figures import Figure, header, report, summary
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from converge.core import ed25519
from converge.core.identity import Identity
from converge.core.message import Message, sign_batch
from converge.core.topic import Topic
from converge.network.transport.websocket import WebSocketHub, WebSocketTransport
from converge.network.transport.websocket.handshake import NO_CERTIFICATE
from converge.network.transport.websocket.packets import MAX_PACKET_BYTES, Kind, decode_messages, encode_messages
from converge.network.transport.websocket.protocol import ClientProtocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

ALICE, BOB = Identity.generate(), Identity.generate()
PAYLOAD = {"kind": "bid", "task": "t-4711", "amount": 12.5, "note": "x" * 40, "tags": ["a", "b"], "n": 42}
FORWARDED, STREAMED, ROUND_TRIPS, SIGNATURES = 8_192, 6_400, 400, 400
IN_FLIGHT, PACKET = 512, 64


def message(n: int = 0) -> Message:
    return Message(recipient=BOB.fingerprint, payload=PAYLOAD | {"n": n})


def raw(uri: str) -> connect:
    return connect(uri, compression=None, max_size=MAX_PACKET_BYTES, proxy=None, max_queue=16, ping_interval=None)


@asynccontextmanager
async def relay() -> AsyncIterator[str]:
    """A relay as anybody would write it: what one connection says goes to the other one, frame by frame."""
    connections: list[ServerConnection] = []

    async def handle(connection: ServerConnection) -> None:
        connections.append(connection)
        async for frame in connection:
            other = connections[0] if connection is connections[-1] else connections[-1]
            await other.send(frame)

    async with serve(handle, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def proved(hub: WebSocketHub, identity: Identity) -> AsyncIterator[ClientConnection]:
    """A bare client that the hub knows."""
    async with raw(hub.uri) as connection:
        protocol = ClientProtocol(identity, NO_CERTIFICATE, hub.hub_id, MAX_PACKET_BYTES)
        await connection.send(protocol.hello(await connection.recv()))
        protocol.finish(await connection.recv())
        yield connection


async def pumped(
    source: ClientConnection, sink: ClientConnection, frames: list[bytes], each: int, count: Callable[[bytes], int]
) -> float:
    """Messages a second from `source` to `sink`, whose frames hold `each` of them, with `IN_FLIGHT` on the way."""
    room = asyncio.Semaphore(IN_FLIGHT // each)
    begin = time.perf_counter()

    async def pump() -> None:
        for frame in frames:
            await room.acquire()
            await source.send(frame)

    async def drain() -> None:
        got = released = 0
        while got < len(frames) * each:
            got += count(await sink.recv(decode=False))
            while released + each <= got:
                released += each
                room.release()

    await asyncio.gather(pump(), drain())
    return len(frames) * each / (time.perf_counter() - begin)


def count_packet(packet: bytes) -> int:
    return len(decode_messages(packet)) if packet[0] == Kind.MESSAGES else 0


async def forwarding() -> tuple[float, float]:
    frame = message().sign(ALICE).to_bytes()
    async with relay() as uri, raw(uri) as sink, raw(uri) as source:
        theirs = await pumped(source, sink, [frame] * FORWARDED, 1, lambda _: 1)
    packet = encode_messages([frame] * PACKET)
    async with WebSocketHub() as hub, proved(hub, BOB) as sink, proved(hub, ALICE) as source:
        ours = await pumped(source, sink, [packet] * (FORWARDED // PACKET), PACKET, count_packet)
        assert hub.counters == {"carried": FORWARDED}
    return ours, theirs


def signing() -> tuple[float, float]:
    """Seconds of a signature and of its verification, of the kind the library uses here."""
    data = b"converge/message/v1\0" + bytes(32)
    begin = time.perf_counter()
    for _ in range(SIGNATURES):
        signature = ALICE.sign(data)
    between = time.perf_counter()
    for _ in range(SIGNATURES):
        assert ed25519.verify(ALICE.public_key, signature, data)
    return (between - begin) / SIGNATURES, (time.perf_counter() - between) / SIGNATURES


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[WebSocketTransport, WebSocketTransport]]:
    async with (
        WebSocketHub() as hub,
        WebSocketTransport(ALICE.fingerprint, hub.uri, ALICE) as alice,
        WebSocketTransport(BOB.fingerprint, hub.uri, BOB) as bob,
    ):
        yield alice, bob
        assert not alice.counters
        assert not bob.counters


async def one_in_flight() -> tuple[float, float]:
    """Microseconds of a round trip here, and of what it is compared with."""

    async def answer(bob: WebSocketTransport) -> None:
        for n in range(ROUND_TRIPS):
            assert await bob.receive_verified() is not None
            await bob.send(Message(recipient=ALICE.fingerprint, payload=PAYLOAD | {"n": n}).sign(BOB))

    async with pair() as (alice, bob):
        answering = asyncio.create_task(answer(bob))
        begin = time.perf_counter()
        for n in range(ROUND_TRIPS):
            await alice.send(message(n).sign(ALICE))
            assert await alice.receive_verified() is not None
        ours = (time.perf_counter() - begin) / ROUND_TRIPS
        await answering

    bare, signed = await relayed(signed=False), await relayed(signed=True)
    return ours * 1e6, (1.5 * bare + signed - bare) * 1e6


async def relayed(*, signed: bool) -> float:
    """Seconds of a round trip of one frame through the bare relay; both ends sign and verify a root when `signed`."""
    frame, root = message().sign(ALICE).to_bytes(), b"converge/message/v1\0" + bytes(32)

    def work(identity: Identity, n: int) -> None:
        if signed:
            said = root + n.to_bytes(4, "big")
            assert ed25519.verify(identity.public_key, identity.sign(said), said)

    async def echo(connection: ClientConnection) -> None:
        for n in range(ROUND_TRIPS):
            received = await connection.recv()
            work(BOB, n)
            await connection.send(received)

    async with relay() as uri, raw(uri) as there, raw(uri) as here:
        echoing = asyncio.create_task(echo(there))
        begin = time.perf_counter()
        for n in range(ROUND_TRIPS):
            await here.send(frame)
            await here.recv()
            work(ALICE, n)
        await echoing
        return (time.perf_counter() - begin) / ROUND_TRIPS


async def streaming() -> tuple[float, float]:
    async def send(alice: WebSocketTransport) -> None:
        for start in range(0, STREAMED, PACKET):
            for each in sign_batch([message(n) for n in range(start, start + PACKET)], ALICE):
                await alice.send(each)

    async def receive(bob: WebSocketTransport) -> None:
        for _ in range(STREAMED):
            assert await bob.receive_verified() is not None

    async with pair() as (alice, bob):
        begin = time.perf_counter()
        await asyncio.gather(send(alice), receive(bob))
        ours = STREAMED / (time.perf_counter() - begin)
    return ours, 1 / max(signing())


async def publishing() -> tuple[float, float]:
    """Microseconds of a topic message with one subscriber, among many subscriptions of others and among few."""
    taken = []
    for others in (2_000, 20):
        async with (
            WebSocketHub() as hub,
            WebSocketTransport(ALICE.fingerprint, hub.uri, ALICE) as alice,
            WebSocketTransport(BOB.fingerprint, hub.uri, BOB) as bob,
            AsyncExitStack() as stack,
        ):
            for n, identity in enumerate([Identity.generate(), Identity.generate()]):
                transport = WebSocketTransport(identity.fingerprint, hub.uri, identity)
                transport.subscriptions.update(Topic(f"other {n}.{each}") for each in range(others // 2))
                await stack.enter_async_context(transport)
            await bob.subscribe(Topic("mine"))
            frames = [Message(topics=[Topic("mine")], payload=PAYLOAD).sign(ALICE) for _ in range(STREAMED // 4)]
            begin = time.perf_counter()
            sending = asyncio.create_task(send_all(alice, frames))
            for _ in frames:
                await bob.receive()
            taken.append((time.perf_counter() - begin) / len(frames) * 1e6)
            await sending
    return taken[0], taken[1]


async def send_all(transport: WebSocketTransport, messages: list[Message]) -> None:
    for each in messages:
        await transport.send(each)


CASES: list[tuple[str, str, float, bool, Callable[[], Coroutine[None, None, tuple[float, float]]]]] = [
    ("hub / relay of one message a frame", "messages/s", 3.0, False, forwarding),
    ("one in flight / 1.5 relay round trips, 2 sign + verify", "µs", 1.0, True, one_in_flight),
    ("streaming, signed / floor of one signature a message", "messages/s", 5.0, False, streaming),
    ("topic among 2,000 subscriptions / among 20", "µs", 1.5, True, publishing),
]


def measure(rounds: int, only: str) -> list[Figure]:
    figures = []
    for name, unit, bar, at_most, case in CASES:
        if only in name:
            taken = [asyncio.run(case()) for _ in range(rounds + 1)][1:]
            ours, theirs = (statistics.median(side) for side in zip(*taken, strict=True))
            ratio = statistics.median(here / there for here, there in taken)
            figures.append(Figure(f"{unit}, {name}", ours, theirs, ratio, bar, at_most))
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", metavar="WORD", help="run the cases whose names have this in them")
    arguments = parser.parse_args()
    figures = measure(arguments.rounds, arguments.only)
    print(header("", 70))
    report(figures, 70)
    return summary("websocket", figures)


if __name__ == "__main__":
    sys.exit(main())
