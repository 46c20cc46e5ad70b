"""What `receive_verified` lets pass, over this transport."""
# these are tests, shipped to authors
# the name of a test is its sentence

from __future__ import annotations

import time
from contextlib import suppress

import pytest

from converge.core import wire
from converge.core.identity import Identity
from converge.core.message import Message, sign_batch
from converge.core.topic import Topic
from converge.network.errors import Undeliverable
from converge.network.identity_registry import IdentityRegistry
from converge.testing.transport.fixtures import Agents, Party, TransportFixtures, with_agents

__all__ = ["VerifyingContract"]

_END = -1


class VerifyingContract(TransportFixtures):
    """Only what was signed by its sender, is new, and is for this agent; all else is counted and hurts nothing."""

    @with_agents
    async def test_a_signed_message_passes_with_nothing_configured(self, agents: Agents) -> None:
        alice, bob = await agents.start(2)
        await alice.send(1, bob)
        message = await bob.checked()
        assert message is not None
        assert (message.sender, message.payload, self.refusals(bob)) == (alice.id, {"n": 1}, {})

    @with_agents
    async def test_the_messages_of_a_batch_pass_one_by_one(self, agents: Agents) -> None:
        alice, bob = await agents.start(2)
        batch = [Message(recipient=bob.id, payload={"n": number}) for number in range(9)]
        for message in sign_batch(batch, alice.identity):
            await alice.post(message)
        await alice.send(_END, bob)
        assert await bob.checked_until(_END) == [*range(9)]

    @with_agents
    async def test_an_unsigned_message_is_refused(self, agents: Agents) -> None:
        alice, bob = await agents.start(2)
        await _try(alice, Message(sender=alice.id, recipient=bob.id, payload={"n": 1}))
        await alice.send(_END, bob)
        assert await bob.checked_until(_END) == []
        if self.carries_unsigned:
            assert self.refusals(bob) == {"unsigned": 1}

    @with_agents
    async def test_a_forged_message_is_refused(self, agents: Agents) -> None:
        alice, bob, mallory = await agents.start(3)
        honest = alice.message(1, bob)
        body, signature = wire.split(honest.to_bytes())
        stolen = wire.split(alice.message(2, bob).to_bytes())[1]
        for field in (signature[:-1] + bytes([signature[-1] ^ 1]), stolen, bytes(64)):
            await _try(mallory, Message.from_bytes(wire.join(body, field)))
            await _try(alice, Message.from_bytes(wire.join(body, field)))
        await mallory.send(_END, bob)
        assert await bob.checked_until(_END) == []
        await alice.post(honest)
        message = await bob.checked()
        while message is None:  # what alice was made to send may arrive after what mallory sent
            message = await bob.checked()
        assert message == honest

    @with_agents
    async def test_a_message_in_the_name_of_another_is_refused(self, agents: Agents) -> None:
        alice, bob, mallory = await agents.start(3)
        await _try(mallory, Message(sender=alice.id, recipient=bob.id, payload={"n": 1}))
        await mallory.send(_END, bob)
        assert await bob.checked_until(_END) == []

    @with_agents
    async def test_a_replayed_message_passes_once(self, agents: Agents) -> None:
        alice, bob = await agents.start(2)
        message = alice.message(1, bob)
        for _ in range(4):
            await _try(alice, message)
        await alice.send(_END, bob)
        assert await bob.checked_until(_END) == [1]
        assert {*self.refusals(bob)} <= {"replayed"}

    @with_agents
    async def test_what_is_old_or_from_the_future_or_expired_is_refused(self, agents: Agents) -> None:
        alice, bob = await agents.start(2)
        now = time.time_ns() // 1_000_000
        for timestamp, ttl in ((0, None), (now + 600_000, None), (now - 1000, 1)):
            headers: dict[str, str | int] = {} if ttl is None else {"ttl_ms": ttl}
            message = Message(recipient=bob.id, payload={"n": 1}, timestamp=timestamp, headers=headers)
            await _try(alice, message.sign(alice.identity))
        await alice.send(_END, bob)
        assert await bob.checked_until(_END) == []

    @with_agents
    async def test_a_registry_is_an_allow_list_of_senders(self, agents: Agents) -> None:
        alice, bob, carol = await agents.start(3)
        allowed = IdentityRegistry()
        allowed.register(alice.id, alice.identity.public_key)
        await carol.send(1, bob)
        await carol.send(2, bob)
        assert [await bob.checked(allowed) for _ in range(2)] == [None, None]
        assert self.refusals(bob) == {"unknown_sender": 2}
        await alice.send(_END, bob)
        assert await bob.checked_until(_END, allowed) == []

    @with_agents
    async def test_a_message_for_another_agent_is_refused(self, agents: Agents) -> None:
        if agents.medium.misdeliver is None:
            pytest.skip("the medium gives no `misdeliver`")
        alice, bob, carol = await agents.start(3)
        await agents.medium.misdeliver(bob.id, alice.message(1, carol))
        assert await bob.checked() is None
        assert self.refusals(bob) == {"misdelivered": 1}
        await alice.send(2, bob)
        assert await bob.checked_until(2) == []

    @with_agents
    async def test_a_topic_that_was_not_subscribed_is_refused(self, agents: Agents) -> None:
        if agents.medium.misdeliver is None:
            pytest.skip("the medium gives no `misdeliver`")
        alice, bob = await agents.start(2)
        await agents.medium.misdeliver(bob.id, alice.message(1, topics=[Topic("news")]))
        assert await bob.checked() is None
        assert self.refusals(bob) == {"not_subscribed": 1}
        await alice.send(2, bob)
        assert await bob.checked_until(2) == []

    @with_agents
    async def test_what_is_no_message_is_refused_and_the_next_one_passes(self, agents: Agents) -> None:
        if agents.medium.inject is None:
            pytest.skip("the medium gives no `inject`")
        alice, bob = await agents.start(2)
        frame = alice.message(1, bob).to_bytes()
        garbage = (b"", b"\xc1", b"\x92", frame[:-1], frame + b"\0", frame[1:], b"\xff" * 5000)
        for data in garbage:
            await agents.medium.inject(bob.id, data)
        await alice.send(_END, bob)
        assert await bob.checked_until(_END) == []
        assert self.refusals(bob) == {"malformed": len(garbage)}

    @with_agents
    async def test_a_forged_message_that_came_by_itself_is_refused(self, agents: Agents) -> None:
        """Not even the medium is to be trusted."""
        if agents.medium.inject is None:
            pytest.skip("the medium gives no `inject`")
        alice, bob = await agents.start(2)
        frame = alice.message(1, bob).to_bytes()
        for index in range(2, len(frame), 7):
            await agents.medium.inject(bob.id, frame[:index] + bytes([frame[index] ^ 1]) + frame[index + 1 :])
        await agents.medium.inject(bob.id, Message(sender=alice.id, recipient=bob.id, payload={"n": 1}).to_bytes())
        await alice.send(_END, bob)
        assert await bob.checked_until(_END) == []
        await agents.medium.inject(bob.id, frame)
        assert await bob.checked() is not None
        assert self.refusals(bob)["unsigned"] == 1

    @with_agents
    async def test_who_connects_with_the_identity_of_nobody_reaches_nobody(self, agents: Agents) -> None:
        """A message whose sender is not the hash of its key does not pass, whatever the connection says."""
        alice, bob = await agents.start(2)
        other = Identity.generate()
        await _try(alice, Message(recipient=bob.id, payload={"n": 1}).sign(other).evolve(sender=alice.id))
        await alice.send(_END, bob)
        assert await bob.checked_until(_END) == []


async def _try(party: Party, message: Message) -> None:
    """Send what a transport may refuse to carry."""
    with suppress(Undeliverable, ValueError):
        await party.post(message)
