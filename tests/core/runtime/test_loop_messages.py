"""Messages in a runtime: requests, acknowledgements, replays, and decisions that send together."""

from __future__ import annotations

import asyncio
from itertools import chain
from typing import TYPE_CHECKING, Any

import pytest

from converge.core.decisions import Decision, SendMessage
from converge.core.message import Message
from converge.extensions.storage.memory import MemoryStore
from converge.network.transport.local import LocalTransport
from converge.network.transport.store import StoreTransport
from converge.policy.safety import ActionPolicy
from tests.core.runtime.conftest import PATIENCE_SEC, Scripted, until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.core.runtime.conftest import World


class Answering(Scripted):
    """Answers every message."""

    async def decide(self, messages: list[Message], tasks: Any) -> list[Decision]:
        await super().decide(messages, tasks)
        return [SendMessage(message.reply({"n": message.payload["n"] + 1})) for message in messages]


async def test_an_agent_asks_another_from_its_decide_and_is_not_shown_the_answer(world: World) -> None:
    server = Answering()
    await world.started(server)
    answers: list[Message] = []

    async def ask(messages: list[Message], tasks: Any) -> list[Decision]:
        request = Message(recipient=server.id, payload={"n": 1})
        answers.append(await client.context.network.request(request, timeout=PATIENCE_SEC))
        return []

    client = Scripted(ask)
    await world.started(client)
    await until(lambda: answers)
    assert (answers[0].payload, answers[0].sender) == ({"n": 2}, server.id)
    assert world.counted("converge_answers_received_total") == 1
    assert client.payloads == [[]]


@pytest.mark.parametrize("size", [2, 1024])
async def test_an_agent_asks_while_it_starts_and_stops_and_misses_nothing_that_comes_meanwhile(
    world: World, size: int
) -> None:
    server, peer, meanwhile = Answering(), await world.peer(), list(range(5))
    await world.started(server)
    answers: list[object] = []

    class Asking(Scripted):
        async def on_start(self) -> None:
            for n in meanwhile:
                await peer.tell(self.id, n)
            await self.ask()

        async def on_stop(self) -> None:
            await self.ask()

        async def ask(self) -> None:
            request = Message(recipient=server.id, payload={"n": 1})
            answers.append((await self.context.network.request(request, PATIENCE_SEC)).payload["n"])

    agent = Asking()
    runtime = await world.started(agent, inbox_kwargs={"maxsize": size})
    await until(lambda: [*chain.from_iterable(agent.payloads)] == meanwhile)
    await runtime.stop()
    assert answers == [2, 2]


async def test_a_signed_message_that_comes_twice_is_shown_once_with_nothing_configured(world: World) -> None:
    agent, peer = Scripted(), await world.peer()
    await world.started(agent)
    message = peer.message(agent.id, 1)
    for _ in range(3):
        await peer.transport.send(message)
    await peer.tell(agent.id, 2)
    await until(lambda: [2] in agent.payloads or [1, 2] in agent.payloads)
    assert sum(payloads.count(1) for payloads in agent.payloads) == 1
    assert world.counted("converge_messages_refused_total") == 2


class Noting(LocalTransport):
    """Notes what is acknowledged, and can fail at it."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.acknowledged: list[object] = []
        self.broken = False

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        if self.broken:
            raise OSError("the disk is full")
        self.acknowledged += [message.payload["n"] for message in messages]


async def test_messages_are_acknowledged_when_they_are_dealt_with_and_not_before(world: World) -> None:
    go = asyncio.Event()

    async def slow(messages: list[Message], tasks: Any) -> list[Decision]:
        await go.wait()
        return []

    agent, peer = Scripted([], slow), await world.peer()
    transport = Noting(agent.id, world.registry)
    await world.started(agent, transport)
    await agent.called(1)
    await peer.tell(agent.id, 1)
    await agent.called(2)
    assert transport.acknowledged == []
    go.set()
    await until(lambda: transport.acknowledged == [1])


async def test_an_acknowledgement_that_fails_is_counted_and_the_agent_goes_on(world: World) -> None:
    agent, peer = Scripted(), await world.peer()
    transport = Noting(agent.id, world.registry)
    transport.broken = True
    runtime = await world.started(agent, transport)
    await peer.tell(agent.id, 1)
    await until(lambda: world.counted("converge_acknowledge_failures_total") == 1)
    transport.broken = False
    await peer.tell(agent.id, 2)
    await until(lambda: transport.acknowledged == [2])
    assert runtime.is_healthy()


async def test_an_agent_that_dies_in_its_decide_is_shown_the_message_again_in_its_next_life(world: World) -> None:
    store = MemoryStore()
    hanging = asyncio.Event()

    async def hang(messages: list[Message], tasks: Any) -> list[Decision]:
        hanging.set()
        await asyncio.Event().wait()
        return []

    agent, sender = Scripted([], hang), Scripted()
    runtime = await world.started(agent, StoreTransport(agent.id, store))
    await agent.called(1)
    other = StoreTransport(sender.id, store)
    await other.start()
    await other.send(Message(recipient=agent.id, payload={"n": 1}).sign(sender.identity))
    await hanging.wait()
    await runtime.stop()
    agent.answers = []
    runtime = await world.started(agent, StoreTransport(agent.id, store))
    await until(lambda: agent.payloads[-1] == [1])
    await until(lambda: not store.list("mail:"))
    await other.stop()


async def test_neighbouring_messages_are_sent_together_and_each_has_its_own_outcome(world: World) -> None:
    peer = await world.peer()

    def to(recipient: str, n: object, **fields: Any) -> SendMessage:
        return SendMessage(Message(recipient=recipient, payload={"n": n}, **fields))

    decisions = [
        to(peer.id, 1),
        to("nobody", 2),
        to(peer.id, 3, sender="somebody"),
        to(peer.id, object()),
        to(peer.id, 5),
    ]
    agent = Scripted(decisions)
    await world.started(agent)
    await until(lambda: len(agent.outcomes) == 5)
    assert [outcome.status for outcome in agent.outcomes] == ["done", "failed", "refused", "failed", "done"]
    assert "Undeliverable" in str(agent.outcomes[1].error)
    assert "sends in its own name only" in str(agent.outcomes[2].error)
    assert [(await peer.hear()).payload["n"] for _ in range(2)] == [1, 5]


async def test_many_messages_of_one_decision_share_a_signature(world: World) -> None:
    peer = await world.peer()
    agent = Scripted([SendMessage(Message(recipient=peer.id, payload={"n": n})) for n in range(10)])
    await world.started(agent)
    heard = [await peer.hear() for _ in range(10)]
    assert [message.payload["n"] for message in heard] == [*range(10)]
    assert len({message.signature[:64] for message in heard}) == 1
    assert all(message.verify() for message in heard)


@pytest.mark.parametrize("count", [1, 3])
async def test_the_action_policy_is_asked_for_each_message(world: World, count: int) -> None:
    peer = await world.peer()
    agent = Scripted([SendMessage(Message(recipient=peer.id, payload={"n": n})) for n in range(count)])
    await world.started(agent, executor_kwargs={"safety_policy": (None, ActionPolicy([]))})
    await until(lambda: len(agent.outcomes) == count)
    assert {outcome.status for outcome in agent.outcomes} == {"refused"}
