"""Messages between the agents of one process."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, ClassVar

from attrs import frozen

from converge.core.limits import DEFAULT_FRAME_BYTES
from converge.core.snapshot import Snapshot
from converge.network.errors import TransportClosed, Undeliverable
from converge.network.transport.base import Transport
from converge.network.transport.mailbox import Mailbox, NotTaken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from converge.core.message import Message
    from converge.core.topic import Topic

__all__ = ["LocalOptions", "LocalTransport", "LocalTransportRegistry", "default_registry"]

_log = logging.getLogger(__name__)


class LocalTransportRegistry:
    """Who is reachable in this process, and who subscribed to what. For the coroutines of one event loop.

    A topic costs what its subscribers cost, however many agents and topics there are.
    """

    def __init__(self) -> None:
        self._mailboxes: dict[str, Mailbox[Snapshot]] = {}
        self._subscribers: dict[Topic, dict[str, None]] = {}  # in the order in which they subscribed
        self._topics_of: dict[str, set[Topic]] = {}

    def register(self, agent_id: str, mailbox: Mailbox[Snapshot]) -> None:
        """Deliver to `mailbox` what is for `agent_id`; another one that had the id loses it, subscriptions included."""
        if self._mailboxes.get(agent_id, mailbox) is not mailbox:
            _log.warning("another local transport takes over the agent id %r; the earlier one gets nothing", agent_id)
            self.unregister(agent_id)
        self._mailboxes[agent_id] = mailbox

    def unregister(self, agent_id: str, mailbox: Mailbox[Snapshot] | None = None) -> None:
        """Forget `agent_id` and its subscriptions; with `mailbox`, only if that one is still registered."""
        if mailbox is not None and self._mailboxes.get(agent_id) is not mailbox:
            return
        self._mailboxes.pop(agent_id, None)
        for topic in [*self._topics_of.get(agent_id, ())]:
            self.unsubscribe(agent_id, topic)

    def subscribe(self, agent_id: str, topic: Topic) -> None:
        """Deliver to `agent_id` what is sent to `topic`."""
        self._subscribers.setdefault(topic, {})[agent_id] = None
        self._topics_of.setdefault(agent_id, set()).add(topic)

    def unsubscribe(self, agent_id: str, topic: Topic) -> None:
        """Undo `subscribe`; one not subscribed is no error."""
        agents, topics = self._subscribers.get(topic, {}), self._topics_of.get(agent_id, set())
        agents.pop(agent_id, None)
        topics.discard(topic)
        if not agents:
            self._subscribers.pop(topic, None)
        if not topics:
            self._topics_of.pop(agent_id, None)

    def mailbox(self, agent_id: str) -> Mailbox[Snapshot] | None:
        """Where `agent_id` reads, or None when it is not in this process."""
        return self._mailboxes.get(agent_id)

    def audience(self, message: Message) -> list[Mailbox[Snapshot]]:
        """The mailboxes of a topic message's subscribers, or of everybody for a broadcast; never the sender's."""
        mailboxes, sender = self._mailboxes, message.sender
        agents: Iterable[str] = mailboxes
        if message.topics:
            agents = self._subscribers.get(message.topics[0], ())
            if len(message.topics) > 1:
                agents = {agent: None for topic in message.topics for agent in self._subscribers.get(topic, ())}
        return [mailboxes[agent] for agent in agents if agent != sender and agent in mailboxes]

    def clear(self) -> None:
        """Forget everybody."""
        self._mailboxes.clear()
        self._subscribers.clear()
        self._topics_of.clear()


default_registry = LocalTransportRegistry()
"""The registry of this process."""


@frozen
class LocalOptions:
    """Options of `[transport] use = "local"`: how many messages may wait for one agent."""

    maxsize: int = 1024


class LocalTransport(Transport):
    """Connects an agent with the others that use the same registry in this process.

    At most once, in order for each sender. Unsigned messages are carried too. A mailbox holds `maxsize` messages.
    When it is full, `send` lets the others run once; if it is full then still, a direct message raises
    `Undeliverable`, and a copy of a topic message or broadcast is dropped and counted by the sender as
    `dropped_mailbox_full`, or raises when no copy at all was taken. A message that nobody is there for is counted as
    `no_subscriber` (topics) or `no_audience` (broadcast); the sender is never its own audience.
    """

    converge_options: ClassVar[type[LocalOptions]] = LocalOptions

    def __init__(self, agent_id: str, registry: LocalTransportRegistry | None = None, *, maxsize: int = 1024) -> None:
        super().__init__(agent_id)
        self._registry = default_registry if registry is None else registry
        self._maxsize = maxsize
        self._mailbox: Mailbox[Snapshot] | None = None
        self._on_waiting: Callable[[], None] | None = None

    @property
    def waiting(self) -> int:
        """How many messages are in the mailbox."""
        return 0 if self._mailbox is None else len(self._mailbox)

    def call_when_waiting(self, call: Callable[[], None] | None) -> bool:
        """True, unless a subclass receives in a way of its own: for every message while nobody waits in `receive`."""
        own = type(self)
        if own.receive is not LocalTransport.receive or own.receive_verified is not Transport.receive_verified:
            return False
        self._on_waiting = call
        if self._mailbox is not None:
            self._mailbox.on_item = call
        return True

    async def start(self) -> None:
        """Register with the registry, subscriptions included; takes over from another transport of the same id."""
        if self._mailbox is None:
            self._mailbox = Mailbox(self._maxsize)
            self._mailbox.on_item = self._on_waiting
        self._registry.register(self.agent_id, self._mailbox)
        for topic in vars(self).get("subscriptions", ()):  # nobody may have asked for them yet
            self._registry.subscribe(self.agent_id, topic)

    async def stop(self) -> None:
        """Leave the registry; messages not yet received are counted as `dropped_at_stop`, and who waits is woken."""
        mailbox, self._mailbox = self._mailbox, None
        if mailbox is None:
            return
        self._registry.unregister(self.agent_id, mailbox)
        if waiting := mailbox.close():
            self.counters["dropped_at_stop"] += waiting
        if self._on_waiting is not None:
            self._on_waiting()  # who does not wait in `receive` is woken too

    async def send(self, message: Message) -> None:
        """Put `message` into the mailboxes it is for; see `Transport.send` and the class."""
        own = self._own_mailbox()
        snapshot = _snapshot(message)
        if message.recipient is None:
            await self._send_to_many(message, snapshot, own)
            return
        mailbox = self._registry.mailbox(message.recipient)
        if mailbox is None or mailbox.put(snapshot):
            await self._send_again(message.recipient, snapshot, mailbox)

    async def _send_again(self, recipient: str, snapshot: Snapshot, mailbox: Mailbox[Snapshot] | None) -> None:
        """Once more, after a full mailbox had the chance to be emptied; or say why not."""
        if mailbox is not None and mailbox.full:
            await asyncio.sleep(0)  # a sender in a loop would else never let the receiver empty it
            mailbox = self._registry.mailbox(recipient)
        if mailbox is None:
            raise Undeliverable(
                recipient,
                "no agent of that id runs in this process, and the local transport does not leave the process; "
                "start the agent here, or choose a transport that crosses processes",
            )
        refused = mailbox.put(snapshot)
        if refused is not None:
            raise Undeliverable(recipient, _REASONS[refused].format(maxsize=mailbox.maxsize))

    async def _send_to_many(self, message: Message, snapshot: Snapshot, own: Mailbox[Snapshot]) -> None:
        audience = self._audience(message, own)
        if any(mailbox.full for mailbox in audience):
            await asyncio.sleep(0)  # as above
            audience = self._audience(message, own)
        if not audience:
            self.counters["no_subscriber" if message.topics else "no_audience"] += 1
            return
        refused = [reason for mailbox in audience if (reason := mailbox.put(snapshot)) is not None]
        if not refused:
            return
        self.counters.update(f"dropped_{reason}" for reason in refused)
        if len(refused) == len(audience):
            reasons = ", ".join(sorted(set(refused)))
            raise Undeliverable(None, f"none of the {len(audience)} agents it is for could take it ({reasons})")

    def _audience(self, message: Message, own: Mailbox[Snapshot]) -> list[Mailbox[Snapshot]]:
        return [mailbox for mailbox in self._registry.audience(message) if mailbox is not own]

    async def receive(self, timeout: float | None = None) -> Message:
        """The next message; see `Transport.receive`."""
        return (await self._own_mailbox().get(timeout)).message()

    async def subscribe(self, topic: Topic) -> None:
        """Receive from now on what is sent to `topic`; kept over a restart of this object."""
        self.subscriptions.add(topic)
        if self._is_registered():
            self._registry.subscribe(self.agent_id, topic)

    async def unsubscribe(self, topic: Topic) -> None:
        """Receive no more of `topic`; one not subscribed is no error."""
        self.subscriptions.discard(topic)
        if self._is_registered():
            self._registry.unsubscribe(self.agent_id, topic)

    def _is_registered(self) -> bool:
        """Whether the id is this transport's: another one of the same id may have taken over."""
        return self._mailbox is not None and self._registry.mailbox(self.agent_id) is self._mailbox

    def _own_mailbox(self) -> Mailbox[Snapshot]:
        if self._mailbox is None:
            raise TransportClosed(f"the local transport of {self.agent_id} is not started; call start() first")
        return self._mailbox


_REASONS: dict[NotTaken, str] = {
    "mailbox_full": "its mailbox is full ({maxsize} messages); send more slowly, or give its transport more `maxsize`",
    "mailbox_closed": "its transport was stopped; start it again",
    "other_event_loop": (
        "it runs in another event loop of this process, and the local transport serves one; run both agents in one "
        "loop, or choose a transport that crosses processes"
    ),
}


def _snapshot(message: Message) -> Snapshot:
    """What travels; `Undeliverable` for what no other transport could carry either."""
    try:
        snapshot = Snapshot(message)
        if snapshot.fits(DEFAULT_FRAME_BYTES):
            return snapshot
        size = snapshot.frame_size()
    except (TypeError, ValueError) as error:
        raise Undeliverable(message.recipient, str(error)) from error
    raise Undeliverable(
        message.recipient,
        f"it takes {size} bytes and a frame has at most {DEFAULT_FRAME_BYTES}; put large data in a store and "
        "send its key",
    )
