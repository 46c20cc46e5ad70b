"""Messages between agents that share a store, in whatever processes: no server, at least once."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen, validators

from converge.core.errors import ConvergeError, MessageDecodeError
from converge.core.limits import DEFAULT_FRAME_BYTES
from converge.core.message import Message
from converge.network.errors import TransportClosed, Undeliverable
from converge.network.replay_window import ReplayWindow
from converge.network.transport.base import Transport
from converge.network.transport.mailbox import Mailbox
from converge.network.transport.post_office import PostOffice

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from converge.core.store import Store
    from converge.core.topic import Topic
    from converge.network.transport.post_office import Letter

__all__ = ["StoreTransport", "StoreTransportOptions"]

_MOST_ID_BYTES = 900
_log = logging.getLogger(__name__)


@frozen
class StoreTransportOptions:
    """Options of `[transport] use = "store"`; see `StoreTransport`."""

    maxsize: int = field(default=1024, validator=validators.ge(1))
    max_bytes: int = field(default=4 * 1024 * 1024, validator=validators.ge(DEFAULT_FRAME_BYTES))
    retention_sec: float = field(default=3600.0, validator=validators.gt(0))


class StoreTransport(Transport):
    """Connects an agent with all others that use the same `store`, each through a mailbox in it.

    At least once, in the order of each sender: a message stays in the store until it is acknowledged, which the
    runtime does when `decide` has returned and its decisions are carried out, and comes again to who starts anew
    before that. What was acknowledged is remembered for `retention_sec`, so that nobody can send it again. The same
    message may so be handled twice after a crash, and only then.

    A mailbox is made by the first `start` of its agent and kept for `retention_sec` after the last: who is away
    meanwhile finds its messages at the next start. One older than `retention_sec`, or than its `ttl_ms`, is dropped
    and counted as `expired`. A mailbox holds `maxsize` messages and `max_bytes` bytes, and a little more when several
    processes send at the same instant; beyond, a direct message is `Undeliverable`, and a copy of a topic message or
    broadcast is dropped and counted as `dropped_mailbox_full`.

    `send` returns when the message is stored as durably as the store stores. What waits at the same time, of all
    agents of an event loop, is one commit. Agents of other processes see it within some 5 ms. Whoever can write to the
    store can write into mailboxes: `receive_verified` tells what is authentic.

    `now` gives Unix seconds. Errors of the store pass through `send` as `Undeliverable`.
    """

    converge_options: ClassVar[type[StoreTransportOptions]] = StoreTransportOptions
    redelivers = True

    def __init__(
        self,
        agent_id: str,
        store: Store,
        *,
        maxsize: int = 1024,
        max_bytes: int = 4 * 1024 * 1024,
        retention_sec: float = 3600.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(agent_id)
        if len(agent_id.encode()) > _MOST_ID_BYTES:
            raise ValueError(f"an agent id in a store has at most {_MOST_ID_BYTES} bytes, as it is part of a key")
        self.replay_window = ReplayWindow(max_age_sec=retention_sec, now=now, started_at=0)
        self._store, self._now = store, now
        self._maxsize, self._max_bytes, self._retention = maxsize, max_bytes, retention_sec
        self._office: PostOffice | None = None
        self._letters: Mailbox[Letter] | None = None
        self._held: dict[Message, str] = {}  # received and not acknowledged, and the keys of their letters
        self._early: list[Letter] | None = None  # what came during the start
        self._taken: set[str] = set()  # keys of the letters that wait here or are held
        self._read: dict[str, float] = {}  # digests of what was acknowledged, and until when they are remembered
        self._left: dict[str, str] = {}  # acknowledged, but the store did not take it: key, digest

    @property
    def waiting(self) -> int:
        """How many messages are here and not received."""
        return 0 if self._letters is None else len(self._letters)

    async def start(self) -> None:
        """Open the mailbox, which is made if it is not there, and take what waits in it."""
        if self._office is not None:
            return
        office = PostOffice.of(self._store, self._now)
        letters: Mailbox[Letter] = Mailbox(sys.maxsize)
        self._letters, self._office, self._early = letters, office, []
        try:
            waiting = await office.open(self)
            self._read = await office.read_before(self.agent_id)
            early, self._early = self._early, None
            for letter in (*waiting, *early):
                self.deliver(letter)
            await office.keep_box(self)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Close the mailbox for now. What was received and not acknowledged comes again after the next start."""
        office, letters = self._office, self._letters
        self._office = self._letters = self._early = None
        if office is None or letters is None:
            return
        letters.close()
        for message in self._held:
            self.replay_window.release(message)
        self._held.clear()
        self._taken.clear()
        await office.close(self)

    def deliver(self, letter: Letter) -> None:
        """Take a letter that the office found; one that is here already is no other one."""
        if self._early is not None:
            self._early.append(letter)  # behind those that the start has yet to find
        elif self._letters is not None and letter.key not in self._taken:
            self._taken.add(letter.key)
            self._letters.put(letter)

    def box(self) -> tuple[set[Topic], float]:
        """What the mailbox is subscribed to, and until when it is kept."""
        return self.subscriptions, self._now() + self._retention

    def forget_read(self, now: float) -> list[tuple[str, float]]:
        """Take out what was read too long ago to be remembered: digests, and until when they were."""
        over = [(digest, until) for digest, until in self._read.items() if until <= now]
        for digest, _ in over:
            del self._read[digest]
        return over

    async def subscribe(self, topic: Topic) -> None:
        """Receive from now on what is sent to `topic`, as soon as the sender's process sees that, in some 5 ms."""
        self.subscriptions.add(topic)
        if self._office is not None:
            await self._office.keep_box(self)

    async def unsubscribe(self, topic: Topic) -> None:
        """Receive no more of `topic`; one not subscribed is no error."""
        self.subscriptions.discard(topic)
        if self._office is not None:
            await self._office.keep_box(self)

    async def send(self, message: Message) -> None:
        """Store `message` in the mailboxes it is for; see `Transport.send` and the class."""
        await self._look_for([message])
        await self._sent(message.recipient, self._post(message))

    async def send_many(self, messages: Sequence[Message]) -> list[Exception | None]:
        """As `Transport.send_many`, in one commit."""
        await self._look_for(messages)
        results: list[Exception | None] = []
        waiting: list[tuple[int, Message, asyncio.Future[None]]] = []
        for index, message in enumerate(messages):
            try:
                waiting.append((index, message, self._post(message)))
                results.append(None)
            except Exception as error:  # noqa: BLE001  # told to the caller, who sent the others too
                results.append(error)
        for index, message, done in waiting:
            try:
                await self._sent(message.recipient, done)
            except Exception as error:  # noqa: BLE001  # as above
                results[index] = error
        return results

    async def _look_for(self, messages: Sequence[Message]) -> None:
        """Look once more before a recipient is said to have no mailbox, or a full one: that may just have changed."""
        office = self._own_office()
        for recipient in {each.recipient for each in messages if each.recipient is not None}:
            if not office.has_box(recipient) or not self._has_room(office, recipient, 0):
                await office.catch_up()
                return

    def _post(self, message: Message) -> asyncio.Future[None]:
        office = self._own_office()
        frame = _frame(message)
        recipients = self._recipients(office, message, len(frame))
        ttl_sec = self._retention if message.ttl_ms is None else min(message.ttl_ms / 1000, self._retention)
        return office.post(frame, recipients, message.timestamp / 1000 + ttl_sec)

    def _recipients(self, office: PostOffice, message: Message, size: int) -> list[str]:
        if message.recipient is not None:
            if not office.has_box(message.recipient):
                raise Undeliverable(
                    message.recipient,
                    "no agent of that id has a mailbox in this store; start it with the same store, or correct the id",
                )
            if not self._has_room(office, message.recipient, size):
                raise Undeliverable(
                    message.recipient, f"its mailbox is full ({self._maxsize} messages or {self._max_bytes} bytes)"
                )
            return [message.recipient]
        audience = [agent for agent in office.audience(message.topics, message.sender) if agent != self.agent_id]
        if not audience:
            self.counters["no_subscriber" if message.topics else "no_audience"] += 1
        taking = [agent for agent in audience if self._has_room(office, agent, size)]
        if len(taking) < len(audience):
            self.counters["dropped_mailbox_full"] += len(audience) - len(taking)
        if audience and not taking:
            raise Undeliverable(None, f"the mailboxes of all {len(audience)} agents it is for are full")
        return taking

    def _has_room(self, office: PostOffice, agent_id: str, size: int) -> bool:
        letters, used = office.load(agent_id)
        return letters < self._maxsize and used + size <= self._max_bytes

    @staticmethod
    async def _sent(recipient: str | None, done: asyncio.Future[None]) -> None:
        try:
            await done
        except (OSError, ValueError, ConvergeError) as error:
            raise Undeliverable(recipient, f"the store did not take it: {error}") from error

    async def receive(self, timeout: float | None = None) -> Message:
        """The next message; see `Transport.receive`."""
        deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
        while True:
            letters = self._letters
            if letters is None:
                raise TransportClosed(f"the store transport of {self.agent_id} is not started; call start() first")
            left = None if deadline is None else max(deadline - asyncio.get_running_loop().time(), 0.0)
            letter = await letters.get(left)
            if (message := self._opened(letter)) is not None:
                return message

    def _opened(self, letter: Letter) -> Message | None:
        """The message in a letter, or None for one that is dropped and counted."""
        if letter.expires_at <= self._now():
            self._drop(letter, "expired")
            return None
        try:
            message = Message.from_bytes(letter.frame)
        except MessageDecodeError:
            self._forget({letter.key: ""})
            raise
        if message in self._held or (_digest(message) in self._read and message.verify()):
            self._drop(letter, "refused_replayed")
            return None
        self._held[message] = letter.key
        return message

    def _drop(self, letter: Letter, reason: str) -> None:
        self.counters[reason] += 1
        self._forget({letter.key: ""})

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        """Remove what has been handled from the mailbox, in one commit, and remember it. Unknown ones are no error.

        Raises what the store raises; they are then removed with the next ones.
        """
        letters, self._left = self._left, {}
        for message in messages:
            key = self._held.pop(message, None)
            if key is not None and message.verify():
                digest = letters[key] = _digest(message)
                self._read[digest] = float(int(self._now() + self._retention))
            elif key is not None:  # anybody can say who sent it: remembered, it would stand in the way of a real one
                letters[key] = ""
        if letters:
            await self._forget(letters)

    async def discard(self, message: Message) -> None:
        """As `Transport.discard`: what was refused leaves the mailbox and is not remembered."""
        key = self._held.pop(message, None)
        if key is not None:
            self._forget({key: ""})

    def _forget(self, letters: Mapping[str, str]) -> asyncio.Future[None]:
        """Remove letters, and remember the digests that come with them."""
        read = [(key, digest, self._read.get(digest, 0.0)) for key, digest in letters.items()]
        done = self._own_office().acknowledge(self.agent_id, read)
        done.add_done_callback(partial(self._forgotten, letters))
        return done

    def _forgotten(self, letters: Mapping[str, str], done: asyncio.Future[None]) -> None:
        if done.cancelled() or done.exception() is not None:
            self._left |= letters
            _log.warning("%s: the store did not take %d acknowledgements", self.agent_id, len(letters))
        else:
            self._taken.difference_update(letters)

    def _own_office(self) -> PostOffice:
        if self._office is None:
            raise TransportClosed(f"the store transport of {self.agent_id} is not started; call start() first")
        return self._office


def _digest(message: Message) -> str:
    """What an acknowledged message is known by: its sender and id."""
    return hashlib.blake2b(f"{message.sender}\0{message.id}".encode(), digest_size=16).hexdigest()


def _frame(message: Message) -> bytes:
    try:
        frame = message.to_bytes()
    except (TypeError, ValueError) as error:
        raise Undeliverable(message.recipient, str(error)) from error
    if len(frame) > DEFAULT_FRAME_BYTES:
        raise Undeliverable(
            message.recipient,
            f"it takes {len(frame)} bytes and a frame has at most {DEFAULT_FRAME_BYTES}; put large data in a store and "
            "send its key",
        )
    return frame
