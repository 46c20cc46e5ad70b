"""The transport as an agent uses it: sending, receiving, being told what cannot arrive, starting and stopping."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import pytest

from converge.core.agent import Agent
from converge.core.decisions import Decision, SendMessage
from converge.core.errors import IdentityError
from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.topic import Topic
from converge.network.errors import TransportClosed, Undeliverable
from converge.network.transport.websocket import (
    HubLimits,
    HubRefused,
    HubUnreachable,
    InsecureConnection,
    WebSocketHub,
    WebSocketTransport,
)
from converge.plugins import PluginManager
from converge.runtime.loop import AgentRuntime
from tests.websocket.conftest import ALICE, BOB, CAROL, Agents, all_of, to, until, within

NEWS = Topic("news", {"lang": "en"})


async def test_direct_topic_and_broadcast_messages_reach_whom_they_are_for(hub: WebSocketHub, agents: Agents) -> None:
    alice, bob, carol = [await agents(hub, each) for each in (ALICE, BOB, CAROL)]
    await bob.subscribe(NEWS)
    await alice.send(to(BOB, ALICE, 1))
    await alice.send(Message(topics=[NEWS], payload={"n": 2}).sign(ALICE))
    await alice.send(Message(payload={"n": 3}).sign(ALICE))
    got = [await bob.receive_verified(timeout=5) for _ in range(3)]
    assert [message and message.payload["n"] for message in got] == [1, 2, 3]
    assert await all_of(carol, 1) == [3]
    await bob.unsubscribe(NEWS)
    await alice.send(Message(topics=[NEWS], payload={"n": 4}).sign(ALICE))
    await alice.send(to(BOB, ALICE, 5))
    assert await all_of(bob, 1) == [5]


async def test_many_messages_arrive_in_order_and_travel_together(hub: WebSocketHub, agents: Agents) -> None:
    alice, bob = await agents(hub, ALICE), await agents(hub, BOB)
    messages = [to(BOB, ALICE, n) for n in range(3000)]

    async def send() -> None:
        for message in messages:
            await alice.send(message)

    _, got = await asyncio.gather(send(), all_of(bob, 3000))
    assert got == list(range(3000))
    assert (alice.counters, hub.counters["carried"]) == ({}, 3000)


async def test_a_slow_receiver_slows_its_sender_down_and_nothing_is_lost(agents: Agents) -> None:
    limits = HubLimits(max_waiting_bytes=10**6)
    async with WebSocketHub(limits=limits) as hub:
        alice, bob, carol = (
            await agents(hub, ALICE),
            await agents(hub, BOB, max_waiting_messages=10),
            await agents(hub, CAROL),
        )
        sending = asyncio.create_task(send_all(alice, [to(BOB, ALICE, n, 10_000) for n in range(1500)]))
        await until(lambda: hub.metrics()["waiting_messages"] > 20)
        await carol.send(to(CAROL, CAROL, 7))
        assert await all_of(carol, 1) == [7], "the others go on"
        assert not sending.done()
        assert await all_of(bob, 1500) == list(range(1500))
        await sending
        assert alice.counters == {}


async def send_all(transport: WebSocketTransport, messages: list[Message]) -> None:
    for message in messages:
        await transport.send(message)


async def test_an_agent_that_is_not_there_is_undeliverable(hub: WebSocketHub, agents: Agents) -> None:
    alice, bob = await agents(hub, ALICE), await agents(hub, BOB)
    await alice.send(to(BOB, ALICE))
    with pytest.raises(Undeliverable, match="no agent of that id is connected"):
        await alice.send(to(CAROL, ALICE))
    await bob.stop()
    await until(lambda: BOB.fingerprint not in hub.peers)
    with pytest.raises(Undeliverable, match="no agent of that id is connected"):
        await alice.send(to(BOB, ALICE))
    await bob.start()
    await alice.send(to(BOB, ALICE, 2))
    assert await all_of(bob, 1) == [2]


async def test_many_who_send_at_once_are_all_answered(hub: WebSocketHub, agents: Agents) -> None:
    alice, bob = await agents(hub, ALICE), await agents(hub, BOB)
    await within(5, asyncio.gather(*(alice.send(to(BOB, ALICE, n)) for n in range(100))))
    assert sorted(await all_of(bob, 100)) == list(range(100))
    assert (
        sorted(await asyncio.gather(*(alice.present([f"{n}", ALICE.fingerprint]) for n in range(50))))
        == [{ALICE.fingerprint}] * 50
    )


async def test_what_the_hub_cannot_deliver_after_all_is_counted(hub: WebSocketHub, agents: Agents) -> None:
    alice = await agents(hub, ALICE)
    session = alice._session
    assert session is not None
    session.routes.add(BOB.fingerprint)  # as if Bob had left a moment ago
    await alice.send(to(BOB, ALICE))
    await until(lambda: alice.counters["messages_lost"] == 1)
    assert alice.counters["lost_not_connected"] == 1
    with pytest.raises(Undeliverable):
        await alice.send(to(BOB, ALICE))


async def test_an_agent_that_answers_in_turn_is_not_stuck_when_its_inbox_is_full(
    hub: WebSocketHub, agents: Agents
) -> None:
    alice, bob = await agents(hub, ALICE), await agents(hub, BOB, max_waiting_messages=3)

    async def answer() -> None:
        for n in range(200):
            await bob.receive()
            await bob.send(to(ALICE, BOB, n))

    answering = asyncio.create_task(answer())
    await send_all(alice, [to(BOB, ALICE, n) for n in range(200)])
    assert await all_of(alice, 200) == list(range(200))
    await answering
    await send_all(alice, [to(BOB, ALICE, n) for n in range(10)])
    await until(lambda: len(bob._inbox or ()) >= 3)
    await within(5, bob.subscribe(NEWS))
    with pytest.raises(Undeliverable, match="receive first"):
        await bob.present([ALICE.fingerprint])
    await bob.send(to(ALICE, BOB, 7))
    assert await all_of(alice, 1) == [7]
    await bob.stop()
    assert bob.counters == {"dropped_at_stop": 10}


async def test_who_is_present_can_be_asked(hub: WebSocketHub, agents: Agents) -> None:
    alice, _ = await agents(hub, ALICE), await agents(hub, BOB)
    everybody = [each.fingerprint for each in (ALICE, BOB, CAROL)]
    assert await alice.present(everybody) == {ALICE.fingerprint, BOB.fingerprint} == hub.peers
    assert await alice.present([f"nobody {n}" for n in range(3000)]) == set()


async def test_questions_that_overlap_all_get_their_answers(hub: WebSocketHub, agents: Agents) -> None:
    alice, _ = await agents(hub, ALICE), await agents(hub, BOB)
    for _ in range(100):
        asked = []
        for _ in range(6):
            asked.append(asyncio.create_task(alice.present([BOB.fingerprint])))
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            assert await asyncio.gather(*asked) == [{BOB.fingerprint}] * 6


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Message(recipient="x", payload={"n": object()}, sender=ALICE.fingerprint), "object"),
        (Message(recipient="x").sign(BOB), "messages of its own only"),
        (Message(recipient="x"), "messages of its own only"),
        (Message(payload={"x": b"x" * 300_000}).sign(ALICE), "the hub takes 262144"),
    ],
    ids=["not plain", "of somebody else", "without a sender", "too large"],
)
async def test_what_cannot_travel_is_undeliverable(
    hub: WebSocketHub, agents: Agents, message: Message, text: str
) -> None:
    alice = await agents(hub, ALICE)
    with pytest.raises(Undeliverable, match=text):
        await alice.send(message)


async def test_the_limit_of_the_hub_is_that_of_the_agent(agents: Agents) -> None:
    overhead = len(Message(payload={"x": b"x" * 1000}).sign(ALICE).to_bytes()) - 1000
    async with WebSocketHub(limits=HubLimits(max_message_bytes=1000 + overhead)) as hub:
        alice, bob = await agents(hub, ALICE), await agents(hub, BOB)
        await alice.send(Message(payload={"x": b"x" * 1000}).sign(ALICE))
        assert (await bob.receive(5)).payload == {"x": b"x" * 1000}
        with pytest.raises(Undeliverable, match="put large data in a store"):
            await alice.send(Message(payload={"x": b"x" * 1001}).sign(ALICE))


async def test_an_unsigned_message_is_carried_and_refused_by_who_verifies(hub: WebSocketHub, agents: Agents) -> None:
    alice, bob = await agents(hub, ALICE), await agents(hub, BOB)
    await alice.send(Message(sender=ALICE.fingerprint, recipient=BOB.fingerprint))
    assert await bob.receive_verified(timeout=5) is None
    assert bob.counters["refused_unsigned"] == 1


async def test_a_start_that_finds_no_hub_is_an_os_error_that_says_what_to_do() -> None:
    async with WebSocketHub() as hub:
        uri = hub.uri
    with pytest.raises(OSError, match="start one with `converge hub`") as failed:
        await WebSocketTransport(ALICE.fingerprint, uri, ALICE).start()
    assert isinstance(failed.value, HubUnreachable)


async def test_a_server_that_is_no_hub_is_refused_or_unreachable() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: ws://192.0.2.1/\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(HubRefused, match="this is no hub"):
            await WebSocketTransport(ALICE.fingerprint, uri, ALICE).start()


async def test_a_hub_that_says_nothing_is_given_up_after_the_connect_timeout() -> None:
    left = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.read()
        writer.close()
        left.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(HubUnreachable, match=r"no answer within 0\.2 s"):
            await WebSocketTransport(ALICE.fingerprint, uri, ALICE, connect_timeout_sec=0.2).start()
        await within(5, left.wait())


async def test_a_hub_with_another_id_than_the_one_given_is_refused(hub: WebSocketHub) -> None:
    with pytest.raises(HubRefused, match=f"the hub has the id {hub.hub_id}"):
        await WebSocketTransport(ALICE.fingerprint, hub.uri, ALICE, hub_id=BOB.fingerprint).start()
    async with WebSocketTransport(ALICE.fingerprint, hub.uri, ALICE, hub_id=hub.hub_id) as alice:
        assert alice.hub_id == hub.hub_id


@pytest.mark.parametrize(
    ("uri", "error", "text"),
    [
        ("ws://192.0.2.1:1", InsecureConnection, "nothing proves who the hub"),
        ("ws://example.test:1", InsecureConnection, "give the hub_id"),
        ("http://127.0.0.1:1", ValueError, "write it as ws://HOST:PORT"),
        ("nonsense", ValueError, "write it as ws://HOST:PORT"),
    ],
)
def test_a_hub_that_nothing_is_known_of_is_refused_before_connecting(
    uri: str, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        WebSocketTransport(ALICE.fingerprint, uri, ALICE)


def test_with_its_id_a_hub_may_be_anywhere() -> None:
    assert WebSocketTransport(ALICE.fingerprint, "ws://192.0.2.1:1", ALICE, hub_id=BOB.fingerprint).hub_id
    assert WebSocketTransport(ALICE.fingerprint, "wss://192.0.2.1:1", ALICE).hub_id is None


async def test_an_identity_is_needed_and_has_to_be_that_of_the_agent(hub: WebSocketHub) -> None:
    with pytest.raises(IdentityError, match="no private key to prove who it is"):
        await WebSocketTransport(ALICE.fingerprint, hub.uri).start()
    with pytest.raises(IdentityError, match="no private key"):
        await WebSocketTransport(ALICE.fingerprint, hub.uri, Identity.from_public_key(ALICE.public_key)).start()
    with pytest.raises(IdentityError, match="cannot connect as"):
        WebSocketTransport(ALICE.fingerprint, hub.uri, BOB)


async def test_a_runtime_binds_the_identity_of_its_agent(hub: WebSocketHub, agents: Agents) -> None:
    class Answering(Agent):
        def decide(self, messages: Sequence[Message], tasks: object) -> list[Decision]:
            return [
                SendMessage(Message(recipient=each.sender, payload={"n": each.payload["n"] + 1})) for each in messages
            ]

    async with AgentRuntime(Answering(BOB), WebSocketTransport(BOB.fingerprint, hub.uri)):
        alice = await agents(hub, ALICE)
        await alice.send(to(BOB, ALICE, 1))
        answer = await alice.receive_verified(timeout=5)
        assert answer is not None
        assert (answer.payload, answer.sender) == ({"n": 2}, BOB.fingerprint)


async def test_it_is_a_plugin(hub: WebSocketHub) -> None:
    table = {"use": "websocket", "uri": hub.uri, "hub_id": hub.hub_id, "connect_timeout_sec": 5}
    built = PluginManager().build("transport", table, agent_id=ALICE.fingerprint, identity=ALICE)
    assert isinstance(built, WebSocketTransport)
    async with built:
        assert built.connected


async def test_what_waits_is_sent_before_a_stop_is_over(hub: WebSocketHub, agents: Agents) -> None:
    alice, bob = await agents(hub, ALICE), await agents(hub, BOB)
    for n in range(100):
        await alice.send(to(BOB, ALICE, n))
    await alice.stop()
    assert await all_of(bob, 100) == list(range(100))
    assert alice.counters == {}
    assert hub.counters["lost_unconfirmed"] == 0


async def test_what_was_not_received_is_counted_at_a_stop_and_who_waits_is_woken(
    hub: WebSocketHub, agents: Agents
) -> None:
    alice, bob = await agents(hub, ALICE), await agents(hub, BOB)
    waiting = asyncio.create_task(alice.receive())
    await alice.send(to(BOB, ALICE))
    await until(lambda: hub.counters["carried"] == 1)
    await bob.receive(5)
    await alice.send(to(BOB, ALICE))
    await until(lambda: len(bob._inbox or ()) == 1)
    await bob.stop()
    assert bob.counters["dropped_at_stop"] == 1
    await alice.stop()
    with pytest.raises(TransportClosed, match="was stopped"):
        await within(5, waiting)


async def test_it_is_closed_before_a_start_and_after_a_stop_and_starts_again(hub: WebSocketHub) -> None:
    alice = WebSocketTransport(ALICE.fingerprint, hub.uri, ALICE)
    await alice.stop()
    for _ in range(3):
        with pytest.raises(TransportClosed, match="call start"):
            await alice.send(to(BOB, ALICE))
        with pytest.raises(TransportClosed, match="call start"):
            await alice.receive(0)
        await alice.subscribe(NEWS)
        await alice.start()
        await alice.start()
        await alice.send(to(ALICE, ALICE, 1))
        assert await all_of(alice, 1) == [1]
        await alice.stop()
        await alice.stop()
        assert not alice.connected


async def test_starting_and_stopping_leaves_no_task(hub: WebSocketHub) -> None:
    alice = WebSocketTransport(ALICE.fingerprint, hub.uri, ALICE)
    await alice.start()
    await alice.stop()
    await until(lambda: not hub.peers)
    before = asyncio.all_tasks()
    for _ in range(20):
        await alice.start()
        await alice.stop()
    await until(lambda: len(asyncio.all_tasks()) <= len(before))


async def test_a_receive_times_out_and_loses_nothing(hub: WebSocketHub, agents: Agents) -> None:
    alice = await agents(hub, ALICE)
    with pytest.raises(TimeoutError):
        await alice.receive(0.01)
    await alice.send(to(ALICE, ALICE, 4))
    assert await all_of(alice, 1) == [4]


async def test_an_agent_that_connects_twice_ends_its_earlier_connection(hub: WebSocketHub, agents: Agents) -> None:
    first = await agents(hub, ALICE)
    waiting = asyncio.create_task(first.receive())
    second, bob = await agents(hub, ALICE), await agents(hub, BOB)
    with pytest.raises(TransportClosed, match="replaced"):
        await within(5, waiting)
    with pytest.raises(TransportClosed, match="replaced"):
        await first.send(to(BOB, ALICE))
    await bob.send(to(ALICE, BOB, 9))
    assert await all_of(second, 1) == [9]
    assert hub.counters["closed_replaced"] == 1


async def test_a_revoked_agent_is_closed_and_stays_out_until_it_is_allowed(hub: WebSocketHub, agents: Agents) -> None:
    alice = await agents(hub, ALICE)
    hub.revoke(ALICE.fingerprint)
    with pytest.raises(TransportClosed, match="forbidden"):
        await alice.receive(5)
    with pytest.raises(HubRefused, match="is not allowed here"):
        await agents(hub, ALICE)
    hub.allow(ALICE.fingerprint)
    await agents(hub, ALICE)
