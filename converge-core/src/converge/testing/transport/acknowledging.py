"""What a transport that delivers at least once does besides."""
# these are tests, shipped to authors
# the name of a test is its sentence

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from converge.core.topic import Topic
from converge.testing.transport.fixtures import Agents, Party, TransportFixtures, with_agents

if TYPE_CHECKING:
    from converge.core.message import Message

__all__ = ["AcknowledgeContract"]

_NEWS = Topic("news")
_END = -1


class AcknowledgeContract(TransportFixtures):
    """What was not acknowledged comes again, and what was does not."""

    def _needs_at_least_once(self) -> None:
        if self.delivery != "at least once":
            pytest.skip(f"the transport declares delivery = {self.delivery!r}")

    @with_agents
    async def test_acknowledging_is_no_error_for_any_transport(self, agents: Agents) -> None:
        alice, bob = await agents.start(2)
        await alice.send(1, bob)
        message = await bob.within(bob.transport.receive())
        await bob.within(bob.transport.acknowledge([]))
        await bob.within(bob.transport.acknowledge([alice.message(2, bob)]))  # one that never came
        for _ in range(2):
            await bob.within(bob.transport.acknowledge([message]))
        await alice.send(3, bob)
        assert await bob.numbers(1) == [3]

    @with_agents
    async def test_what_was_not_acknowledged_comes_again_and_the_rest_does_not(self, agents: Agents) -> None:
        self._needs_at_least_once()
        alice, bob = await agents.start(2)
        assert bob.transport.redelivers, "a runtime has to know, or what it holds at a stop is handled twice"
        for number in range(6):
            await alice.send(number, bob)
        held = [await _verified(bob) for _ in range(4)]
        await bob.within(bob.transport.acknowledge([held[1], held[2]]))
        for _ in range(2):  # and again, until it is acknowledged
            await bob.stop()
            await bob.start()
            assert [(await _verified(bob)).payload["n"] for _ in range(4)] == [0, 3, 4, 5]
        await bob.stop()
        await bob.start()
        assert await bob.numbers(4) == [0, 3, 4, 5]
        await bob.stop()
        await bob.start()
        await alice.send(_END, bob)
        assert await bob.until(_END) == []

    @with_agents
    async def test_another_receiver_of_the_same_agent_gets_what_was_not_acknowledged(self, agents: Agents) -> None:
        """As after a crash: nothing of the old one is known but what is in the medium."""
        self._needs_at_least_once()
        alice, bob = await agents.start(2)
        for number in range(4):
            await alice.send(number, bob)
        held = [await _verified(bob) for _ in range(2)]
        await bob.within(bob.transport.acknowledge(held[:1]))
        await bob.stop()
        again = agents.make(bob.identity)
        await again.start()
        await alice.send(_END, bob)
        assert await again.checked_until(_END) == [1, 2, 3]

    @with_agents
    async def test_what_was_acknowledged_cannot_be_sent_again(self, agents: Agents) -> None:
        self._needs_at_least_once()
        alice, bob = await agents.start(2)
        message = alice.message(1, bob)
        await alice.post(message)
        assert await bob.checked() == message
        await alice.post(message)
        await bob.stop()
        again = agents.make(bob.identity)
        await again.start()
        await alice.post(message)
        await alice.send(_END, again)
        assert await again.checked_until(_END) == []

    @with_agents
    async def test_who_is_away_gets_messages_at_the_next_start(self, agents: Agents) -> None:
        self._needs_at_least_once()
        alice, bob = await agents.start(2)
        await bob.subscribe(_NEWS)
        await bob.stop()
        await alice.send(1, bob)
        await alice.send(2, topics=[_NEWS])
        await alice.send(3)
        await bob.start()
        await alice.send(_END, bob)
        assert await bob.checked_until(_END) == [1, 2, 3]


async def _verified(party: Party) -> Message:
    """The next message that passes, not acknowledged."""
    message = await party.within(party.transport.receive_verified())
    assert message is not None
    return message
