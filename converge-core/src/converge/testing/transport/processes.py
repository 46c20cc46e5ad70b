"""Agents in other processes, and what a killed one leaves."""
# these are tests, shipped to authors
# the name of a test is its sentence

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.topic import Topic
from converge.testing.store.children import Child, Children
from converge.testing.transport.fixtures import Agents, TransportFixtures, with_agents

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["ProcessContract"]

_WORKER = Path(__file__).with_name("worker.py")
_NEWS = Topic("news")
_END = -1
_T = TypeVar("_T")


class ProcessContract(TransportFixtures):
    """What holds between two transports holds between two processes."""

    @asynccontextmanager
    async def _children(self, agents: Agents) -> AsyncIterator[Children]:
        if not self.crosses_processes:
            pytest.skip("the transport declares crosses_processes = False")
        with Children(agents.medium.connect, max(30.0, self.patience), _WORKER) as children:
            yield children

    @with_agents
    async def test_agents_of_two_processes_write_to_each_other(self, agents: Agents) -> None:
        async with self._children(agents) as children:
            (alice,) = await agents.start(1)
            echo, other = _start(children, "echo"), _start(children, "echo")
            ids = [await _out(child.hear) for child in (echo, other)]
            for number in range(20):
                await alice.post(Message(recipient=ids[0], payload={"n": number}).sign(alice.identity))
            answers = [await alice.checked() for _ in range(20)]
            assert [answer and (answer.sender, answer.payload) for answer in answers] == [
                (ids[0], {"n": number}) for number in range(20)
            ]
            await alice.send(20, topics=[_NEWS])
            both = [await alice.checked() for _ in range(2)]
            assert {answer.sender for answer in both if answer is not None} == {*ids}
            for child in (echo, other):
                child.say("stop")
                await _out(child.finish)

    @with_agents
    async def test_a_killed_receiver_gets_again_what_it_had_not_acknowledged(self, agents: Agents) -> None:
        if self.delivery != "at least once":
            pytest.skip(f"the transport declares delivery = {self.delivery!r}")
        async with self._children(agents) as children:
            (alice,) = await agents.start(1)
            bob = Identity.generate()
            possible = {0}  # with which message the next life may begin
            for life in range(3):
                child = _start(children, "hold", bob)
                recipient = await _out(child.hear)
                for number in range(10 * life, 10 * life + 10):
                    await alice.post(Message(recipient=recipient, payload={"n": number}).sign(alice.identity))
                said = [await _out(child.hear) for _ in range(9)]
                child.kill()
                said += child.rest()
                received = [number for what, number in said if what == "received"]
                acknowledged = [number for what, number in said if what == "acknowledged"]
                assert received[0] in possible, "lost, or delivered again after it was acknowledged"
                assert received == [*range(received[0], received[0] + len(received))], "lost, twice, or not in order"
                possible = {acknowledged[-1] + 1, received[-1] + 1}
            again = agents.make(bob)
            await again.start()
            await alice.send(_END, again)
            assert await again.checked_until(_END) in [[*range(begin, 30)] for begin in possible]

    @with_agents
    async def test_what_a_killed_sender_was_told_is_sent_arrives(self, agents: Agents) -> None:
        if self.delivery != "at least once":
            pytest.skip(f"the transport declares delivery = {self.delivery!r}")
        async with self._children(agents) as children:
            bob, carol = await agents.start(2)
            child = _start(children, "send", None, bob.id)
            sent = [await _out(child.hear) for _ in range(20)]
            child.kill()
            sent += child.rest()
            received = [await bob.checked() for _ in sent]
            numbers = [message.payload["n"] for message in received if message is not None]
            assert numbers == sent == [*range(len(sent))]
            await carol.send(_END, bob)
            assert await bob.checked_until(_END) in ([], [len(sent)]), "at most one more, whose sender was not told"
            await bob.send(_END, carol)
            assert await carol.checked_until(_END) == [], "it has come to another agent"


def _start(children: Children, task: str, identity: Identity | None = None, *arguments: object) -> Child:
    identity = Identity.generate() if identity is None else identity
    assert identity.private_key is not None
    return children.start(task, identity.public_key.hex(), identity.private_key.hex(), *arguments)


async def _out(call: Callable[[], _T]) -> Any:  # noqa: ANN401  # what a child says
    """What `call` returns, while the event loop goes on."""
    return await asyncio.get_running_loop().run_in_executor(None, call)
