from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from converge.core.agent import Agent
from converge.core.capability import Capability
from converge.core.errors import SigningError
from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.topic import Topic
from converge.extensions.storage.memory import MemoryStore
from converge.network.discovery import AgentDescriptor, DiscoveryQuery, DiscoveryService
from converge.network.network import AgentNetwork, build_descriptor
from converge.network.transport.local import LocalTransport, LocalTransportRegistry

ALICE, BOB, STRANGER = (Identity.generate() for _ in range(3))


class Pair:
    """Alice's network, and the transport on which Bob reads what she sends."""

    def __init__(self) -> None:
        registry = LocalTransportRegistry()
        self.alice = Agent(ALICE)
        self.network = AgentNetwork(LocalTransport(ALICE.fingerprint, registry))
        self.bob = LocalTransport(BOB.fingerprint, registry)

    async def sent(self) -> Message:
        return await self.bob.receive(timeout=1)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    pair = Pair()
    async with pair.network.transport, pair.bob:
        yield pair


def test_the_descriptor_tells_id_topics_capabilities_and_public_key() -> None:
    agent = Agent(ALICE)
    agent.capabilities.add(Capability("review", version="2.0"))
    agent.topics.append(Topic("news"))
    descriptor = build_descriptor(agent)
    assert descriptor == AgentDescriptor(
        ALICE.fingerprint, [Topic("news")], [Capability("review", version="2.0")], ALICE.public_key
    )
    descriptor.check_key()


async def test_an_unsigned_message_of_a_registered_agent_is_signed(pair: Pair) -> None:
    pair.network.register_agent(pair.alice)
    await pair.network.send(Message(sender=ALICE.fingerprint, recipient=BOB.fingerprint))
    assert (await pair.sent()).verify(ALICE.public_key)


async def test_a_message_without_a_sender_is_signed_by_the_agent_of_the_transport(pair: Pair) -> None:
    pair.network.register_agent(pair.alice)
    await pair.network.send(Message(recipient=BOB.fingerprint))
    received = await pair.sent()
    assert (received.sender, received.verify()) == (ALICE.fingerprint, True)


async def test_a_signed_message_goes_as_it_is_whoever_signed_it(pair: Pair) -> None:
    pair.network.register_agent(pair.alice)
    message = Message(recipient=BOB.fingerprint).sign(STRANGER)
    await pair.network.send(message)
    assert await pair.sent() == message


async def test_nobody_signs_in_the_name_of_an_agent_that_is_not_registered(pair: Pair) -> None:
    pair.network.register_agent(pair.alice)
    await pair.network.send(Message(sender=STRANGER.fingerprint, recipient=BOB.fingerprint))
    assert not (await pair.sent()).is_signed


async def test_an_unregistered_agent_is_not_signed_for_any_more(pair: Pair) -> None:
    pair.network.register_agent(pair.alice)
    pair.network.unregister_agent(ALICE.fingerprint)
    pair.network.unregister_agent(ALICE.fingerprint)
    await pair.network.send(Message(sender=ALICE.fingerprint, recipient=BOB.fingerprint))
    assert not (await pair.sent()).is_signed


async def test_an_agent_with_a_public_key_only_cannot_send_unsigned_messages(pair: Pair) -> None:
    pair.network.register_agent(Agent(Identity.from_public_key(ALICE.public_key)))
    with pytest.raises(SigningError):
        await pair.network.send(Message(sender=ALICE.fingerprint, recipient=BOB.fingerprint))


async def test_a_broadcast_goes_to_everybody_whatever_the_message_was_addressed_to(pair: Pair) -> None:
    pair.network.register_agent(pair.alice)
    for message in (
        Message(recipient=STRANGER.fingerprint, topics=[Topic("news")]),
        Message(topics=[Topic("news")]).sign(ALICE),
        Message(),
    ):
        await pair.network.broadcast(message)
        received = await pair.sent()
        assert (received.id, received.is_broadcast, received.verify()) == (message.id, True, True)


async def test_a_signed_broadcast_of_a_stranger_goes_as_it_is(pair: Pair) -> None:
    message = Message().sign(STRANGER)
    await pair.network.broadcast(message)
    assert await pair.sent() == message


async def test_a_strangers_signed_direct_message_is_not_stripped_into_an_unsigned_broadcast(pair: Pair) -> None:
    with pytest.raises(SigningError, match="not registered here to sign it again"):
        await pair.network.broadcast(Message(recipient=BOB.fingerprint).sign(STRANGER))


def test_a_registered_agent_is_found_until_it_is_unregistered() -> None:
    network = AgentNetwork(LocalTransport("a", LocalTransportRegistry()))
    agent = Agent(ALICE)
    agent.capabilities = ["review"]
    network.register_agent(agent)
    assert network.discover(DiscoveryQuery(capabilities=["review"])) == [build_descriptor(agent)]
    network.unregister_agent(agent.id)
    assert network.discover(DiscoveryQuery()) == []


def test_a_given_descriptor_is_told_instead_of_what_the_agent_has() -> None:
    network = AgentNetwork(LocalTransport("a", LocalTransportRegistry()))
    told = AgentDescriptor(ALICE.fingerprint, capabilities=["another"])
    network.register_agent(Agent(ALICE), told)
    assert network.discover(DiscoveryQuery()) == [told]


async def test_an_agent_whose_descriptor_is_refused_is_not_registered(pair: Pair) -> None:
    forged = AgentDescriptor(ALICE.fingerprint, public_key=BOB.public_key)
    with pytest.raises(ValueError, match="belongs to another agent"):
        pair.network.register_agent(pair.alice, forged)
    await pair.network.send(Message(sender=ALICE.fingerprint, recipient=BOB.fingerprint))
    assert not (await pair.sent()).is_signed


def test_networks_that_share_a_store_find_each_others_agents() -> None:
    store, registry = MemoryStore(), LocalTransportRegistry()
    mine, theirs = (AgentNetwork(LocalTransport(name, registry), DiscoveryService(store)) for name in "ab")
    theirs.register_agent(Agent(BOB))
    assert [found.id for found in mine.discover(DiscoveryQuery())] == [BOB.fingerprint]
    theirs.unregister_agent(BOB.fingerprint)
    assert mine.discover(DiscoveryQuery()) == []
