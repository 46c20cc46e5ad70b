"""Who gets a message, and who does not."""
# these are tests, shipped to authors
# the name of a test is its sentence

from __future__ import annotations

import pytest

from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.topic import Topic
from converge.network.errors import Undeliverable
from converge.testing.transport.fixtures import Agents, Party, TransportFixtures, with_agents

__all__ = ["RoutingContract"]

_NEWS, _SPORT = Topic("news", {"lang": "en"}), Topic("sport")
_END = -1


class RoutingContract(TransportFixtures):
    """A message reaches all it is for, each once, and nobody else."""

    @with_agents
    async def test_a_direct_message_reaches_its_recipient_only(self, agents: Agents) -> None:
        alice, bob, carol = await agents.start(3)
        await alice.send(1, bob)
        await alice.send(2, carol)
        assert await _heard(alice, bob, carol) == [[1], [2]]

    @with_agents
    async def test_a_direct_message_goes_to_its_recipient_only_whatever_its_topics(self, agents: Agents) -> None:
        alice, bob, carol = await agents.start(3)
        await carol.subscribe(_NEWS)
        await alice.send(1, bob, [_NEWS])
        assert await _heard(alice, bob, carol) == [[1], []]

    @with_agents
    async def test_an_agent_can_write_to_itself(self, agents: Agents) -> None:
        (alice,) = await agents.start(1)
        await alice.send(1, alice)
        assert await alice.numbers(1) == [1]

    @with_agents
    async def test_a_direct_message_to_an_agent_that_never_was_there_is_undeliverable(self, agents: Agents) -> None:
        alice, bob = await agents.start(2)
        nobody = Identity.generate().fingerprint
        with pytest.raises(Undeliverable) as caught:
            await alice.post(Message(recipient=nobody).sign(alice.identity))
        assert caught.value.recipient == nobody
        await alice.send(1, bob)
        assert await bob.numbers(1) == [1]

    @with_agents
    async def test_a_topic_message_reaches_its_subscribers_only(self, agents: Agents) -> None:
        alice, bob, carol, dave = await agents.start(4)
        await bob.subscribe(_NEWS)
        await carol.subscribe(_SPORT)
        await alice.send(1, topics=[_NEWS])
        await alice.send(2, topics=[_SPORT])
        assert await _heard(alice, bob, carol, dave) == [[1], [2], []]

    @with_agents
    async def test_a_message_with_two_topics_comes_once_to_who_subscribed_to_both(self, agents: Agents) -> None:
        alice, bob, carol = await agents.start(3)
        await bob.subscribe(_NEWS)
        await bob.subscribe(_SPORT)
        await carol.subscribe(_SPORT)
        await alice.send(1, topics=[_NEWS, _SPORT])
        assert await _heard(alice, bob, carol) == [[1], [1]]

    @with_agents
    async def test_a_subscription_is_to_exactly_one_topic(self, agents: Agents) -> None:
        alice, bob = await agents.start(2)
        await bob.subscribe(_NEWS)
        for other in (Topic("news"), Topic("news", {"lang": "de"}), Topic("news", {"lang": "en"}, "2"), Topic("News")):
            await alice.send(1, topics=[other])
        assert await _heard(alice, bob) == [[]]

    @with_agents
    async def test_a_topic_without_subscribers_is_no_error_and_reaches_nobody(self, agents: Agents) -> None:
        alice, bob = await agents.start(2)
        await alice.send(1, topics=[_NEWS])
        assert await _heard(alice, bob) == [[]]

    @with_agents
    async def test_who_unsubscribed_gets_no_more(self, agents: Agents) -> None:
        alice, bob = await agents.start(2)
        await bob.subscribe(_NEWS)
        await alice.send(1, topics=[_NEWS])
        assert await bob.numbers(1) == [1]
        await bob.unsubscribe(_NEWS)
        await bob.unsubscribe(_SPORT)
        assert bob.transport.subscriptions == set()
        await alice.send(2, topics=[_NEWS])
        assert await _heard(alice, bob) == [[]]

    @with_agents
    async def test_a_broadcast_reaches_everybody_but_its_sender(self, agents: Agents) -> None:
        alice, bob, carol = await agents.start(3)
        await alice.send(1)
        assert await _heard(alice, alice, bob, carol) == [[], [1], [1]]

    @with_agents
    async def test_a_topic_message_does_not_come_back_to_its_sender(self, agents: Agents) -> None:
        alice, bob = await agents.start(2)
        await alice.subscribe(_NEWS)
        await bob.subscribe(_NEWS)
        await alice.send(1, topics=[_NEWS])
        assert await _heard(alice, alice, bob) == [[], [1]]

    @with_agents
    async def test_a_broadcast_with_nobody_else_there_is_no_error(self, agents: Agents) -> None:
        (alice,) = await agents.start(1)
        await alice.send(1)
        assert await _heard(alice, alice) == [[]]

    @with_agents
    async def test_messages_of_one_sender_arrive_in_order_whatever_they_are(self, agents: Agents) -> None:
        alice, bob = await agents.start(2)
        await bob.subscribe(_NEWS)
        for number in range(0, 90, 3):
            await alice.send(number, bob)
            await alice.send(number + 1, topics=[_NEWS])
            await alice.send(number + 2)
        assert await bob.numbers(90) == [*range(90)]

    @with_agents
    async def test_every_field_arrives_as_it_was_signed(self, agents: Agents) -> None:
        alice, bob = await agents.start(2)
        payload = {"bytes": b"\0\xff", "deep": [{"a": [None, True, -1, 1.5]}], "text": "ä\n\U0001f600"}
        headers: dict[str, str | int] = {"in_reply_to": "m0", "ttl_ms": 60_000, "traceparent": "00-0-0-00"}
        sent = Message(recipient=bob.id, topics=[_NEWS, _SPORT], payload=payload, task_id="t", headers=headers).sign(
            alice.identity
        )
        await alice.post(sent)
        received = await bob.take()
        assert received == sent
        assert (received.topics, dict(received.headers)) == (sent.topics, headers)
        assert received.verify()
        assert received.to_bytes() == sent.to_bytes()

    @with_agents
    async def test_each_receiver_has_a_copy_of_its_own_and_so_has_the_sender(self, agents: Agents) -> None:
        alice, bob, carol = await agents.start(3)
        payload = {"n": [1]}
        await alice.post(Message(sender=alice.id, payload=payload).sign(alice.identity))
        payload["n"].append(2)
        first, second = await bob.take(), await carol.take()
        first.payload["n"].append("tampered")
        assert second.payload == {"n": [1]}
        assert payload == {"n": [1, 2]}

    @with_agents
    async def test_an_unsigned_message_can_travel_and_is_a_copy_of_what_it_was(self, agents: Agents) -> None:
        if not self.carries_unsigned:
            pytest.skip("the transport declares carries_unsigned = False")
        alice, bob = await agents.start(2)
        payload = {"n": [1]}
        sent = Message(sender=alice.id, recipient=bob.id, payload=payload)
        await alice.post(sent)
        payload["n"].append(2)
        received = await bob.take()
        assert (received.payload, received.id, received.is_signed) == ({"n": [1]}, sent.id, False)


async def _heard(sender: Party, *parties: Party) -> list[list[int]]:
    """What each of `parties` has been sent so far by `sender`, whose messages arrive in order."""
    for party in parties:
        await sender.send(_END, party)
    return [await party.until(_END) for party in parties]
