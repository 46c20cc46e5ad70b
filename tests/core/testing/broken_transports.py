"""Transports with one mistake each, for the contract to find; importable by other processes."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Sequence
from typing import Any

from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.snapshot import Snapshot
from converge.core.topic import Topic
from converge.extensions.storage.memory import MemoryStore
from converge.network.errors import Undeliverable
from converge.network.identity_registry import IdentityRegistry
from converge.network.transport.local import LocalTransport, LocalTransportRegistry
from converge.network.transport.mailbox import Mailbox
from converge.network.transport.store import StoreTransport


class FallsBackToEverybody(LocalTransport):
    """A topic without subscribers goes to all."""

    async def send(self, message: Message) -> None:
        if message.topics and message.recipient is None and not self._registry.audience(message):
            for agent in [*self._registry._mailboxes]:
                await self._send_again(agent, Snapshot(message), self._registry.mailbox(agent))
        else:
            await super().send(message)


class TellsEverybody(LocalTransport):
    """What is direct reaches all."""

    async def send(self, message: Message) -> None:
        if message.recipient is None:
            await super().send(message)
            return
        for agent in [*self._registry._mailboxes]:
            await self._send_again(agent, Snapshot(message), self._registry.mailbox(agent))


class ComparesNamesOfTopics(LocalTransport):
    """Attributes and version of a topic do not count."""

    async def send(self, message: Message) -> None:
        topics = [Topic(topic.namespace) for topic in message.topics]
        for topic in [*self._registry._subscribers]:
            if Topic(topic.namespace) in topics:
                for agent in self._registry._subscribers[topic]:
                    await self._send_again(agent, Snapshot(message), self._registry.mailbox(agent))
                return
        await super().send(message)


class SendsOnceATopic(LocalTransport):
    """Two topics, two copies."""

    async def send(self, message: Message) -> None:
        if message.recipient is not None or len(message.topics) < 2:
            await super().send(message)
            return
        for topic in message.topics:
            for agent in self._registry._subscribers.get(topic, ()):
                await self._send_again(agent, Snapshot(message), self._registry.mailbox(agent))


class HearsItself(LocalTransport):
    def _audience(self, message: Message, own: Mailbox[Snapshot]) -> list[Mailbox[Snapshot]]:
        found = super()._audience(message, own)
        return [*found, own] if own not in found else found


class IgnoresUnsubscribe(LocalTransport):
    async def unsubscribe(self, topic: Topic) -> None:
        self.subscriptions.discard(topic)


class SaysNothingOfNobody(LocalTransport):
    async def send(self, message: Message) -> None:
        try:
            await super().send(message)
        except Undeliverable as error:
            if "no agent of that id" not in str(error):
                raise


class SharesItsPayload(LocalTransport):
    """All receivers have one dict."""

    async def receive(self, timeout: float | None = None) -> Message:
        assert self._mailbox is not None
        return (await self._own_mailbox().get(timeout))._message


class HoldsThePayload(LocalTransport):
    """The sender's dict is what comes, as it is by then."""

    async def receive(self, timeout: float | None = None) -> Message:
        one = (await self._own_mailbox().get(timeout))._message
        return Snapshot(one).message() if one.is_signed else one


class LosesHeaders(LocalTransport):
    async def send(self, message: Message) -> None:
        if message.headers and not message.is_signed:
            message = message.evolve(headers={})
        elif message.headers:
            message = Message(message.id, message.sender, message.recipient, message.topics, message.payload)
        await super().send(message)


class NewestFirst(LocalTransport):
    async def receive(self, timeout: float | None = None) -> Message:
        items = self._own_mailbox()._items
        if items is not None and len(items) > 1:
            return items.pop().message()
        return await super().receive(timeout)


class LosesWhatACancelledReceiveHad(LocalTransport):
    async def receive(self, timeout: float | None = None) -> Message:
        message = await super().receive(timeout)
        await asyncio.sleep(0)
        return message


class LosesWhatComesAtTheTimeout(LocalTransport):
    """`wait_for` around a getter that goes on."""

    async def receive(self, timeout: float | None = None) -> Message:
        getting = asyncio.create_task(super().receive())
        getting.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody asks any more
        await asyncio.wait({getting}, timeout=timeout)
        if not getting.done():
            raise TimeoutError
        return getting.result()


class GivesUpNever(LocalTransport):
    async def receive(self, timeout: float | None = None) -> Message:
        return await super().receive(None)


class AllGetTheSame(LocalTransport):
    """Receivers look at the oldest message, and then take one."""

    async def receive(self, timeout: float | None = None) -> Message:
        mailbox = self._own_mailbox()
        while not mailbox._items:
            waiter = asyncio.get_running_loop().create_future()
            mailbox._waiters = deque([*(mailbox._waiters or ()), waiter])
            await waiter
        message = mailbox._items[0].message()
        await asyncio.sleep(0)
        if mailbox._items:
            mailbox._items.popleft()
        return message


class StartsAnew(LocalTransport):
    """A second start loses what came since the first."""

    async def start(self) -> None:
        self._mailbox = None
        await super().start()


class StopsOnceOnly(LocalTransport):
    async def stop(self) -> None:
        if self._mailbox is None:
            raise RuntimeError("not started")
        await super().stop()


class ForgetsItsTopics(LocalTransport):
    async def stop(self) -> None:
        await super().stop()
        self.subscriptions.clear()


class SubscribesWhenStartedOnly(LocalTransport):
    async def subscribe(self, topic: Topic) -> None:
        if self._mailbox is not None:
            await super().subscribe(topic)


class LeavesWhoWaits(LocalTransport):
    async def stop(self) -> None:
        if self._mailbox is not None:
            self._mailbox._waiters = None
        await super().stop()


class SendsWhenStopped(LocalTransport):
    async def send(self, message: Message) -> None:
        if self._mailbox is None:
            return
        await super().send(message)


class LeavesATask(LocalTransport):
    async def start(self) -> None:
        await super().start()
        self.task = asyncio.create_task(asyncio.sleep(3600))


class HasNoBound(LocalTransport):
    def __init__(self, agent_id: str, registry: LocalTransportRegistry, *, maxsize: int) -> None:
        super().__init__(agent_id, registry, maxsize=sys.maxsize)


class DropsInSilence(LocalTransport):
    async def send(self, message: Message) -> None:
        before = self.counters.copy()
        try:
            await super().send(message)
        except Undeliverable as error:
            if "full" not in str(error):
                raise
        self.counters = before


class CountsNothingAtTheStop(LocalTransport):
    async def stop(self) -> None:
        await super().stop()
        self.counters.clear()


class DropsForAll(LocalTransport):
    """One mailbox that is full, and nobody gets the message."""

    async def _send_to_many(self, message: Message, snapshot: Snapshot, own: Mailbox[Snapshot]) -> None:
        if any(mailbox.full for mailbox in self._audience(message, own)):
            self.counters["dropped_mailbox_full"] += 1
        else:
            await super()._send_to_many(message, snapshot, own)


class WaitsForTheSlowest(LocalTransport):
    async def _send_to_many(self, message: Message, snapshot: Snapshot, own: Mailbox[Snapshot]) -> None:
        while any(mailbox.full for mailbox in self._audience(message, own)):  # noqa: ASYNC110  # the mistake
            await asyncio.sleep(0.001)
        await super()._send_to_many(message, snapshot, own)


class TakesAnySize(LocalTransport):
    async def send(self, message: Message) -> None:
        assert message.recipient is None or self._mailbox is not None
        mailbox = None if message.recipient is None else self._registry.mailbox(message.recipient)
        if mailbox is None or len(message.signature) == 0:
            await super().send(message)
        else:
            mailbox.put(Snapshot(message))


class RefusesTheLargest(LocalTransport):
    async def send(self, message: Message) -> None:
        if len(message.to_bytes()) >= 256 * 1024:
            raise Undeliverable(message.recipient, "too large")
        await super().send(message)


class TakesAnyPayload(LocalTransport):
    """What is no plain data passes as text."""

    async def send(self, message: Message) -> None:
        try:
            await super().send(message)
        except Undeliverable as error:
            if "plain data" not in str(error):
                raise
            await super().send(message.evolve(payload={"n": repr(message.payload)}))


class Trusts(LocalTransport):
    """`receive_verified` verifies what it is told to, but one thing."""

    skipped = ""

    def _refusal(self, message: Message, registry: IdentityRegistry | None) -> str | None:
        reason = super()._refusal(message, registry)
        return None if reason == self.skipped else reason


class TrustsTheUnsigned(Trusts):
    skipped = "unsigned"


class TrustsForgeries(Trusts):
    skipped = "forged"


class TrustsAnybody(Trusts):
    skipped = "unknown_sender"


class TrustsReplays(Trusts):
    skipped = "replayed"


class TrustsOldMessages(Trusts):
    skipped = "stale"


class TrustsExpiredMessages(Trusts):
    skipped = "expired"


class TrustsTheFuture(Trusts):
    skipped = "future"


class TrustsTheAddress(Trusts):
    skipped = "misdelivered"


class TrustsTheTopic(Trusts):
    skipped = "not_subscribed"


class RemembersForgeries(LocalTransport):
    """Whoever sends a spoilt copy first spoils the message."""

    def _refusal(self, message: Message, registry: IdentityRegistry | None) -> str | None:
        replayed = self.replay_window.refusal(message)
        return replayed or super()._refusal(message.evolve(id="x") if not message.is_signed else message, registry)


class DropsWhatACancelledSendHad(LocalTransport):
    """Sends it later, if nobody cancels, and again if somebody does."""

    async def send(self, message: Message) -> None:
        await super().send(message)
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            await super().send(message)
            raise


class StartsOnceOnly(LocalTransport):
    async def start(self) -> None:
        if getattr(self, "was_started", False) and self._mailbox is None:
            return
        self.was_started = True
        await super().start()


class LeavesTheBlockRunning(LocalTransport):
    async def __aexit__(self, *error: object) -> None: ...


class NeverWritesToItself(LocalTransport):
    async def send(self, message: Message) -> None:
        if message.recipient == self.agent_id:
            raise Undeliverable(message.recipient, "that is me")
        await super().send(message)


class KnowsNoTopics(LocalTransport):
    async def send(self, message: Message) -> None:
        if message.recipient is None and message.topics:
            self.counters["no_subscriber"] += 1
        else:
            await super().send(message)


class TrustsNobody(LocalTransport):
    def _refusal(self, message: Message, registry: IdentityRegistry | None) -> str | None:
        return super()._refusal(message, registry) or "forged"


class KnowsNoBatches(LocalTransport):
    """A signature that is longer than one is taken for a forgery."""

    def _refusal(self, message: Message, registry: IdentityRegistry | None) -> str | None:
        return "forged" if len(message.signature) > 64 else super()._refusal(message, registry)


class SendsOneAtATime(LocalTransport):
    """What is sent while another send goes on takes its place."""

    async def send(self, message: Message) -> None:
        self.next = message
        await asyncio.sleep(0)
        await super().send(self.next)


class WaitsUntilItIsRead(LocalTransport):
    """`send` returns when the recipient has read, so that two who write to each other wait for ever."""

    async def send(self, message: Message) -> None:
        await super().send(message)
        mailbox = None if message.recipient is None else self._registry.mailbox(message.recipient)
        while mailbox is not None and len(mailbox):  # noqa: ASYNC110  # the mistake
            await asyncio.sleep(0.001)


class ForgetsWhatItKnows(LocalTransport):
    """An acknowledgement of what never came is an error."""

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self.known.remove(message.id)

    async def receive(self, timeout: float | None = None) -> Message:
        message = await super().receive(timeout)
        self.known = {*getattr(self, "known", ()), message.id}
        return message


class TakesTheFieldsForTheMessage(LocalTransport):
    """A message whose sender was changed after it was signed is signed anew, by whoever sends it."""

    async def send(self, message: Message) -> None:
        if not message.is_signed and message.sender in KEYS:
            message = message.sign(KEYS[message.sender])
        await super().send(message)


KEYS: dict[str, Identity] = {}
"""Of all agents of `TakesTheFieldsForTheMessage`."""


class TrustsForgedLetters(StoreTransport):
    def _refusal(self, message: Message, registry: IdentityRegistry | None) -> str | None:
        reason = super()._refusal(message, registry)
        return None if reason == "forged" else reason


class StaysInItsProcess(StoreTransport):
    """Its store is one of its process."""

    def __init__(self, agent_id: str, store: Any, **options: Any) -> None:
        super().__init__(agent_id, _MINE, **options)


_MINE = MemoryStore()


class AcknowledgesAtOnce(StoreTransport):
    """Forgets a message when it is received."""

    async def receive(self, timeout: float | None = None) -> Message:
        message = await super().receive(timeout)
        await super().acknowledge([message])
        return message


class NeverAcknowledges(StoreTransport):
    async def acknowledge(self, messages: Sequence[Message]) -> None: ...


class ForgetsWhatItHasRead(StoreTransport):
    """What was acknowledged may come again."""

    async def start(self) -> None:
        await super().start()
        self._read = {}


class RemembersWhatItRefused(StoreTransport):
    """A forgery stands in the way of the message that it pretends to be."""

    async def discard(self, message: Message) -> None:
        key = self._held.pop(message, "")
        self._read[_digest_of(message)] = self._now() + 3600
        self._forget({key: _digest_of(message)})

    def _opened(self, letter: Any) -> Message | None:
        message = super()._opened(letter)
        if message is not None and _digest_of(message) in self._read:
            self._drop(letter, "refused_replayed")
            return None
        return message


class RefusesWhatComesAgain(StoreTransport):
    """Its replay window knows what was not acknowledged, and so refuses it for ever."""

    async def stop(self) -> None:
        self._held.clear()
        await super().stop()


class LosesWhatComesWhileItIsAway(StoreTransport):
    async def start(self) -> None:
        for key in self._store.list(f"mail:{self.agent_id}:"):
            self._store.delete(key)
        await super().start()


class LetsGarbageOut(StoreTransport):
    async def receive(self, timeout: float | None = None) -> Message:
        try:
            return await super().receive(timeout)
        except ValueError as error:
            raise RuntimeError("garbage") from error


class DropsGarbageInSilence(StoreTransport):
    async def receive(self, timeout: float | None = None) -> Message:
        while True:
            try:
                return await super().receive(timeout)
            except ValueError:
                continue


class TellsBeforeItIsStored(StoreTransport):
    """The last three messages are on their way when the sender is told that they are sent."""

    async def send(self, message: Message) -> None:
        self.later = [*getattr(self, "later", []), message]
        if len(self.later) > 3:
            await super().send(self.later.pop(0))


class EndsWithItsFirstUser(StoreTransport):
    """A receive that waits is told nothing."""

    async def stop(self) -> None:
        letters = self._letters
        if letters is not None:
            letters._waiters = None
        await super().stop()


def _digest_of(message: Message) -> str:
    from converge.network.transport.store import _digest

    return _digest(message)
