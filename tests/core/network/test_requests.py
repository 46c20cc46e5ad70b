"""Requests and their answers: from whom was asked, once, in time, and to who asked."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from converge.core.agent import Agent
from converge.core.identity import Identity
from converge.core.message import Message
from converge.extensions.storage.memory import MemoryStore
from converge.network.errors import Undeliverable
from converge.network.network import AgentNetwork
from converge.network.requests import MAX_REQUESTS, Requests
from converge.network.transport.local import LocalTransport, LocalTransportRegistry
from converge.network.transport.store import StoreTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PATIENCE = 10.0


class Party:
    """An agent with a network of its own and no runtime."""

    def __init__(self, registry: LocalTransportRegistry) -> None:
        self.agent = Agent(Identity.generate())
        self.transport = LocalTransport(self.agent.id, registry)
        self.network = AgentNetwork(self.transport)
        self.network.register_agent(self.agent)

    @property
    def id(self) -> str:
        return self.agent.id

    async def answer(self, payload: dict[str, object]) -> Message:
        """Answer the next request; the request."""
        request = await self.network.receive(PATIENCE)
        await self.network.send(request.reply(payload))
        return request


@pytest.fixture
async def parties() -> AsyncIterator[list[Party]]:
    registry = LocalTransportRegistry()
    made = [Party(registry) for _ in range(3)]
    for party in made:
        await party.transport.start()
    yield made
    for party in made:
        await party.transport.stop()


def to(party: Party, **fields: object) -> Message:
    return Message(recipient=party.id, **fields)  # type: ignore[arg-type]  # any field


async def test_a_request_is_answered_by_who_was_asked(parties: list[Party]) -> None:
    alice, bob, _ = parties
    answering = asyncio.create_task(bob.answer({"sum": 3}))
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    asked = to(bob, payload={"a": 1}, task_id="t", headers={"traceparent": trace})
    answer = await alice.network.request(asked, timeout=PATIENCE)
    request = await answering
    assert (answer.payload, answer.sender, answer.recipient) == ({"sum": 3}, bob.id, alice.id)
    assert (answer.in_reply_to, answer.task_id, answer.traceparent) == (request.id, "t", trace)
    assert answer.verify()


async def test_many_requests_wait_at_once_and_each_gets_its_own_answer(parties: list[Party]) -> None:
    alice, bob, carol = parties

    async def serve(party: Party, count: int) -> None:
        asked = [await party.network.receive(PATIENCE) for _ in range(count)]
        for request in reversed(asked):
            await party.network.send(request.reply({"n": request.payload["n"]}))

    serving = [asyncio.create_task(serve(party, 20)) for party in (bob, carol)]
    answers = await asyncio.gather(
        *(alice.network.request(to((bob, carol)[n % 2], payload={"n": n}), PATIENCE) for n in range(40))
    )
    assert [answer.payload["n"] for answer in answers] == [*range(40)]
    await asyncio.gather(*serving)


async def test_what_is_no_answer_waits_for_who_receives(parties: list[Party]) -> None:
    alice, bob, carol = parties
    await carol.network.send(to(alice, payload={"n": "before"}))
    asking = asyncio.create_task(alice.network.request(to(bob), PATIENCE))
    request = await bob.network.receive(PATIENCE)
    await carol.network.send(to(alice, payload={"n": "between"}))
    await bob.network.send(request.reply({}))
    await asking
    assert [(await alice.network.receive(PATIENCE)).payload["n"] for _ in range(2)] == ["before", "between"]


async def test_who_receives_while_a_request_reads_gets_what_is_no_answer_at_once(parties: list[Party]) -> None:
    alice, bob, carol = parties
    asking = asyncio.create_task(alice.network.request(to(bob), PATIENCE))
    request = await bob.network.receive(PATIENCE)
    receiving = asyncio.create_task(alice.network.receive(PATIENCE))
    await asyncio.sleep(0)
    await carol.network.send(to(alice, payload={"n": "for who receives"}))
    assert (await receiving).payload == {"n": "for who receives"}
    await bob.network.send(request.reply({}))
    await asking


async def test_an_answer_is_acknowledged_and_what_is_none_is_left_to_who_receives_it() -> None:
    store, identities = MemoryStore(), [Identity.generate() for _ in range(2)]
    networks = []
    async with AsyncExitStack() as stack:
        for identity in identities:
            transport = await stack.enter_async_context(StoreTransport(identity.fingerprint, store))
            networks.append(AgentNetwork(transport))
            networks[-1].register_agent(Agent(identity))
        alice, bob = networks
        asking = asyncio.create_task(
            alice.request(Message(recipient=identities[1].fingerprint), PATIENCE),
        )
        request = await bob.receive(PATIENCE)
        await bob.send(Message(recipient=identities[0].fingerprint, payload={"n": "no answer"}))
        await bob.send(request.reply({}))
        await asking
    async with StoreTransport(identities[0].fingerprint, store) as again:
        left = await again.receive_verified(timeout=PATIENCE)
        assert left is not None
        assert left.payload == {"n": "no answer"}
        with pytest.raises(TimeoutError):
            await again.receive(0)


async def test_nobody_else_can_give_the_answer(parties: list[Party]) -> None:
    alice, bob, mallory = parties
    asking = asyncio.create_task(alice.network.request(to(bob), PATIENCE))
    request = await bob.network.receive(PATIENCE)
    await mallory.network.send(request.reply({"n": "forged"}).evolve(recipient=alice.id))
    unsigned = request.reply({"n": "unsigned"}, sender=bob.id)
    await mallory.transport.send(unsigned)
    await bob.network.send(request.reply({"n": "true"}))
    assert (await asking).payload == {"n": "true"}
    assert (await alice.network.receive(PATIENCE)).payload == {"n": "forged"}, "it is an ordinary message"
    assert alice.transport.counters == {"refused_unsigned": 1}


async def test_only_the_first_answer_counts(parties: list[Party]) -> None:
    alice, bob, _ = parties
    asking = asyncio.create_task(alice.network.request(to(bob), PATIENCE))
    request = await bob.network.receive(PATIENCE)
    await bob.network.send(request.reply({"n": 1}))
    await bob.network.send(request.reply({"n": 2}))
    assert (await asking).payload == {"n": 1}
    assert (await alice.network.receive(PATIENCE)).payload == {"n": 2}


async def test_an_answer_that_is_too_late_is_counted_and_given_to_nobody(parties: list[Party]) -> None:
    alice, bob, _ = parties
    with pytest.raises(TimeoutError, match=rf"{bob.id} has not answered within 0.01 s"):
        await alice.network.request(to(bob), timeout=0.01)
    request = await bob.network.receive(PATIENCE)
    await bob.network.send(request.reply({"n": "late"}))
    await bob.network.send(to(alice, payload={"n": "next"}))
    assert (await alice.network.receive(PATIENCE)).payload == {"n": "next"}
    assert alice.network.requests.counters == {"late_answers": 1}


async def test_a_cancelled_request_is_given_up(parties: list[Party]) -> None:
    alice, bob, _ = parties
    asking = asyncio.create_task(alice.network.request(to(bob)))
    request = await bob.network.receive(PATIENCE)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await bob.network.send(request.reply({}))
    assert not alice.network.requests._waiting
    with pytest.raises(TimeoutError):
        await alice.network.receive(0.01)
    assert alice.network.requests.counters == {"late_answers": 1}


async def test_a_request_that_cannot_be_sent_waits_for_nothing(parties: list[Party]) -> None:
    alice, _, carol = parties
    await carol.transport.stop()
    with pytest.raises(Undeliverable):
        await alice.network.request(to(carol))
    with pytest.raises(ValueError, match="a request has one recipient"):
        await alice.network.request(Message())
    assert not alice.network.requests._waiting


async def test_there_is_a_bound_on_what_waits_and_on_what_is_remembered() -> None:
    requests = Requests()
    messages = [Message(sender="me", recipient="you") for _ in range(MAX_REQUESTS + 1)]
    for message in messages[:-1]:
        requests.open(message)
    with pytest.raises(RuntimeError, match="wait for answers already"):
        requests.open(messages[-1])
    with pytest.raises(ValueError, match="ask with a new message"):
        requests.open(messages[0])
    for message in messages[:-1]:
        requests.close(message)
    requests.open(messages[-1])
    requests.close(messages[-1])
    assert len(requests._given_up) == MAX_REQUESTS


def test_a_message_without_a_sender_has_nobody_to_reply_to() -> None:
    with pytest.raises(ValueError, match="no sender to reply to"):
        Message().reply({})


async def test_messages_sent_together_share_a_signature_and_each_has_its_own_result(parties: list[Party]) -> None:
    alice, bob, carol = parties
    foreign = Message(sender=carol.id, recipient=bob.id, payload={"n": "unsigned"})
    sent = await alice.network.send_many(
        [
            to(bob, payload={"n": 1}),
            to(bob, payload={"n": object()}),
            Message(recipient="nobody", payload={"n": 2}),
            to(bob, payload={"n": 3}),
            foreign,
        ]
    )
    assert [type(each) for each in sent] == [Message, TypeError, Undeliverable, Message, Message]
    for number in (1, 3):
        received = await bob.network.receive(PATIENCE)
        assert (received.payload["n"], received.sender) == (number, alice.id)
    together = await alice.network.send_many([to(bob, payload={"n": n}) for n in range(5)])
    signatures = {each.signature[:64] for each in together if isinstance(each, Message)}
    assert len(signatures) == 1
    assert [(await bob.network.receive(PATIENCE)).payload["n"] for _ in range(5)] == [*range(5)]
