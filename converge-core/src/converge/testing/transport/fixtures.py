"""The fixture of the contract, what a transport may declare, and what the tests share."""
# these are tests, shipped to authors
# the name of a test is its sentence

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, TypeVar

import pytest
from attrs import frozen

from converge.core.identity import Identity
from converge.core.limits import DEFAULT_FRAME_BYTES
from converge.core.message import Message
from converge.network.transport.base import Transport

if TYPE_CHECKING:
    from converge.core.topic import Topic

__all__ = ["Agents", "Medium", "OpenMedium", "Party", "TransportFixtures", "with_agents"]

_T = TypeVar("_T")


@frozen
class Medium:
    """What transports of one test share, and what can be done to it."""

    connect: Callable[[Identity], Transport]
    """A transport, not started, of the agent with this identity. Where `crosses_processes`, other processes call it
    too, so it can be pickled."""
    misdeliver: Callable[[str, Message], Awaitable[None]] | None = None
    """Puts a message before the agent with this id, whoever it is for; None if your medium cannot be made to."""
    inject: Callable[[str, bytes], Awaitable[None]] | None = None
    """Puts bytes before the agent with this id as if they were a message; None if your medium cannot be made to."""


OpenMedium: TypeAlias = Callable[[], AbstractAsyncContextManager[Medium]]


class Party:
    """One agent of a test and its transport. What takes longer than `patience` seconds is a `TimeoutError`."""

    def __init__(self, identity: Identity, transport: Transport, patience: float) -> None:
        self.identity, self.transport, self._patience = identity, transport, patience

    @property
    def id(self) -> str:
        return self.identity.fingerprint

    def message(
        self, number: int, to: Party | None = None, topics: Iterable[Topic] = (), padding_bytes: int = 0
    ) -> Message:
        """A signed message with `number` as its content."""
        recipient = None if to is None else to.id
        payload = {"n": number, "padding": bytes(padding_bytes)} if padding_bytes else {"n": number}
        return Message(recipient=recipient, topics=[*topics], payload=payload).sign(self.identity)

    async def start(self) -> None:
        await self.within(self.transport.start())

    async def stop(self) -> None:
        await self.within(self.transport.stop())

    async def subscribe(self, topic: Topic) -> None:
        await self.within(self.transport.subscribe(topic))

    async def unsubscribe(self, topic: Topic) -> None:
        await self.within(self.transport.unsubscribe(topic))

    async def send(self, number: int, to: Party | None = None, topics: Iterable[Topic] = ()) -> None:
        await self.post(self.message(number, to, topics))

    async def post(self, message: Message) -> None:
        await self.within(self.transport.send(message))

    async def take(self) -> Message:
        """The next message, acknowledged."""
        message = await self.within(self.transport.receive())
        await self.within(self.transport.acknowledge([message]))
        return message

    async def numbers(self, count: int) -> list[int]:
        """What is in the next so many messages."""
        return [(await self.take()).payload["n"] for _ in range(count)]

    async def until(self, last: int) -> list[int]:
        """What is in the next messages, up to the one with `last`, without it."""
        numbers: list[int] = []
        while (number := (await self.take()).payload["n"]) != last:
            numbers.append(number)
        return numbers

    async def checked(self, registry: Any = None) -> Message | None:  # noqa: ANN401  # an IdentityRegistry or None
        """What `receive_verified` gives, acknowledged."""
        message = await self.within(self.transport.receive_verified(registry))
        if message is not None:
            await self.within(self.transport.acknowledge([message]))
        return message

    async def checked_until(self, last: int, registry: Any = None) -> list[int]:  # noqa: ANN401  # as above
        """What passes `receive_verified`, up to the message with `last`, without it."""
        numbers: list[int] = []
        while True:
            message = await self.checked(registry)
            if message is not None and message.payload["n"] == last:
                return numbers
            if message is not None:
                numbers.append(message.payload["n"])

    async def within(self, work: Awaitable[_T]) -> _T:
        async with asyncio.timeout(self._patience):
            return await work


class Agents:
    """Makes the agents of one test, and stops them after it."""

    def __init__(self, medium: Medium, patience: float) -> None:
        self.medium, self.patience = medium, patience
        self.all: list[Party] = []

    def make(self, identity: Identity | None = None) -> Party:
        """An agent whose transport is not started."""
        identity = Identity.generate() if identity is None else identity
        self.all.append(Party(identity, self.medium.connect(identity), self.patience))
        return self.all[-1]

    async def start(self, count: int) -> list[Party]:
        """So many agents, all of them reachable."""
        parties = [self.make() for _ in range(count)]
        for party in parties:
            await party.start()
        return parties


class TransportFixtures:
    """What the author of a transport gives and declares."""

    delivery: ClassVar[Literal["at most once", "at least once"]] = "at most once"
    """What becomes of a message that was received and not acknowledged when its receiver ends: it is gone, or comes
    again. With "at least once", what is sent to an agent that is away waits for it too."""
    crosses_processes: ClassVar[bool] = False
    """Whether agents of several processes reach each other."""
    carries_unsigned: ClassVar[bool] = True
    """Whether a message without a signature can travel; that `receive_verified` refuses it holds in any case."""
    max_message_bytes: ClassVar[int] = DEFAULT_FRAME_BYTES
    """The size of the largest message that travels, as the frame that `Message.to_bytes` gives."""
    waiting_messages: ClassVar[int] = 1100
    """So many messages are more than can wait for an agent that reads nothing. Make the bound of your transports small
    in `medium`, but not below 100, and give a smaller number here, and the tests are quick."""
    padding_bytes: ClassVar[int] = 0
    """What each of them carries besides, where the buffers of an operating system hold too many small ones."""
    patience: ClassVar[float] = 10.0
    """After how many seconds a call is taken for blocked."""
    blocked_sec: ClassVar[float] = 0.5
    """After how many seconds a `send` to an agent that reads nothing is taken to wait for it to read."""

    @pytest.fixture
    def medium(self) -> OpenMedium:
        """A callable that opens what transports share, empty, as an async context manager which gives a `Medium`."""
        raise NotImplementedError("override the fixture `medium`")

    async def comes_true(self, what: Callable[[], bool]) -> None:
        """Wait until `what` holds: a server may take a moment to see that somebody has gone."""
        async with asyncio.timeout(self.patience):
            while not what():  # noqa: ASYNC110  # there is no event of it
                await asyncio.sleep(0.01)

    def lost(self, parties: Iterable[Party]) -> int:
        """How many messages the transports of `parties` have counted as lost. Override it if a server counts, too."""
        counted = [item for party in parties for item in party.transport.counters.items()]
        return sum(count for name, count in counted if name.startswith("dropped_") or name == "messages_lost")

    def refusals(self, party: Party) -> dict[str, int]:
        """What `receive_verified` of `party` has refused, by reason."""
        counters = party.transport.counters
        return {name.removeprefix("refused_"): n for name, n in counters.items() if name.startswith("refused_") and n}


def with_agents(test: Callable[[Any, Agents], Awaitable[None]]) -> Callable[[Any, OpenMedium], None]:
    """A test that runs in an event loop of its own, on a new medium, and needs no pytest plugin for it."""

    def run(self: TransportFixtures, medium: OpenMedium) -> None:
        async def alone() -> None:
            async with medium() as opened, _stopping(Agents(opened, self.patience)) as agents:
                await test(self, agents)

        asyncio.run(alone())

    run.__name__, run.__qualname__, run.__doc__ = test.__name__, test.__qualname__, test.__doc__
    return run


@asynccontextmanager
async def _stopping(agents: Agents) -> AsyncIterator[Agents]:
    try:
        yield agents
    finally:
        for party in agents.all:
            await party.stop()
