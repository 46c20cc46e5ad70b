"""What is too large, what is too many, and that nothing is lost without a count."""
# these are tests, shipped to authors
# the name of a test is its sentence

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from converge.core.message import Message
from converge.core.topic import Topic
from converge.network.errors import Undeliverable
from converge.testing.transport.fixtures import Agents, Party, TransportFixtures, with_agents

__all__ = ["BoundsContract"]

_NEWS = Topic("news")


class BoundsContract(TransportFixtures):
    """Everything has a bound; what is beyond is refused to the sender, or counted."""

    @with_agents
    async def test_the_largest_message_travels_and_one_byte_more_is_undeliverable(self, agents: Agents) -> None:
        alice, bob = await agents.start(2)
        await bob.subscribe(_NEWS)
        for topics in ([], [_NEWS]):
            largest = _of_size(alice, self.max_message_bytes, None if topics else bob, topics)
            await alice.post(largest)
            assert await bob.take() == largest
            with pytest.raises(Undeliverable):
                await alice.post(_of_size(alice, self.max_message_bytes + 1, None if topics else bob, topics))
        with pytest.raises(Undeliverable):
            await alice.post(Message(sender=alice.id, recipient=bob.id, payload={"n": "x" * 2_000_000}))
        await alice.send(1, bob)
        assert await bob.numbers(1) == [1]

    @with_agents
    async def test_a_payload_that_is_not_plain_data_is_undeliverable(self, agents: Agents) -> None:
        alice, bob = await agents.start(2)
        deep: list[object] = []
        for _ in range(100):
            deep = [deep]
        for value in (object(), {1: 2}, 2**64, "\ud800", deep, [0] * 10_001, bytearray(b"x")):
            with pytest.raises(Undeliverable):
                await alice.post(Message(sender=alice.id, recipient=bob.id, payload={"n": value}))
        await alice.send(1, bob)
        assert await bob.numbers(1) == [1]

    @with_agents
    async def test_what_an_agent_that_reads_nothing_does_not_get_is_refused_or_counted(self, agents: Agents) -> None:
        alice, bob = await agents.start(2)
        flood = _Flood(alice, bob, self.padding_bytes)
        sending = asyncio.create_task(flood.send(self.waiting_messages))
        await asyncio.wait({sending}, timeout=self.blocked_sec)
        unread = flood.accepted
        received = await flood.read()
        await sending
        lost = self.lost(agents.all) - flood.lost_ends
        assert received == sorted({*received}), "twice, or not in order"
        assert len(received) + flood.refused + lost == self.waiting_messages, "messages were lost and not counted"
        assert unread < self.waiting_messages or lost, f"{unread} messages wait for an agent that reads nothing"

    @with_agents
    async def test_a_subscriber_that_reads_nothing_takes_nothing_from_the_others(self, agents: Agents) -> None:
        alice, lazy, keen = await agents.start(3)
        await lazy.subscribe(_NEWS)
        await keen.subscribe(_NEWS)
        for number in range(self.waiting_messages):
            await alice.post(alice.message(number, topics=[_NEWS], padding_bytes=self.padding_bytes))
            assert await keen.numbers(1) == [number]
        flood = _Flood(alice, lazy)
        ending = asyncio.create_task(flood.send(0))
        received = await flood.read()
        await ending
        lost = self.lost(agents.all) - flood.lost_ends
        assert received == sorted({*received}), "twice, or not in order"
        assert len(received) + lost == self.waiting_messages, "messages were lost and not counted"
        assert lost, f"{self.waiting_messages} messages wait for an agent that reads nothing"

    @with_agents
    async def test_what_an_agent_that_stops_has_not_received_is_counted(self, agents: Agents) -> None:
        if self.delivery == "at least once":
            pytest.skip("the transport declares delivery = 'at least once': it waits in the mailbox")
        alice, bob = await agents.start(2)
        for number in range(5):
            await alice.send(number, bob)
        assert await bob.numbers(2) == [0, 1]
        await bob.stop()
        await self.comes_true(lambda: self.lost(agents.all) >= 3)
        await bob.start()
        await alice.send(5, bob)
        assert await bob.numbers(1) == [5]
        assert self.lost(agents.all) == 3


class _Flood:
    """Messages to one agent, as fast as they are taken, and then an end, which is repeated if it is lost."""

    def __init__(self, sender: Party, recipient: Party, padding_bytes: int = 0) -> None:
        self._sender, self._recipient, self._padding_bytes = sender, recipient, padding_bytes
        self.accepted = self.refused = self._ends = self._ends_received = 0
        self._over = asyncio.Event()

    @property
    def lost_ends(self) -> int:
        """How many of the ends did not arrive: a transport has counted them, too."""
        return self._ends - self._ends_received

    async def send(self, count: int) -> None:
        """So many, one after the other, and the end until it is read."""
        for number in range(count):
            try:
                message = self._sender.message(number, self._recipient, padding_bytes=self._padding_bytes)
                await self._sender.transport.send(message)
                self.accepted += 1
            except Undeliverable:
                self.refused += 1
        while not self._over.is_set():
            self._ends += 1
            try:
                await self._sender.transport.send(self._sender.message(-self._ends, self._recipient))
            except Undeliverable:
                self._ends -= 1
            with suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await self._over.wait()

    async def read(self) -> list[int]:
        """What arrives, up to the last end: as messages arrive in order, no other one is on its way then."""
        numbers: list[int] = []
        while not self._over.is_set():
            number = (await self._recipient.take()).payload["n"]
            if number >= 0:
                numbers.append(number)
                continue
            self._ends_received += 1
            if number == -self._ends:
                self._over.set()
        return numbers


def _of_size(sender: Party, size: int, recipient: Party | None, topics: list[Topic]) -> Message:
    """A signed message whose frame has exactly so many bytes."""

    def message(length: int) -> Message:
        to = None if recipient is None else recipient.id
        return Message(recipient=to, topics=topics, payload={"n": b"x" * length}).sign(sender.identity)

    length = size
    for _ in range(8):  # what says how long something is may be shorter in a shorter message
        made = message(length)
        if (missing := size - len(made.to_bytes())) == 0:
            return made
        length += missing
    raise AssertionError(f"no message has a frame of exactly {size} bytes; declare another max_message_bytes")
