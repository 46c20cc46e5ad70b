"""A replay window that outlives its process."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

from converge.core.errors import StoreCorruption
from converge.network.replay_window import Key, ReplayWindow, digest_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.core.message import Message
    from converge.core.plain import Plain
    from converge.core.store import Store

__all__ = ["StoredReplayWindow"]


class _Entry(NamedTuple):
    """The record of one accepted message: what the window knows of it, and of all that it has forgotten."""

    sender: str
    key: bytes
    sent: int
    floor: int


class StoredReplayWindow(ReplayWindow):
    """A `ReplayWindow` that knows after a restart, also after `kill -9`, what it accepted before.

    Messages stamped before the restart are then accepted as any others: once. Only what is stamped before the very
    first start with this store is refused. For one process per agent id at a time.

    - **When a message counts as accepted.** `settle` puts its record, and a transport hands the message out after
      that. So none is handed out twice. One that was settled when the process died, and not yet handled, is lost: this
      is at most once. A transport that delivers again what was not acknowledged calls `settle` when it acknowledges,
      and `release` when it will deliver again.
    - **How durable** that is, is the store's to say: with SQLite and `durability="power"` it holds over a power cut.
    - **Cost.** One `put` for a message, in a thread when the store is `blocking`. At most `capacity` records under
      `replay:<agent id>:`, whose places are used again once they are stale; nothing is ever deleted.

    Making one reads all of them: with a `blocking` store do it in a thread. Raises what the store raises, and
    `StoreCorruption` for a record that is none.
    """

    def __init__(
        self,
        store: Store,
        agent_id: str,
        max_age_sec: float = 120.0,
        max_ahead_sec: float = 30.0,
        capacity: int = 100_000,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._prefix = store, f"replay:{agent_id}:"
        super().__init__(max_age_sec, max_ahead_sec, capacity, now, started_at=self._first_start(now()))
        self._place_of: dict[tuple[str, Key, int], int] = {}
        self._free: list[int] = []
        self._places = 0
        self._load()

    async def settle(self, message: Message) -> None:
        """Put the record that `message` was accepted; durable when it returns. Raises what the store raises.

        Cancelling waits for a put that has begun.
        """
        if not self._store.blocking:
            self.record(message)
            return
        put = asyncio.ensure_future(asyncio.to_thread(self._store.put, *self._record_of(message)))
        try:
            await asyncio.shield(put)
        except asyncio.CancelledError:
            await asyncio.wait([put])
            raise

    def record(self, message: Message) -> None:
        """`settle` for callers outside an event loop, or in the thread of the store."""
        self._store.put(*self._record_of(message))

    def _record_of(self, message: Message) -> tuple[str, Plain]:
        sender, key, sent = message.sender, digest_of(message), message.timestamp
        entry = (sender, key, sent // self._bucket_ms)
        place = self._place_of.get(entry)
        if place is None:
            place = self._place_of[entry] = self._free.pop() if self._free else self._new_place()
        return f"{self._prefix}{place}", [sender, key, sent, self._floor]

    def _new_place(self) -> int:
        self._places += 1
        return self._places - 1

    def _key(self, message: Message) -> Key:
        return digest_of(message)

    def _forget_one(self, sender: str, key: Key, bucket: int) -> None:
        place = self._place_of.pop((sender, key, bucket), None)
        if place is not None:
            self._free.append(place)

    def _first_start(self, now: float) -> float:
        key = f"{self._prefix}since"
        if self._store.put_if_absent(key, now):
            return now
        since = self._store.get(key)
        if not isinstance(since, float) or not 0 <= since < float("inf"):
            raise self._corrupt(key)
        return since

    def _load(self) -> None:
        """Remember every record; those that are stale are forgotten at the first message, as those of any window."""
        for key in self._store.list(self._prefix):
            name = key.removeprefix(self._prefix)
            if name == "since":
                continue
            entry = self._entry(key, self._store.get(key))
            if not (name.isascii() and name.isdigit()):
                raise self._corrupt(key)
            place = int(name)
            self._places = max(self._places, place + 1)
            self._floor = max(self._floor, entry.floor)
            known = (entry.sender, entry.key, entry.sent // self._bucket_ms)
            if known not in self._place_of:  # one that was released and came again may stand in two places
                self._place_of[known] = place
                self._remember(entry.sender, entry.key, entry.sent)
        self._free.extend(set(range(self._places)) - set(self._place_of.values()))

    def _entry(self, key: str, value: Plain) -> _Entry:
        if isinstance(value, list) and [type(part) for part in value] == [str, bytes, int, int]:
            return _Entry(*value)  # type: ignore[arg-type]  # their types were tested together
        raise self._corrupt(key)

    def _corrupt(self, key: str) -> StoreCorruption:
        return StoreCorruption(key, type(self._store).__name__, "it is no record of a replay window")
