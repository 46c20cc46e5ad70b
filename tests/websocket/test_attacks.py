"""A hub under attack: half-open frames, silence, one who reads nothing, sizes, floods of connections."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from converge.core.identity import Identity
from converge.core.message import Message
from converge.network.transport.websocket import HubLimits, HubUnreachable, WebSocketHub, WebSocketTransport
from converge.network.transport.websocket.packets import encode_messages, encode_request
from tests.websocket.conftest import ALICE, BOB, CAROL, Agents, all_of, by_hand, to, until, within

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: hub\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
HALF_A_FRAME = b"\x82\xfe\x01\x00mask" + bytes(100)
QUICK = {"handshake_timeout_sec": 1.0, "frame_timeout_sec": 1.0, "stalled_timeout_sec": 1.0, "check_interval_sec": 0.1}


def memory() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Stranger:
    """A bare TCP connection to a hub."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, hub: WebSocketHub, said: bytes) -> Stranger:
        host, port = hub.uri.removeprefix("ws://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(said)
        return cls(reader, writer)

    async def closed(self) -> None:
        with suppress(ConnectionError):
            while await self._reader.read(65536):
                pass
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


async def round_trips(alice: WebSocketTransport, bob: WebSocketTransport, stop: asyncio.Event) -> list[float]:
    """The seconds that messages take from one to the other until `stop`."""
    taken = []
    while not stop.is_set():
        begin = time.perf_counter()
        await alice.send(to(BOB, ALICE))
        await bob.receive(10)
        taken.append(time.perf_counter() - begin)
        await asyncio.sleep(0.002)
    return taken


def p99(taken: list[float]) -> float:
    return sorted(taken)[int(len(taken) * 0.99)]


@pytest.mark.parametrize("size", [pytest.param("short"), pytest.param("long", marks=pytest.mark.soak)])
async def test_half_open_frames_and_silence_are_gone_soon_and_a_good_client_does_not_notice(
    agents: Agents, size: str
) -> None:
    halves, silent = (400, 200) if size == "long" else (100, 60)
    limits = HubLimits() if size == "long" else HubLimits(**QUICK)  # type: ignore[arg-type]  # all are floats
    async with WebSocketHub(limits=limits) as hub:
        alice, bob = await agents(hub, ALICE), await agents(hub, BOB)
        stop = asyncio.Event()
        good = asyncio.create_task(round_trips(alice, bob, stop))
        begin = time.monotonic()
        attackers = [await Stranger.connect(hub, UPGRADE + HALF_A_FRAME) for _ in range(halves)]
        attackers += [await Stranger.connect(hub, b"GET / HTTP/1.1\r\n" * (n % 2)) for n in range(silent)]
        await within(20, asyncio.gather(*(attacker.closed() for attacker in attackers)))
        assert time.monotonic() - begin < 10
        stop.set()
        assert p99(await good) < 0.2
        assert hub.counters["turned_away_unauthenticated"] > 0
        assert hub.metrics()["unauthenticated"] == 0


async def test_a_known_agent_that_does_not_end_its_frame_is_closed(agents: Agents) -> None:
    hub = WebSocketHub(limits=HubLimits(frame_timeout_sec=0.3, check_interval_sec=0.05))
    async with hub, by_hand(hub, ALICE) as alice, by_hand(hub, BOB) as bob:
        alice.connection.transport.write(HALF_A_FRAME)
        with pytest.raises(ConnectionClosed):
            await alice.receive()
        assert hub.counters["closed_frame_timeout"] == 1
        await bob.send(encode_messages([to(BOB, BOB).to_bytes()]))
        assert await bob.receive()


@pytest.mark.parametrize("size", [pytest.param("short"), pytest.param("long", marks=pytest.mark.soak)])
async def test_one_reader_that_stops_among_fifty_hurts_nobody_else(agents: Agents, size: str) -> None:
    broadcasts, readers, pause = (2000, 50, 0.01) if size == "long" else (250, 20, 0.002)
    limits = HubLimits(max_waiting_bytes=4 * 1024 * 1024, stalled_timeout_sec=10 if size == "long" else 600)
    async with WebSocketHub(limits=limits) as hub, AsyncExitStack() as stack:
        alice = await agents(hub, ALICE)
        peers = [await agents(hub, Identity.generate()) for _ in range(readers)]
        stopped = await stack.enter_async_context(by_hand(hub, BOB))
        stopped.connection.transport.pause_reading()
        got: list[float] = []

        async def read(transport: WebSocketTransport) -> None:
            for _ in range(broadcasts):
                message = await transport.receive(30)
                got.append(time.monotonic() - message.payload["at"])

        before = memory()
        reading = [asyncio.create_task(read(peer)) for peer in peers]
        for _ in range(broadcasts):
            payload = {"at": time.monotonic(), "fill": b"x" * 50_000}
            await alice.send(Message(payload=payload).sign(ALICE))
            await asyncio.sleep(pause)
        await asyncio.gather(*reading)
        assert len(got) == broadcasts * readers, "nobody else lost anything"
        assert p99(got) < (0.2 if size == "long" else 2)
        assert memory() - before < 100_000_000
        metrics = hub.metrics()
        if size == "long":
            assert metrics["closed_stalled"] == 1
        else:
            assert metrics["dropped_outbox_bytes"] > 0
            carried = metrics["carried"] - broadcasts * readers
            assert carried + metrics["dropped_outbox_bytes"] == broadcasts, "what is counted is what was lost"
        stopped.connection.transport.abort()


async def test_a_reader_that_takes_nothing_is_disconnected_and_what_waited_is_counted(agents: Agents) -> None:
    limits = HubLimits(stalled_timeout_sec=0.5, check_interval_sec=0.1)
    async with WebSocketHub(limits=limits) as hub, AsyncExitStack() as stack:
        alice = await agents(hub, ALICE)
        stopped = await stack.enter_async_context(by_hand(hub, BOB))
        stopped.connection.transport.pause_reading()
        sent = 0
        while not hub.counters["closed_stalled"]:
            await alice.send(Message(payload={"fill": b"x" * 100_000}).sign(ALICE))
            sent += 1
            await asyncio.sleep(0.01)
        await until(lambda: BOB.fingerprint not in hub.peers)
        counted = hub.counters["dropped_disconnected"] + hub.counters["lost_unconfirmed"]
        dropped = hub.counters["dropped_outbox_bytes"] + hub.counters["dropped_outbox_messages"]
        await until(lambda: hub.counters["carried"] + dropped + hub.counters["no_audience"] >= sent)
        assert counted + dropped + hub.counters["no_audience"] == sent, (
            "he received nothing, and that is what is counted"
        )
        stopped.connection.transport.abort()


@pytest.mark.parametrize(
    ("head", "code"),
    [
        (b"\x82\x80mask", 4400),
        (b"\x82\x81mask\x00", 4400),
        (b"\x82\xff" + (262_144 + 17).to_bytes(8, "big") + b"mask", 1009),
        (b"\x82\xff" + (2**31).to_bytes(8, "big") + b"mask", 1009),
        (b"\x82\xff" + (2**63 - 1).to_bytes(8, "big") + b"mask", 1009),
        (b"\x81\x81mask\x00", 4400),
        (b"\xc2\x81mask\x00", 1002),
        (b"\x83\x81mask\x00", 1002),
        (b"\x02\x81mask\x00" + b"\x00\x81mask\x00" * 5000, 1009),
    ],
    ids=[
        "empty",
        "one byte",
        "limit and one",
        "2 GiB",
        "8 EiB",
        "text",
        "compressed",
        "unknown opcode",
        "5000 fragments",
    ],
)
async def test_hostile_frames_close_the_connection_that_sent_them(head: bytes, code: int) -> None:
    before = memory()
    hub = WebSocketHub(limits=HubLimits(close_timeout_sec=0.2))
    async with hub, by_hand(hub, ALICE) as alice, by_hand(hub, BOB) as bob:
        alice.connection.transport.write(head)
        with pytest.raises(ConnectionClosed) as closed:
            await alice.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == code
        await bob.send(encode_messages([to(BOB, BOB).to_bytes()]))
        assert await bob.receive()
    assert memory() - before < 50_000_000


async def test_a_message_of_the_limit_passes(hub: WebSocketHub, agents: Agents) -> None:
    alice, bob = await agents(hub, ALICE), await agents(hub, BOB)
    room = 262_144 - len(Message(payload={"x": b"x" * 200_000}).sign(ALICE).to_bytes()) + 200_000
    message = Message(payload={"x": b"x" * room}).sign(ALICE)
    assert len(message.to_bytes()) == 262_144
    await alice.send(message)
    assert await bob.receive_verified(timeout=5) == message


@pytest.mark.parametrize(
    ("packets", "code"),
    [
        ([b"\x06\x93\x01\xa7destroy\x90"], 4400),
        ([b"\x06\x93\x01\xa9subscribe\x91\xc0"], 4400),
        ([b"\x06\x93\x01\xa7present\x91\x01"], 4400),
        ([b"\x05" + bytes(7) + b"\x01"], 4400),
        ([encode_request(n, "subscribe", [[f"{n}.{each}", {}, "1"] for each in range(600)]) for n in range(2)], 4429),
    ],
    ids=["no operation", "no topic", "no id", "confirms what was not sent", "too many subscriptions"],
)
async def test_what_an_agent_must_not_say_closes_its_connection(
    hub: WebSocketHub, packets: list[bytes], code: int
) -> None:
    async with by_hand(hub, ALICE) as alice:
        for packet in packets:
            await alice.send(packet)
        assert await alice.closed() == code


async def test_one_who_asks_and_never_reads_the_answers_is_closed() -> None:
    hub = WebSocketHub(limits=HubLimits(max_waiting_bytes=100_000, close_timeout_sec=0.2))
    async with hub, by_hand(hub, ALICE) as alice:
        alice.connection.transport.pause_reading()
        ask = encode_request(1, "present", [ALICE.fingerprint] * 1000)

        async def ask_on() -> None:
            while True:
                await alice.send(ask)
                await asyncio.sleep(0)

        with pytest.raises(ConnectionClosed):
            await within(20, ask_on())
        assert hub.counters["closed_too_slow"] == 1


async def test_forged_messages_are_dropped_and_good_ones_in_between_arrive(hub: WebSocketHub, agents: Agents) -> None:
    bob = await agents(hub, BOB)
    async with by_hand(hub, ALICE) as alice:
        good, n = [], 0
        for n in range(200):
            good.append(to(BOB, ALICE, n))
            bad = [
                to(BOB, CAROL).to_bytes(),
                b"\x92\xc4",
                os.urandom(50),
                Message(recipient=BOB.fingerprint).to_bytes(),
            ]
            await alice.send(encode_messages([bad[n % 4], good[-1].to_bytes(), bad[(n + 1) % 4]]))
        assert await all_of(bob, 200) == list(range(200))
    assert hub.counters["refused_sender"] == 200
    assert hub.counters["refused_malformed"] == 200


async def test_a_full_hub_keeps_whom_it_knows_and_a_new_agent_is_told_that_it_is_busy(agents: Agents) -> None:
    async with WebSocketHub(limits=HubLimits(max_connections=2)) as hub:
        alice, _ = await agents(hub, ALICE), await agents(hub, BOB)
        with pytest.raises(HubUnreachable, match="it may have too many"):
            await agents(hub, CAROL, connect_timeout_sec=0.3)
        assert hub.counters["turned_away_total"] > 0
        await alice.send(to(ALICE, ALICE, 1))
        assert await all_of(alice, 1) == [1]


@pytest.mark.parametrize("count", [pytest.param(300), pytest.param(2000, marks=pytest.mark.soak)])
async def test_many_agents_connect_at_once_and_are_held(count: int) -> None:
    async with WebSocketHub(limits=HubLimits(max_connections=count + 100)) as hub, AsyncExitStack() as stack:
        identities = [Identity.generate() for _ in range(count)]
        transports = [
            WebSocketTransport(each.fingerprint, hub.uri, each, connect_timeout_sec=60) for each in identities
        ]
        enough = asyncio.Semaphore(200)  # more than the hub takes unauthenticated: those who are dropped come again

        async def start(transport: WebSocketTransport) -> None:
            async with enough:
                await stack.enter_async_context(transport)

        await asyncio.gather(*map(start, transports))
        assert len(hub.peers) == count
        for _ in range(2):
            for n, transport in enumerate(transports):
                await transport.send(to(identities[n - 1], identities[n], n))
            numbers = [(await transport.receive(30)).payload["n"] for transport in transports]
            assert numbers == [*range(1, count), 0]
        assert all(transport.connected and not transport.counters for transport in transports)
        assert len(hub.peers) == count
