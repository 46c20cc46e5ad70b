"""Messages between the agents of one process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from converge.core.message import Message
from converge.network.errors import TransportClosed, Undeliverable
from converge.network.transport.base import Transport

if TYPE_CHECKING:
    from collections.abc import Iterable

    from converge.core.topic import Topic

__all__ = ["LocalTransport", "LocalTransportRegistry", "Mailbox", "default_registry"]

Mailbox = asyncio.Queue[bytes]
"""Encoded messages on their way to one agent; encoding gives every receiver a copy of its own."""


class LocalTransportRegistry:
    """Who is reachable in this process, and who subscribed to what. For the threads of one event loop."""

    def __init__(self) -> None:
        self._mailboxes: dict[str, Mailbox] = {}
        self._subscribers: dict[Topic, set[str]] = {}

    def register(self, agent_id: str, mailbox: Mailbox) -> None:
        """Deliver to `mailbox` what is for `agent_id`; a later registration of the same id takes over."""
        self._mailboxes[agent_id] = mailbox

    def unregister(self, agent_id: str, mailbox: Mailbox | None = None) -> None:
        """Forget `agent_id` and its subscriptions; with `mailbox`, only if that one is still registered."""
        if mailbox is not None and self._mailboxes.get(agent_id) is not mailbox:
            return
        self._mailboxes.pop(agent_id, None)
        for topic in [topic for topic, agents in self._subscribers.items() if agent_id in agents]:
            self.unsubscribe(agent_id, topic)

    def subscribe(self, agent_id: str, topic: Topic) -> None:
        """Deliver to `agent_id` what is sent to `topic`."""
        self._subscribers.setdefault(topic, set()).add(agent_id)

    def unsubscribe(self, agent_id: str, topic: Topic) -> None:
        """Undo `subscribe`."""
        agents = self._subscribers.get(topic, set())
        agents.discard(agent_id)
        if not agents:
            self._subscribers.pop(topic, None)

    def mailbox(self, agent_id: str) -> Mailbox | None:
        """Where `agent_id` reads, or None when it is not in this process."""
        return self._mailboxes.get(agent_id)

    def audience(self, message: Message) -> list[Mailbox]:
        """The mailboxes of a topic message's subscribers, or of everybody for a broadcast; never the sender's."""
        agents: Iterable[str] = self._mailboxes
        if message.topics:
            agents = set().union(*(self._subscribers.get(topic, ()) for topic in message.topics))
        return [self._mailboxes[agent] for agent in agents if agent != message.sender and agent in self._mailboxes]

    def clear(self) -> None:
        """Forget everybody."""
        self._mailboxes.clear()
        self._subscribers.clear()


default_registry = LocalTransportRegistry()
"""The registry of this process."""


class LocalTransport(Transport):
    """Connects an agent with the others that use the same registry in this process.

    At most once, in order for each sender. Unsigned messages are carried too. A mailbox holds `maxsize` messages:
    when it is full, a direct message raises `Undeliverable`, and a copy of a topic message or broadcast is dropped
    and counted by the sender as `dropped_mailbox_full`. A topic message that nobody subscribed to is counted as
    `no_subscriber`.
    """

    def __init__(self, agent_id: str, registry: LocalTransportRegistry | None = None, *, maxsize: int = 1024) -> None:
        super().__init__(agent_id)
        self._registry = default_registry if registry is None else registry
        self._maxsize = maxsize
        self._mailbox: Mailbox | None = None

    async def start(self) -> None:
        """Register with the registry."""
        if self._mailbox is None:
            self._mailbox = Mailbox(self._maxsize)
        self._registry.register(self.agent_id, self._mailbox)
        for topic in self._subscriptions:
            self._registry.subscribe(self.agent_id, topic)

    async def stop(self) -> None:
        """Leave the registry; messages not yet received are counted as `dropped_at_stop`."""
        if self._mailbox is None:
            return
        self._registry.unregister(self.agent_id, self._mailbox)
        if waiting := self._mailbox.qsize():
            self.counters["dropped_at_stop"] += waiting
        self._mailbox = None

    async def send(self, message: Message) -> None:
        """Put `message` into the mailboxes it is for; see `Transport.send` and the class."""
        self._own_mailbox()
        data = message.to_bytes()
        if message.recipient is not None:
            self._deliver_direct(message.recipient, data)
            return
        audience = self._registry.audience(message)
        if message.topics and not audience:
            self.counters["no_subscriber"] += 1
        for mailbox in audience:
            if mailbox.full():
                self.counters["dropped_mailbox_full"] += 1
            else:
                mailbox.put_nowait(data)

    def _deliver_direct(self, recipient: str, data: bytes) -> None:
        mailbox = self._registry.mailbox(recipient)
        if mailbox is None:
            raise Undeliverable(
                recipient,
                "no agent of that id runs in this process, and the local transport does not leave the process; "
                "start the agent here, or choose a transport that crosses processes",
            )
        if mailbox.full():
            raise Undeliverable(recipient, f"its mailbox is full ({mailbox.maxsize} messages); send more slowly")
        mailbox.put_nowait(data)

    async def receive(self, timeout: float | None = None) -> Message:  # the contract's signature
        """The next message; see `Transport.receive`."""
        mailbox = self._own_mailbox()
        if mailbox.empty():
            async with asyncio.timeout(timeout):
                data = await mailbox.get()
        else:
            data = mailbox.get_nowait()
        return Message.from_bytes(data)

    async def subscribe(self, topic: Topic) -> None:
        """Receive from now on what is sent to `topic`; kept over a restart of this object."""
        self._subscriptions.add(topic)
        if self._mailbox is not None:
            self._registry.subscribe(self.agent_id, topic)

    async def unsubscribe(self, topic: Topic) -> None:
        """Receive no more of `topic`."""
        self._subscriptions.discard(topic)
        self._registry.unsubscribe(self.agent_id, topic)

    def _own_mailbox(self) -> Mailbox:
        if self._mailbox is None:
            raise TransportClosed(f"the local transport of {self.agent_id} is not started; call start() first")
        return self._mailbox
