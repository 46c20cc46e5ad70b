"""What a transport is: it moves messages of one agent, and checks those that come."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Self

from converge.core.errors import MessageDecodeError
from converge.network.replay_window import ReplayWindow

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from converge.core.identity import Identity
    from converge.core.message import Message
    from converge.core.topic import Topic
    from converge.network.identity_registry import IdentityRegistry

__all__ = ["Transport"]

_log = logging.getLogger(__name__)


class Transport(ABC):
    """The connection of one agent to the others.

    To implement one, write `start`, `stop`, `send`, `receive`, `subscribe` and `unsubscribe`; the last two keep
    `subscriptions`, which outlives a stop and is in force again after the next start. All are coroutines of one event
    loop. `counters` counts by name what was dropped or refused; nothing is lost without a count. `replay_window`
    judges what is fresh; another one may be put in its place before the start.
    """

    redelivers: ClassVar[bool] = False
    """Whether what was received and not acknowledged comes again after a stop and the next start."""

    def __init__(self, agent_id: str) -> None:
        self.agent_id = agent_id
        self.counters: Counter[str] = Counter()
        self.replay_window = ReplayWindow()

    @cached_property
    def subscriptions(self) -> set[Topic]:
        """What is subscribed to. It is made when it is first asked for: an empty one takes 216 bytes."""
        return set()

    def bind_identity(self, identity: Identity) -> None:  # noqa: B027  # most transports prove nothing and need none
        """Take `identity` as that of the agent, before the start; the runtime calls this.

        For transports that prove who they speak for. One that was made with an identity keeps it. The default does
        nothing.
        """

    @property
    def waiting(self) -> int:
        """How many messages `receive` can give at once, as far as that is known; this default knows of none."""
        return 0

    def call_when_waiting(self, call: Callable[[], None] | None) -> bool:
        """Call `call` in the event loop whenever `receive` has something to give, or to raise as the transport was
        stopped, and nobody waits in it; None: no more.

        False, as in this default: the transport cannot do that, and somebody has to wait in `receive`. One that can
        saves each idle agent a task. `waiting` has to count then, and it may be called before the start and after the
        stop.
        """
        return False

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

    async def send_many(self, messages: Sequence[Message]) -> list[Exception | None]:
        """Send each message, in their order; for each None, or why it was not sent.

        This default awaits one `send` after the other. A transport for which waiting together is cheaper overrides it.
        """
        results: list[Exception | None] = []
        for message in messages:
            try:
                await self.send(message)
                results.append(None)
            except Exception as error:  # noqa: BLE001  # told to the caller, who sent the others too
                results.append(error)
        return results

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

    async def acknowledge(self, messages: Sequence[Message]) -> None:  # noqa: B027  # most have nothing to do here
        """The messages, received here, have been handled.

        A transport that delivers at least once forgets them now; one that was never acknowledged comes again after a
        restart. One that delivers at most once has nothing to do.
        """

    async def discard(self, message: Message) -> None:  # noqa: B027  # as above
        """`message`, received here, was refused: `receive_verified` awaits this.

        A transport that delivers at least once forgets it now, and does not remember that it came: a forgery must not
        stand in the way of the message that it pretends to be.
        """

    async def receive_verified(
        self,
        identity_registry: IdentityRegistry | None = None,
        timeout: float | None = None,
        *,
        allow_unsigned: bool = False,
    ) -> Message | None:
        """The next message if it is authentic, fresh and meant for me; None when one came and was refused.

        Authentic: signed by the key that hashes to its sender, and that sender in `identity_registry` when one is
        given. Fresh: inside the window, within its `ttl_ms`, stamped since this receiver is there and not seen before
        (`replay_window`). For me: I am the recipient, or I subscribed one of its topics, or it is a broadcast. Every
        refusal is counted as `refused_<reason>`; what is no message at all is `refused_malformed`. With
        `allow_unsigned`, one without a signature passes if it is meant for me. Raises `TimeoutError` when
        none came within `timeout` seconds.
        """
        try:
            message = await self.receive(timeout)
        except MessageDecodeError:
            self.counters["refused_malformed"] += 1
            return None
        if allow_unsigned and not message.is_signed:
            reason = self._misaddressed(message)
        else:
            reason = self._refusal(message, identity_registry) or await self._unsettled(message)
        if reason is None:
            return message
        self.counters[f"refused_{reason}"] += 1
        await self.discard(message)
        return None

    def _refusal(self, message: Message, registry: IdentityRegistry | None) -> str | None:
        # The replay window comes last: what is refused for another reason must not change it.
        if not message.is_signed:
            return "unsigned"
        if not message.verify():
            return "forged"
        if registry is not None and registry.get(message.sender) != message.public_key:
            return "unknown_sender"
        return self._misaddressed(message) or self.replay_window.refusal(message)

    def _misaddressed(self, message: Message) -> str | None:
        if message.recipient == self.agent_id:
            return None
        if message.recipient is not None:
            return "misdelivered"
        if message.topics and self.subscriptions.isdisjoint(message.topics):
            return "not_subscribed"
        return None

    async def _unsettled(self, message: Message) -> str | None:
        """Why `message` cannot be handed out although it is good, or None once its acceptance is on record."""
        try:
            await self.replay_window.settle(message)
        except Exception:  # noqa: BLE001  # whatever a store raises, the message is refused and the loop goes on
            _log.exception("%s: a message is refused, because its acceptance cannot be recorded", self.agent_id)
            self.replay_window.release(message)
            return "unrecorded"
        except BaseException:
            self.replay_window.release(message)
            self.counters["lost_at_cancel"] += 1
            raise
        return None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()
