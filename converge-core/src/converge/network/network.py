"""An agent's view of the others: send, broadcast, discover."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from converge.core.errors import SigningError
from converge.network.discovery import AgentDescriptor, DiscoveryQuery, DiscoveryService, SignedDescriptor, fields_of
from converge.network.requests import MAX_REQUESTS, Requests
from converge.network.traced import requesting, sending, stamped
from converge.observability.tracing import is_in_trace, is_tracing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from converge.core.agent import Agent
    from converge.core.identity import Identity
    from converge.core.message import Message
    from converge.network.transport.base import Transport

__all__ = ["AgentNetwork", "build_descriptor", "register_together", "unregister_together"]


def build_descriptor(agent: Agent) -> AgentDescriptor:
    """What `agent` tells about itself: id, topics, capabilities and public key."""
    return AgentDescriptor(agent.id, agent.topics, list(agent.capabilities), agent.identity.public_key)


class AgentNetwork:
    """Sends for the agents that are registered with it, and finds others.

    Without a `discovery` service it keeps one of its own, which knows the agents registered here. `on_sent` is awaited
    with each message that the transport has taken.
    """

    def __init__(
        self,
        transport: Transport,
        discovery: DiscoveryService | None = None,
        *,
        on_sent: Callable[[Message], Awaitable[None]] | None = None,
    ) -> None:
        self.transport = transport
        self.requests = Requests()
        self.is_read = False
        """Whether somebody reads the transport and hands answers to `requests`; else `request` reads by itself."""
        self.read: Callable[[], Awaitable[Message | None]] = transport.receive_verified
        """How the next message is read and checked; None for one that is refused."""
        self._on_sent = on_sent
        self._to_sign: list[tuple[Message, asyncio.Future[Message]]] | None = None
        self._reading = asyncio.Lock()
        self._unread: deque[Message] | None = None  # made when needed: most agents run in a runtime, which reads
        self.shared_discovery = discovery
        """The service that was given, or None."""
        self._own_discovery: DiscoveryService | None = None  # made when somebody asks: it takes 2 kB
        self._agents: dict[str, tuple[Agent, AgentDescriptor]] = {}  # with what they tell of themselves

    @property
    def discovery(self) -> DiscoveryService:
        """The service that was given, or one that knows the agents registered here."""
        if self.shared_discovery is not None:
            return self.shared_discovery
        if self._own_discovery is None:
            self._own_discovery = DiscoveryService()
            for _, told in self._agents.values():
                self._own_discovery.register(told)
        return self._own_discovery

    @property
    def _has_discovery(self) -> bool:
        return self.shared_discovery is not None or self._own_discovery is not None

    def register_agent(self, agent: Agent, descriptor: AgentDescriptor | None = None) -> None:
        """Sign for `agent` from now on, and make it discoverable, by what it tells of itself unless one is given.

        With a discovery service that is `leased`, the descriptor is signed by the agent, unless it has no private key
        or the one given is of another agent, and is gone when it is not renewed: see `renew_agents`. Errors as
        `DiscoveryService.register`.
        """
        told = build_descriptor(agent) if descriptor is None else descriptor
        self._announce(agent, told)
        self._agents[agent.id] = agent, told

    def _announce(self, agent: Agent, told: AgentDescriptor) -> None:
        if not self._has_discovery:
            fields_of(told)  # refused now, if it will be
            return
        what, ttl_sec = self._announcement(agent, told)
        self.discovery.register(what, ttl_sec=ttl_sec)

    def _announcement(
        self, agent: Agent, told: AgentDescriptor
    ) -> tuple[AgentDescriptor | SignedDescriptor, float | None]:
        discovery, identity = self.discovery, agent.identity
        if not discovery.leased:
            return told, None
        if told.id == identity.fingerprint and identity.private_key is not None:
            return SignedDescriptor.sign(told, identity, discovery.lease_ttl_sec), None
        return told, discovery.lease_ttl_sec

    def renew_agents(self, agent_ids: Iterable[str]) -> None:
        """Keep agents that are registered here discoverable: to be called more often than `discovery.lease_ttl_sec`.

        One whose lease was over is registered again, unless another process has registered the agent since. Unknown
        ids are no error; errors as `DiscoveryService.register`.
        """
        if self.shared_discovery is None:
            return  # one of its own has no leases
        told = {agent_id: self._agents[agent_id][1].id for agent_id in agent_ids if agent_id in self._agents}
        lost = set(self.discovery.renew_many(told.values())) if self.discovery.leased else set()
        for agent_id, descriptor_id in told.items():
            if descriptor_id in lost and self.discovery.get(descriptor_id, refresh_from_store=True) is None:
                self._announce(*self._agents[agent_id])

    def unregister_agent(self, agent_id: str) -> None:
        """Undo `register_agent`; an unknown id is no error."""
        if (gone := self._leaving(agent_id)) is not None:
            descriptor_id, identity = gone
            self.discovery.unregister(descriptor_id, identity=identity)

    def _leaving(self, agent_id: str) -> tuple[str, Identity | None] | None:
        """What is to be unregistered of an agent that is registered here no more, if anything, and by whom."""
        agent, told = self._agents.pop(agent_id, (None, None))
        if not self._has_discovery:
            return None
        if not self.discovery.require_signed:
            return (agent_id if told is None else told.id), None
        return None if agent is None else (agent_id, agent.identity)

    def signs_for(self, agent_id: str) -> bool:
        """Whether messages of this agent, and those without a sender if the transport is its own, are signed here."""
        return agent_id in self._agents and agent_id == self.transport.agent_id

    async def send(self, message: Message) -> Message:
        """Send `message`, signed if it is not yet and its sender is registered here; the message as it was sent.

        Without a sender it is the message of the agent whose transport this is. One that is signed goes as it is,
        whoever signed it; one of an unregistered sender goes unsigned. Errors as `Transport.send`, `SigningError` when
        the agent has no private key, and what `Message.sign` raises for a payload that cannot travel.

        An unsigned message that names no trace belongs to the one that is open here (`converge.observability.tracing`).
        """
        if is_tracing():
            with sending((message,)):
                message = self._signed(message)
                await self._send(message)
                return message
        message = self._signed(message)
        await self._send(message)
        return message

    async def send_many(self, messages: Sequence[Message]) -> list[Message | Exception]:
        """`send` for each message, in their order: the message as it was sent, or the error that kept it from that.

        The unsigned ones of an agent share a signature (`sign_batch`), or have one each if one cannot be signed.
        """
        if not is_tracing():
            return await self._sign_and_send_many(messages)
        with sending(messages):
            return await self._sign_and_send_many(messages)

    async def _sign_and_send_many(self, messages: Sequence[Message]) -> list[Message | Exception]:
        if is_in_trace():
            messages = [stamped(message) for message in messages]
        signed = self._signed_together(messages)
        sent = iter(await self.transport.send_many([each for each in signed if not isinstance(each, Exception)]))
        results: list[Message | Exception] = []
        for each in signed:
            error = each if isinstance(each, Exception) else next(sent)
            results.append(each if error is None else error)
            if error is None and self._on_sent is not None and not isinstance(each, Exception):
                await self._on_sent(each)
        return results

    def _signed_together(self, messages: Sequence[Message]) -> list[Message | Exception]:
        signed: list[Message | Exception] = [*messages]
        unsigned: dict[str, list[int]] = {}
        for index, message in enumerate(messages):
            agent_id = message.sender or self.transport.agent_id
            if not message.is_signed and agent_id in self._agents:
                unsigned.setdefault(agent_id, []).append(index)
        for agent_id, indexes in unsigned.items():
            agent, _ = self._agents[agent_id]
            together: list[Message | Exception] = []
            try:
                together += agent.sign_messages([messages[index] for index in indexes])
            except Exception:  # noqa: BLE001  # whose fault it is shows when each is signed by itself
                together += [_signed_alone(agent, messages[index]) for index in indexes]
            for index, each in zip(indexes, together, strict=True):
                signed[index] = each
        return signed

    def _signed(self, message: Message) -> Message:
        if is_in_trace():
            message = stamped(message)
        agent, _ = self._agents.get(message.sender or self.transport.agent_id, (None, None))
        return agent.sign_message(message) if agent is not None and not message.is_signed else message

    async def _signed_with_others(self, message: Message) -> Message:
        """`_signed`, with one signature for all that are to be signed in the same turn of the event loop."""
        if is_in_trace():
            message = stamped(message)
        loop = asyncio.get_running_loop()
        signed: asyncio.Future[Message] = loop.create_future()
        if self._to_sign is None:
            self._to_sign = []
            loop.call_soon(self._sign_all)
        self._to_sign.append((message, signed))
        return await signed

    def _sign_all(self) -> None:
        waiting, self._to_sign = self._to_sign, None
        wanted = [each for each in waiting or () if not each[1].done()]  # the others were cancelled
        results = self._signed_together([message for message, _ in wanted])
        for (_, signed), result in zip(wanted, results, strict=True):
            if isinstance(result, Exception):
                signed.set_exception(result)
            else:
                signed.set_result(result)

    async def _send(self, message: Message) -> None:
        await self.transport.send(message)
        if self._on_sent is not None:
            await self._on_sent(message)

    async def request(self, message: Message, timeout: float | None = 30.0) -> Message:
        """Send the direct `message` as `send` does, and wait for the answer of its recipient.

        The answer names the request in `in_reply_to`; `Message.reply` makes one. It has to come from the recipient and,
        to a signed request, with a good signature; an answer that comes too late is dropped and counted in
        `requests.counters`. A request to an agent carries its `ttl_ms` as any message; the timeout is not sent along.

        Raises `TimeoutError` after `timeout` seconds, `ValueError` for a message without a recipient, `RuntimeError`
        when too many requests wait, and what `send` raises. Cancelling gives the request up.

        In a runtime the answer comes to whoever awaits it here, never to `decide`; nobody else has to read. Without
        one, this reads the transport meanwhile, and what is no answer waits for `receive`.
        """
        if not is_tracing():
            return await self._ask(message, timeout)
        with requesting(message):
            return await self._ask(message, timeout)

    async def _ask(self, message: Message, timeout: float | None) -> Message:
        message = await self._signed_with_others(message) if len(self.requests) else self._signed(message)
        answer = self.requests.open(message)
        try:
            async with asyncio.timeout(timeout):
                await self._send(message)
                if self.is_read:
                    return await answer
                return await self._read_until(answer)
        except TimeoutError as error:
            raise TimeoutError(f"{message.recipient} has not answered within {timeout} s") from error
        finally:
            self.requests.close(message)

    async def receive(self, timeout: float | None = None) -> Message:
        """The next message that passes the transport's checks and answers no request. For who has no runtime.

        Acknowledge it (`transport.acknowledge`) once it is handled, so that no transport delivers it again.
        Raises `TimeoutError`, and what `Transport.receive_verified` raises.
        """
        async with asyncio.timeout(timeout):
            while True:
                if self._unread:
                    return self._unread.popleft()
                async with self._reading:
                    if not self._unread:  # a request may have read one meanwhile
                        await self._read_one()

    @property
    def has_unread(self) -> bool:
        """Whether `unread` would give any."""
        return bool(self._unread)

    def unread(self) -> list[Message]:
        """What was read while a request waited and answered none; it is for the caller now."""
        messages = [*(self._unread or ())]
        self._unread = None
        return messages

    async def _read_until(self, answer: asyncio.Future[Message]) -> Message:
        while not answer.done():
            async with self._reading:
                if not answer.done():
                    await self._read_one()
        return answer.result()

    async def _read_one(self) -> None:
        message = await self.read()
        if message is None:
            return
        if self.requests.take(message):
            await self.transport.acknowledge([message])
        elif len(self._unread or ()) < MAX_REQUESTS:
            if self._unread is None:
                self._unread = deque()
            self._unread.append(message)
        else:
            self.requests.counters["dropped_unread"] += 1

    async def broadcast(self, message: Message) -> Message:
        """Send `message` to everybody, whatever its recipient and topics were; as `send`.

        Raises `SigningError` when it is signed as a direct or topic message of an agent that is not registered here and
        so cannot sign it anew.
        """
        if message.recipient is not None or message.topics:
            if message.is_signed and message.sender not in self._agents:
                raise SigningError(
                    f"the message was signed by {message.sender} as one that is not a broadcast, and {message.sender} "
                    "is not registered here to sign it again; let it broadcast the message itself"
                )
            message = message.evolve(recipient=None, topics=())
        return await self.send(message)

    def discover(self, query: DiscoveryQuery) -> list[AgentDescriptor]:
        """The agents that fit `query`, in every process that shares the discovery service's store."""
        return self.discovery.query(query, refresh_from_store=True)


def register_together(
    agents: Sequence[tuple[AgentNetwork, Agent, AgentDescriptor]],
) -> list[Exception | None]:
    """`register_agent` for each, in one commit where the store can; all have one discovery service.

    What each would raise for its own descriptor is returned; what the store raises is raised, and nobody is registered.
    """
    results: list[Exception | None] = [None] * len(agents)
    made: dict[int, tuple[AgentDescriptor | SignedDescriptor, float | None]] = {}
    for index, (network, agent, told) in enumerate(agents):
        try:
            made[index] = network._announcement(agent, told)
        except ValueError as error:
            results[index] = error
    if made:
        errors = agents[0][0].discovery.register_many(made.values())
        for index, refused in zip(made, errors, strict=True):
            results[index] = refused
    for (network, agent, told), result in zip(agents, results, strict=True):
        if result is None:
            network._agents[agent.id] = agent, told
    return results


def unregister_together(agents: Sequence[tuple[AgentNetwork, str]]) -> list[Exception | None]:
    """`unregister_agent` for each, in one commit where the store can; all have one discovery service."""
    leaving = [network._leaving(agent_id) for network, agent_id in agents]
    wanted = dict(gone for gone in leaving if gone is not None)
    refused = dict(zip(wanted, agents[0][0].discovery.unregister_many(wanted), strict=True)) if wanted else {}
    return [None if gone is None else refused[gone[0]] for gone in leaving]


def _signed_alone(agent: Agent, message: Message) -> Message | Exception:
    try:
        return agent.sign_message(message)
    except Exception as error:  # noqa: BLE001  # told to who wanted to send this message
        return error
