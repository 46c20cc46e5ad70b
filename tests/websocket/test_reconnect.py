"""Connections that break: a proxy cuts them after any byte, hubs go away and come back."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import pytest

from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.topic import Topic
from converge.network.errors import Undeliverable
from converge.network.transport.websocket import HubRefused, HubUnreachable, WebSocketHub, WebSocketTransport
from tests.websocket.conftest import ALICE, BOB, Agents, all_of, to, until, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Proxy:
    """Passes bytes on to the hub, and cuts its next connection after so many of one direction."""

    def __init__(self, hub: WebSocketHub) -> None:
        self._host, self._port = hub.uri.removeprefix("ws://").split(":")
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.cut_after: int | None = None
        self.upwards = True
        self.cuts = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.uri = f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *failure: object) -> None:
        self._server.close()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()

    def cut(self) -> None:
        """Break what is connected now."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        upper_reader, upper_writer = await asyncio.open_connection(self._host, int(self._port))
        self._writers.add(upper_writer)
        up = self._copy(reader, upper_writer, self.upwards)
        down = self._copy(upper_reader, writer, not self.upwards)
        with suppress(ConnectionError):
            await asyncio.gather(up, down)
        for each in (writer, upper_writer):
            each.transport.abort()
            self._writers.discard(each)
            with suppress(ConnectionError):
                await each.wait_closed()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counted: bool) -> None:
        while data := await reader.read(65536):
            if counted and self.cut_after is not None:
                if len(data) >= self.cut_after:
                    writer.write(data[: self.cut_after])
                    self.cut_after = None
                    self.cuts += 1
                    await asyncio.sleep(0)
                    raise ConnectionResetError
                self.cut_after -= len(data)
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError


@pytest.fixture
async def proxy(hub: WebSocketHub) -> AsyncIterator[Proxy]:
    async with Proxy(hub) as proxy:
        yield proxy


async def cut_once(hub: WebSocketHub, proxy: Proxy, n: int, *, at_sender: bool, upwards: bool) -> None:
    """Six messages through a connection that breaks after byte n: each arrives once, or is counted; none twice."""
    alice_id, bob_id = Identity.generate(), Identity.generate()
    proxy.upwards = upwards
    uris = (proxy.uri, hub.uri) if at_sender else (hub.uri, proxy.uri)
    alice = WebSocketTransport(alice_id.fingerprint, uris[0], alice_id)
    bob = WebSocketTransport(bob_id.fingerprint, uris[1], bob_id)
    async with bob, alice:
        lost_before = hub.counters["lost_unconfirmed"] + hub.counters["dropped_disconnected"]
        await alice.send(to(bob_id, alice_id, 0))
        assert await all_of(bob, 1) == [0]
        proxy.cut_after, cuts = n, proxy.cuts
        refused = 0
        for number in range(1, 7):
            try:
                await alice.send(to(bob_id, alice_id, number))
            except Undeliverable:
                refused += 1
            await asyncio.sleep(0)
        await until(lambda: proxy.cuts > cuts or len(bob._inbox or ()) == 6)
        proxy.cut_after = None
        if proxy.cuts > cuts:
            broken = alice if at_sender else bob
            await until(lambda: broken.counters["reconnected"] == 1)
        while True:  # the last message arrives when the connection is there again
            with suppress(Undeliverable):
                await alice.send(to(bob_id, alice_id, 7))
                break
        got: list[int] = []
        while not got or got[-1] != 7:
            message = await bob.receive_verified(timeout=10)
            assert message is not None, "never altered, never twice"
            got.append(message.payload["n"])
        assert got == sorted(set(got)), "each at most once, and in order"
        counted = alice.counters["messages_lost"] + hub.counters["lost_unconfirmed"]
        counted += hub.counters["dropped_disconnected"] + refused - lost_before
        assert 7 - len(got) <= counted, f"cut after {n}: {got} arrived, {counted} counted"


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("at_sender", [True, False], ids=["at the sender", "at the receiver"])
async def test_a_cut_after_any_byte_loses_nothing_uncounted(
    hub: WebSocketHub, proxy: Proxy, at_sender: bool, part: int
) -> None:
    for n in range(part + 1, 401, 20):
        await cut_once(hub, proxy, n, at_sender=at_sender, upwards=at_sender)
    assert proxy.cuts == 20


@pytest.mark.soak
@pytest.mark.parametrize(
    ("at_sender", "upwards"),
    [(True, True), (False, False)],
    ids=["what the sender says", "what the receiver hears"],
)
async def test_a_cut_after_every_byte_loses_nothing_uncounted(
    hub: WebSocketHub, proxy: Proxy, at_sender: bool, upwards: bool
) -> None:
    for n in range(1, 401):
        await cut_once(hub, proxy, n, at_sender=at_sender, upwards=upwards)
    assert proxy.cuts == 400


async def test_a_cut_in_the_handshake_is_an_error_and_leaves_nothing(hub: WebSocketHub, proxy: Proxy) -> None:
    for upwards in (True, False):
        for n in range(0, 300, 13):
            proxy.upwards, proxy.cut_after = upwards, n
            alice = WebSocketTransport(ALICE.fingerprint, proxy.uri, ALICE, connect_timeout_sec=0.05)
            with suppress(HubUnreachable, HubRefused):
                await alice.start()
                await alice.stop()
    await until(lambda: hub.metrics()["connections"] == 0)


async def test_subscriptions_are_in_force_again_after_a_break(hub: WebSocketHub, proxy: Proxy, agents: Agents) -> None:
    bob, alice = await agents(proxy.uri, BOB), await agents(hub, ALICE)
    topics = [Topic("news", {"n": n}) for n in range(1000)]
    for topic in topics:
        bob.subscriptions.add(topic)
    await bob.subscribe(Topic("kept"))
    await bob.unsubscribe(topics[0])
    proxy.cut()
    await until(lambda: bob.counters["reconnected"] == 1)
    for n, topic in enumerate([topics[0], topics[999], Topic("kept")]):
        await alice.send(Message(topics=[topic], payload={"n": n}).sign(ALICE))
    assert await all_of(bob, 2) == [1, 2]


async def test_a_message_that_is_sent_meanwhile_waits_for_the_connection(
    hub: WebSocketHub, proxy: Proxy, agents: Agents
) -> None:
    alice, bob = await agents(proxy.uri, ALICE), await agents(hub, BOB)
    proxy.cut()
    await until(lambda: not alice.connected or alice.counters["reconnected"] > 0)  # it may be back between two looks
    await within(10, alice.send(to(BOB, ALICE, 1)))
    assert await all_of(bob, 1) == [1]
    assert alice.counters["messages_lost"] == 0


async def test_without_a_hub_a_send_gives_up_after_the_connect_timeout_and_a_stop_is_quick(agents: Agents) -> None:
    async with WebSocketHub() as hub:
        alice = await agents(hub, ALICE, connect_timeout_sec=0.2)
    await until(lambda: not alice.connected)
    with pytest.raises(Undeliverable, match=r"no connection to the hub at .* since 0\.2 s"):
        await alice.send(to(BOB, ALICE))
    with pytest.raises(Undeliverable, match="no connection"):
        await alice.present([BOB.fingerprint])
    await alice.subscribe(Topic("news"))
    await within(1, alice.stop())


async def test_a_hub_that_comes_back_is_found_again(agents: Agents) -> None:
    async with WebSocketHub(identity=ALICE) as hub:
        port = int(hub.uri.rpartition(":")[2])
        bob = await agents(hub, BOB)
    again = WebSocketHub(port=port, identity=ALICE)
    async with again:
        await until(lambda: bob.connected)
        await bob.send(to(BOB, BOB, 3))
        assert await all_of(bob, 1) == [3]


async def test_another_hub_in_its_place_is_not_talked_to(agents: Agents, caplog: pytest.LogCaptureFixture) -> None:
    async with WebSocketHub(identity=ALICE) as hub:
        port = int(hub.uri.rpartition(":")[2])
        bob = await agents(hub, BOB, hub_id=hub.hub_id)
    async with WebSocketHub(port=port) as impostor:
        refused = f"the hub has the id {impostor.hub_id}, and the one wanted is {hub.hub_id}"
        await until(lambda: refused in caplog.text)  # not seen in `connections`: it is over between two looks
        await until(lambda: impostor.metrics()["connections"] == 0)
        assert (bob.connected, impostor.peers) == (False, frozenset())
