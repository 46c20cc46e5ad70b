"""Which messages are fresh: inside the time window, not expired, and never seen before."""

from __future__ import annotations

import hashlib
import time
from math import inf
from typing import TYPE_CHECKING, TypeAlias

from attrs import define, field

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.core.message import Message

__all__ = ["Key", "ReplayWindow", "digest_of"]

_BUCKETS_IN_WINDOW = 4
_DIGEST_BYTES = 16
_LONGEST_KEY = 48

Key: TypeAlias = str | bytes
"""What is remembered of a message, for its sender and its stretch of time."""


@define
class _Bucket:
    """What was accepted with a timestamp inside one stretch of time."""

    newest: int = 0
    seen: dict[str, set[Key]] = field(factory=dict)


class ReplayWindow:
    """Accepts a message once, if its timestamp is at most `max_age_sec` old and `max_ahead_sec` ahead of this clock.

    Nothing stamped before `started_at` (Unix seconds; when the window was made, unless given) is accepted, because
    nobody remembers what a receiver accepted before it was restarted. `StoredReplayWindow` remembers. A message with a
    `ttl_ms` is accepted until so long after its timestamp, by this clock too.

    What was accepted is remembered by the message's own timestamp, in buckets of a quarter of the window, and a
    bucket is forgotten when all of it is stale. From then on nothing as old as the newest message in it is accepted,
    so a clock that is set forward and back, or back by days, opens nothing that was closed. The price: after a leap
    forward and back, messages stamped before the newest one from before the leap are refused.

    At most `capacity` messages are remembered (some 170 bytes each), and at most half as many of one sender, so that
    one sender cannot use up the room of all; what is beyond is refused, because forgetting would let it be replayed.
    `now` gives Unix seconds. Not for use by several threads at once.
    """

    def __init__(
        self,
        max_age_sec: float = 120.0,
        max_ahead_sec: float = 30.0,
        capacity: int = 1_000_000,
        now: Callable[[], float] = time.time,
        started_at: float | None = None,
    ) -> None:
        if not (0 <= max_age_sec < inf and 0 <= max_ahead_sec < inf):
            raise ValueError(f"the replay window needs finite times of at least 0, not {max_age_sec}, {max_ahead_sec}")
        if started_at is not None and not 0 <= started_at < inf:
            raise ValueError(f"the replay window starts at a Unix time in seconds, not at {started_at}")
        if capacity < 1:
            raise ValueError(f"the replay window remembers at least one message; capacity {capacity} does not")
        self._max_age_ms, self._max_ahead_ms = round(max_age_sec * 1000), round(max_ahead_sec * 1000)
        self._capacity, self._now = capacity, now
        self._started_ms = int((now() if started_at is None else started_at) * 1000)
        self._bucket_ms = max(1, (self._max_age_ms + self._max_ahead_ms) // _BUCKETS_IN_WINDOW)
        self._buckets: dict[int, _Bucket] = {}
        self._forget_at_ms: float = inf  # until when there is nothing to forget
        self._of_sender: dict[str, int] = {}
        self._capacity_of_one = max(1, capacity // 2)
        self._size = 0
        self._floor = -1  # the newest timestamp of all that was forgotten

    def __len__(self) -> int:
        return self._size

    def refusal(self, message: Message) -> str | None:
        """Why `message` is refused, or None: it is then remembered.

        The reasons are `stale`, `future`, `expired`, `before_start`, `replayed` and `window_full`. Call it only after
        the signature has passed: it changes the window.
        """
        now_ms = self._now() * 1000
        oldest_ms = now_ms - self._max_age_ms
        if oldest_ms >= self._forget_at_ms:
            self._forget(oldest_ms)
        sent = message.timestamp
        if sent < oldest_ms or sent <= self._floor:
            return "stale"
        if sent > now_ms + self._max_ahead_ms:
            return "future"
        if message.headers and (ttl := message.ttl_ms) is not None and now_ms > sent + ttl:
            return "expired"
        if sent < self._started_ms:
            return "before_start"
        sender, key = message.sender, self._key(message)
        bucket = self._buckets.get(sent // self._bucket_ms)
        if bucket is not None and key in bucket.seen.get(sender, ()):
            return "replayed"
        if self._size >= self._capacity or self._of_sender.get(sender, 0) >= self._capacity_of_one:
            return "window_full"
        self._remember(sender, key, sent)
        return None

    async def settle(self, message: Message) -> None:
        """Make durable that `message`, which `refusal` has just accepted, was: here nothing is to be done.

        A transport awaits it before it hands the message out, and takes an exception for a refusal.
        """

    def release(self, message: Message) -> None:
        """Forget that `message` was accepted, because it was not handed out or will come again; unknown is no error."""
        bucket = self._buckets.get(message.timestamp // self._bucket_ms)
        keys = set() if bucket is None else bucket.seen.get(message.sender, set())
        if (key := self._key(message)) in keys:
            keys.remove(key)
            self._count_out(message.sender, 1)
            self._forget_one(message.sender, key, message.timestamp // self._bucket_ms)

    def _forget_one(self, sender: str, key: Key, bucket: int) -> None:
        """Called for each message that is remembered no more."""

    def _remember(self, sender: str, key: Key, sent: int) -> None:
        number = sent // self._bucket_ms
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = _Bucket()
            self._forget_at_ms = (min(self._buckets) + 1) * self._bucket_ms
        bucket.newest = max(bucket.newest, sent)
        keys = bucket.seen.get(sender)
        if keys is None:
            keys = bucket.seen[sender] = set()
        keys.add(key)
        self._of_sender[sender] = self._of_sender.get(sender, 0) + 1
        self._size += 1

    def _forget(self, oldest_ms: float) -> None:
        """Drop the buckets in which every timestamp is below `oldest_ms`."""
        for number in [number for number in self._buckets if (number + 1) * self._bucket_ms <= oldest_ms]:
            bucket = self._buckets.pop(number)
            self._floor = max(self._floor, bucket.newest)
            for sender, keys in bucket.seen.items():
                self._count_out(sender, len(keys))
                for key in keys:
                    self._forget_one(sender, key, number)
        self._forget_at_ms = (min(self._buckets) + 1) * self._bucket_ms if self._buckets else inf

    def _count_out(self, sender: str, count: int) -> None:
        self._size -= count
        self._of_sender[sender] -= count
        if not self._of_sender[sender]:
            del self._of_sender[sender]

    def _key(self, message: Message) -> Key:
        """What stands for its id: a short one itself, of a long one a hash, so that memory is bounded by the count."""
        return message.id if len(message.id) <= _LONGEST_KEY else digest_of(message)


def digest_of(message: Message) -> bytes:
    """16 bytes that stand for the id of `message`."""
    return hashlib.blake2b(message.id.encode(), digest_size=_DIGEST_BYTES).digest()
