"""What a transport is: it moves messages of one agent, and checks those that come."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from typing import TYPE_CHECKING, Self

from converge.core.errors import MessageDecodeError
from converge.network.replay_window import ReplayWindow

if TYPE_CHECKING:
    from types import TracebackType

    from converge.core.identity import Identity
    from converge.core.message import Message
    from converge.core.topic import Topic
    from converge.network.identity_registry import IdentityRegistry

__all__ = ["Transport"]


class Transport(ABC):
    """The connection of one agent to the others.

    To implement one, write `start`, `stop`, `send`, `receive`, `subscribe` and `unsubscribe`; the last two keep
    `subscriptions`, which outlives a stop and is in force again after the next start. All are coroutines of one event
    loop. `counters` counts by name what was dropped or refused; nothing is lost without a count. `replay_window`
    judges what is fresh; another one may be put in its place before the start.
    """

    def __init__(self, agent_id: str) -> None:
        self.agent_id = agent_id
        self.counters: Counter[str] = Counter()
        self.replay_window = ReplayWindow()
        self.subscriptions: set[Topic] = set()

    def bind_identity(self, identity: Identity) -> None:  # noqa: B027  # most transports prove nothing and need none
        """Take `identity` as that of the agent, before the start; the runtime calls this.

        For transports that prove who they speak for. One that was made with an identity keeps it. The default does
        nothing.
        """

    @abstractmethod
    async def start(self) -> None:
        """Be reachable when this returns. A failed start leaves nothing running; bind errors stay `OSError`."""

    @abstractmethod
    async def stop(self) -> None:
        """Be gone when this returns. Stopping twice, or before a start, is no error."""

    @abstractmethod
    async def send(self, message: Message) -> None:
        """Hand `message` over: to its recipient, to the subscribers of its topics, or to everybody.

        Raises `Undeliverable` when it is known to reach nobody it is addressed to (a topic without subscribers and a
        broadcast with nobody there are no error, and counted), or cannot travel at all: it is too large, or its payload
        is not plain data. `TransportClosed` when not started.
        """

    @abstractmethod
    async def receive(self, timeout: float | None = None) -> Message:
        """The next message as it came, unverified. Raises `TimeoutError` after `timeout` seconds (None: waits).

        Also raises `MessageDecodeError` when what came is no message, and `TransportClosed` when not started or stopped
        meanwhile. Cancelling a receive loses no message.
        """

    @abstractmethod
    async def subscribe(self, topic: Topic) -> None:
        """Receive from now on what is sent to `topic`."""

    @abstractmethod
    async def unsubscribe(self, topic: Topic) -> None:
        """Receive no more of `topic`; one not subscribed is no error."""

    async def receive_verified(
        self,
        identity_registry: IdentityRegistry | None = None,
        timeout: float | None = None,
    ) -> Message | None:
        """The next message if it is authentic, fresh and meant for me; None when one came and was refused.

        Authentic: signed by the key that hashes to its sender, and that sender in `identity_registry` when one is
        given. Fresh: inside the window and not seen before (`replay_window`). For me: I am the recipient, or I
        subscribed one of its topics, or it is a broadcast. Every refusal is counted as `refused_<reason>`; what is no
        message at all is `refused_malformed`. Raises `TimeoutError` when none came within `timeout` seconds.
        """
        try:
            message = await self.receive(timeout)
        except MessageDecodeError:
            self.counters["refused_malformed"] += 1
            return None
        reason = self._refusal(message, identity_registry)
        if reason is None:
            return message
        self.counters[f"refused_{reason}"] += 1
        return None

    def _refusal(self, message: Message, registry: IdentityRegistry | None) -> str | None:
        # The replay window comes last: what is refused for another reason must not change it.
        if not message.is_signed:
            return "unsigned"
        if not message.verify():
            return "forged"
        if registry is not None and registry.get(message.sender) != message.public_key:
            return "unknown_sender"
        if message.recipient is not None:
            if message.recipient != self.agent_id:
                return "misdelivered"
        elif message.topics and self.subscriptions.isdisjoint(message.topics):
            return "not_subscribed"
        return self.replay_window.refusal(message)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()
