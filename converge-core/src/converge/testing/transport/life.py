"""Starting, stopping, and what outlives that."""
# these are tests, shipped to authors
# the name of a test is its sentence

from __future__ import annotations

import asyncio

import pytest

from converge.core.topic import Topic
from converge.network.errors import TransportClosed
from converge.testing.transport.fixtures import Agents, TransportFixtures, with_agents

__all__ = ["LifeContract"]

_NEWS = Topic("news")


class LifeContract(TransportFixtures):
    """A transport can be started and stopped again and again, and says so when it is used in between."""

    @with_agents
    async def test_starting_and_stopping_twice_is_no_error(self, agents: Agents) -> None:
        alice, bob = agents.make(), agents.make()
        await alice.stop()
        for _ in range(2):
            await alice.start()
            await bob.start()
        await alice.send(1, bob)
        await alice.send(2, bob)
        assert await bob.numbers(2) == [1, 2]
        for _ in range(2):
            await bob.stop()

    @with_agents
    async def test_a_stopped_transport_can_be_started_again(self, agents: Agents) -> None:
        alice, bob = await agents.start(2)
        for number in range(3):
            await alice.send(number, bob)
            assert await bob.numbers(1) == [number]
            await bob.send(number, alice)
            assert await alice.numbers(1) == [number]
            await bob.stop()
            await bob.start()

    @with_agents
    async def test_it_cannot_be_used_before_the_start_nor_after_the_stop(self, agents: Agents) -> None:
        (alice,) = await agents.start(1)
        bob = agents.make()
        for _ in range(2):
            with pytest.raises(TransportClosed):
                await bob.send(1, alice)
            with pytest.raises(TransportClosed):
                await bob.within(bob.transport.receive())
            with pytest.raises(TransportClosed):
                await bob.within(bob.transport.receive_verified())
            await bob.start()
            await bob.stop()

    @with_agents
    async def test_all_who_wait_for_a_message_are_told_of_the_stop(self, agents: Agents) -> None:
        (alice,) = await agents.start(1)
        waiting = [asyncio.create_task(alice.within(alice.transport.receive())) for _ in range(3)]
        waiting.append(asyncio.create_task(alice.within(alice.transport.receive(60))))
        for _ in range(3):
            await asyncio.sleep(0)
        await alice.stop()
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(end) for end in ends] == [TransportClosed] * 4

    @with_agents
    async def test_subscriptions_outlive_a_restart(self, agents: Agents) -> None:
        alice, bob = await agents.start(2)
        await bob.subscribe(_NEWS)
        await bob.stop()
        await bob.start()
        assert bob.transport.subscriptions == {_NEWS}
        await alice.send(1, topics=[_NEWS])
        assert await bob.numbers(1) == [1]

    @with_agents
    async def test_subscriptions_change_while_it_is_stopped_too(self, agents: Agents) -> None:
        (alice,) = await agents.start(1)
        bob, sport = agents.make(), Topic("sport")
        await bob.subscribe(_NEWS)
        await bob.subscribe(sport)
        await bob.start()
        await bob.stop()
        await bob.unsubscribe(sport)
        await bob.start()
        await alice.send(1, topics=[sport])
        await alice.send(2, topics=[_NEWS])
        assert await bob.numbers(1) == [2]

    @with_agents
    async def test_an_async_with_block_starts_and_stops(self, agents: Agents) -> None:
        alice, bob = agents.make(), agents.make()
        async with alice.transport, bob.transport:
            await alice.send(1, bob)
            assert await bob.numbers(1) == [1]
        with pytest.raises(TransportClosed):
            await alice.send(2, bob)

    @with_agents
    async def test_nothing_is_left_running_after_the_stop(self, agents: Agents) -> None:
        before = asyncio.all_tasks()
        alice, bob = await agents.start(2)
        await alice.send(1, bob)
        await bob.take()
        await alice.stop()
        await bob.stop()
        await self.comes_true(lambda: not asyncio.all_tasks() - before)
