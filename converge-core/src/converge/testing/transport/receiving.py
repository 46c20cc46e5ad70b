"""Waiting for messages, giving up, and doing several things at once."""
# these are tests, shipped to authors
# the name of a test is its sentence

from __future__ import annotations

import asyncio

import pytest

from converge.testing.transport.fixtures import Agents, Party, TransportFixtures, with_agents

__all__ = ["ReceivingContract"]


class ReceivingContract(TransportFixtures):
    """Whoever waits for a message gets it once, and who gives up takes none along."""

    @with_agents
    async def test_receive_gives_up_after_its_timeout(self, agents: Agents) -> None:
        alice, bob = await agents.start(2)
        for timeout in (0, 0.001, 0.05):
            with pytest.raises(TimeoutError):
                await bob.within(bob.transport.receive(timeout))
            with pytest.raises(TimeoutError):
                await bob.within(bob.transport.receive_verified(timeout=timeout))
        await alice.send(1, bob)
        assert await bob.numbers(1) == [1]

    @with_agents
    async def test_a_receive_that_times_out_loses_no_message(self, agents: Agents) -> None:
        alice, bob = await agents.start(2)

        async def send() -> None:
            for number in range(60):
                await alice.send(number, bob)
                await asyncio.sleep(0.0005)

        sending = asyncio.create_task(send())
        received: list[int] = []
        async with asyncio.timeout(self.patience):
            while len(received) < 60:
                try:
                    message = await bob.transport.receive(timeout=0.0004)
                except TimeoutError:
                    continue
                await bob.transport.acknowledge([message])
                received.append(message.payload["n"])
        await sending
        assert received == [*range(60)]

    @with_agents
    async def test_a_cancelled_receive_loses_no_message(self, agents: Agents) -> None:
        alice, bob = await agents.start(2)
        for number in range(60):
            receiving = asyncio.create_task(bob.transport.receive())
            for _ in range(number % 3):
                await asyncio.sleep(0)
            await alice.send(number, bob)
            for _ in range(number % 7):
                await asyncio.sleep(0)
            receiving.cancel()
            try:
                message = await receiving
            except asyncio.CancelledError:
                message = await bob.within(bob.transport.receive())
            await bob.transport.acknowledge([message])
            assert message.payload["n"] == number, f"message {number} was lost with the receive that was cancelled"

    @with_agents
    async def test_several_receivers_of_one_transport_get_each_message_once(self, agents: Agents) -> None:
        alice, bob = await agents.start(2)
        receiving = [asyncio.create_task(bob.take()) for _ in range(20)]
        for number in range(20):
            await alice.send(number, bob)
        received = [(await task).payload["n"] for task in receiving]
        assert sorted(received) == [*range(20)]

    @with_agents
    async def test_senders_that_send_at_once_lose_nothing_and_each_is_in_order(self, agents: Agents) -> None:
        *senders, bob = await agents.start(5)

        async def send(place: int, sender: Party) -> None:
            for number in range(50):
                await sender.send(100 * place + number, bob)

        sending = asyncio.gather(*(send(place, sender) for place, sender in enumerate(senders)))
        received = await bob.numbers(200)
        await sending
        for place in range(4):
            assert [n for n in received if n // 100 == place] == [*range(100 * place, 100 * place + 50)]

    @with_agents
    async def test_tasks_that_send_at_once_on_one_transport_lose_nothing(self, agents: Agents) -> None:
        alice, bob = await agents.start(2)
        sending = asyncio.gather(*(alice.send(number, bob) for number in range(100)))
        received = await bob.numbers(100)
        await sending
        assert sorted(received) == [*range(100)]

    @with_agents
    async def test_a_cancelled_send_arrives_once_or_not_at_all_and_hurts_no_other(self, agents: Agents) -> None:
        alice, bob = await agents.start(2)
        for number in range(40):
            sending = asyncio.create_task(alice.transport.send(alice.message(number, bob)))
            for _ in range(number % 4):
                await asyncio.sleep(0)
            sending.cancel()
            await asyncio.wait({sending})
        await alice.send(-1, bob)
        received = await bob.until(-1)
        assert len(received) == len({*received})
        assert {*received} <= {*range(40)}

    @with_agents
    async def test_two_who_write_to_each_other_do_not_block_each_other(self, agents: Agents) -> None:
        alice, bob = await agents.start(2)

        async def talk(me: Party, other: Party) -> list[int]:
            numbers = []
            for number in range(50):
                await me.send(number, other)
                numbers += await me.numbers(1)
            return numbers

        first, second = await asyncio.gather(talk(alice, bob), talk(bob, alice))
        assert first == second == [*range(50)]
