"""Who is connected, who subscribed to what, and whom a message is for. Nothing here does I/O."""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING

import msgpack
import msgspec

from converge.core.limits import MAX_ELEMENTS, MAX_TOPICS, check_text
from converge.core.topic import Topic
from converge.core.wire import VERSION
from converge.network.transport.websocket.errors import CloseCode, ProtocolViolation
from converge.network.transport.websocket.packets import Kind, Lost, encode_ids

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from converge.network.transport.websocket.limits import HubLimits
    from converge.network.transport.websocket.outbox import Outbox

__all__ = ["Peer", "Router", "topic_key"]

_CACHED_TOPIC_BYTES = 512


class _Routing(msgspec.Struct, array_like=True, gc=False):
    """The start of a body: what is for the hub to read. The rest, the payload included, is passed over."""

    version: int
    public_key: bytes | None
    sender: str | None
    id: str
    recipient: str | None
    topics: list[msgspec.Raw]


_frame = msgspec.msgpack.Decoder(tuple[bytes, bytes])
_routing = msgspec.msgpack.Decoder(_Routing)


class Peer:
    """An authenticated agent: its key, what waits for it, and what it wants to hear of."""

    def __init__(self, agent_id: str, public_key: bytes, outbox: Outbox) -> None:
        self.id, self.public_key, self.outbox = agent_id, public_key, outbox
        self.topics: set[bytes] = set()
        self.watched: set[str] = set()
        self.held: set[Peer] = set()
        """Who was told that this one is busy, and not yet that it is ready again."""
        self.has_left = False


class Router:
    """Carries messages from one peer to the outboxes of others. `counters` counts what was carried, refused, dropped.

    A message is refused unless its sender is the peer it came from; the signature is for the receivers to check.
    """

    def __init__(self, limits: HubLimits) -> None:
        self._limits = limits
        self._peers: dict[str, Peer] = {}
        self._subscribers: dict[bytes, dict[Peer, None]] = {}
        self._watchers: dict[str, set[Peer]] = {}
        self.counters: Counter[str] = Counter()
        self.carries_many = False
        """Whether more messages are about to be carried in this turn of the event loop."""

    @property
    def peers(self) -> Collection[Peer]:
        """Everybody who is connected."""
        return self._peers.values()

    @property
    def subscriptions(self) -> int:
        """How many there are, of all peers."""
        return sum(len(peers) for peers in self._subscribers.values())

    def get(self, agent_id: str) -> Peer | None:
        """The peer of that id, when it is connected."""
        return self._peers.get(agent_id)

    def join(self, peer: Peer) -> Peer | None:
        """`peer` is here; the one that had its id until now, whose waiting messages it takes over."""
        earlier = self._peers.get(peer.id)
        if earlier is not None:
            self._forget(earlier)
            peer.held, earlier.held = earlier.held, set()
            for frame in earlier.outbox.take_all():
                self._offer(peer, frame)
        self._peers[peer.id] = peer
        return earlier

    def leave(self, peer: Peer) -> None:
        """`peer` is gone; who watched it is told, and what waited for it is dropped and counted. Once is enough."""
        if peer.has_left:
            return
        peer.has_left = True
        self._forget(peer)
        self.release(peer)
        self._count("dropped_disconnected", len(peer.outbox.take_all()))
        self._count("lost_unconfirmed", peer.outbox.unconfirmed)
        if self._peers.get(peer.id) is peer:
            del self._peers[peer.id]
            notice = encode_ids(Kind.GONE, [peer.id])
            for watcher in self._watchers.pop(peer.id, ()):
                watcher.watched.discard(peer.id)
                self._notify(watcher, notice)

    def release(self, peer: Peer) -> None:
        """Little waits for `peer` now: those who were told that it is busy may go on."""
        held, peer.held = peer.held, set()
        notice = encode_ids(Kind.READY, [peer.id])
        for sender in held:
            self._notify(sender, notice)

    def _notify(self, peer: Peer, notice: bytes) -> None:
        self._count("dropped_notices", not peer.outbox.notify(notice))

    def _forget(self, peer: Peer) -> None:
        for key in peer.topics:
            self._unsubscribe(peer, key)
        peer.topics = set()
        for watched in peer.watched:
            watchers = self._watchers.get(watched, set())
            watchers.discard(peer)
            if not watchers:
                self._watchers.pop(watched, None)
        peer.watched = set()

    def subscribe(self, peer: Peer, topics: Iterable[bytes]) -> None:
        """Carry to `peer` what is about `topics` (packed wire fields); `ProtocolViolation` beyond the bound."""
        for key in [topic_key(packed) for packed in topics]:
            if key not in peer.topics and len(peer.topics) >= self._limits.max_subscriptions:
                text = f"an agent has at most {self._limits.max_subscriptions} subscriptions here"
                raise ProtocolViolation(CloseCode.TOO_MANY, text)
            peer.topics.add(key)
            self._subscribers.setdefault(key, {})[peer] = None

    def unsubscribe(self, peer: Peer, topics: Iterable[bytes]) -> None:
        """Undo `subscribe`; a topic that is not subscribed is no error."""
        for key in [topic_key(packed) for packed in topics]:
            peer.topics.discard(key)
            self._unsubscribe(peer, key)

    def _unsubscribe(self, peer: Peer, key: bytes) -> None:
        subscribers = self._subscribers.get(key)
        if subscribers is not None:
            subscribers.pop(peer, None)
            if not subscribers:
                del self._subscribers[key]

    def present(self, peer: Peer, ids: Iterable[str]) -> list[str]:
        """Those of `ids` that are here; `peer` is told when one is busy, or leaves (as far as the bound allows)."""
        found = [agent_id for agent_id in ids if agent_id in self._peers]
        for agent_id in found:
            self._hold_back(peer, self._peers[agent_id])
            if len(peer.watched) < self._limits.max_watched:
                peer.watched.add(agent_id)
                self._watchers.setdefault(agent_id, set()).add(peer)
        return found

    def route(self, peer: Peer, frame: bytes, lost: list[Lost]) -> int:
        """Carry one message; how many outboxes it was offered to. What was lost of direct ones is added to `lost`."""
        try:
            routing = _routing.decode(_frame.decode(frame)[0])
            keys = [topic_key(bytes(topic)) for topic in routing.topics] if routing.recipient is None else ()
        except (msgspec.DecodeError, ValueError, RecursionError):
            self.counters["refused_malformed"] += 1
            return 1
        if routing.version != VERSION or len(keys) > MAX_TOPICS or len(routing.id) > MAX_ELEMENTS:
            self.counters["refused_malformed"] += 1
            return 1
        sender_key = routing.public_key
        if sender_key != peer.public_key and (sender_key is not None or routing.sender != peer.id):
            self.counters["refused_sender"] += 1
            self._lost(routing, "not_its_sender", lost)
            return 1
        if routing.recipient is not None:
            self._route_direct(peer, routing.recipient, routing, frame, lost)
            return 1
        return self._route_to_many(peer, keys, frame)

    def _route_direct(self, peer: Peer, recipient: str, routing: _Routing, frame: bytes, lost: list[Lost]) -> None:
        target = self._peers.get(recipient)
        if target is None:
            self.counters["dropped_not_connected"] += 1
            self._lost(routing, "not_connected", lost)
            return
        if not self._offer(target, frame):
            self._lost(routing, "outbox_full", lost)
        self._hold_back(peer, target)

    def _hold_back(self, peer: Peer, target: Peer) -> None:
        """Tell `peer` once that `target` is busy, if it is."""
        if target.outbox.is_filling and peer not in target.held:
            target.held.add(peer)
            self._notify(peer, encode_ids(Kind.BUSY, [target.id]))

    def _route_to_many(self, peer: Peer, keys: Collection[bytes], frame: bytes) -> int:
        audience: Iterable[Peer]
        if len(keys) == 1:
            (key,) = keys
            audience = self._subscribers.get(key, ())
        elif keys:
            audience = dict.fromkeys(one for key in keys for one in self._subscribers.get(key, ()))
        else:
            audience = self._peers.values()
        offered = 0
        for target in audience:
            if target is not peer:
                offered += 1
                self._offer(target, frame)
        if not offered:
            self.counters["no_subscriber" if keys else "no_audience"] += 1
        return offered or 1

    def _offer(self, peer: Peer, frame: bytes) -> bool:
        full = peer.outbox.offer(frame)
        self.counters["carried" if full is None else f"dropped_{full}"] += 1
        return full is None

    @staticmethod
    def _lost(routing: _Routing, reason: str, lost: list[Lost]) -> None:
        if routing.recipient is not None:
            lost.append(Lost(routing.id, routing.recipient[:MAX_ELEMENTS], reason))

    def _count(self, name: str, number: int) -> None:
        if number:
            self.counters[name] += number


def topic_key(packed: bytes) -> bytes:
    """What equal topics have in common, however they are packed; `ValueError` when `packed` is no topic."""
    return _cached_key(packed) if len(packed) <= _CACHED_TOPIC_BYTES else _key(packed)


def _key(packed: bytes) -> bytes:
    try:
        fields = msgpack.unpackb(packed, strict_map_key=True, max_ext_len=0, max_array_len=MAX_ELEMENTS)
        if type(fields) is not list or len(fields) != 3:
            raise ValueError("a topic is an array of namespace, attributes and version")
        check_text(fields[0], "the namespace of a topic")
        return hashlib.sha256(msgpack.packb(Topic(*fields).wire_fields)).digest()
    except Exception as error:  # noqa: BLE001  # msgpack has error classes outside ValueError; one kind leaves here
        raise ValueError(f"not a topic: {error}") from None


_cached_key = lru_cache(maxsize=8192)(_key)
