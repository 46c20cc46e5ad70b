"""Messages that an agent could not deal with, set aside with the reason until somebody looks at them."""

from __future__ import annotations

import hashlib
import logging
import time
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from converge.core.errors import MessageDecodeError, StoreError
from converge.core.message import Message
from converge.runtime.calls import described

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from converge.core.plain import Plain
    from converge.core.store import Store

    OnStore: TypeAlias = Callable[..., Awaitable[Any]]

__all__ = ["DEFAULT_MAX_PARKED", "ParkedMessage", "Parking"]

DEFAULT_MAX_PARKED = 100
"""How many messages of one agent are kept unless told otherwise. A message is at most 256 KiB."""

_PREFIX = "parked:"
_MAX_ERROR_CHARS = 500
_DIGEST_BYTES = 16
_log = logging.getLogger(__name__)


class ParkedMessage(NamedTuple):
    """A message that failed again and again; `error` is the last one, `parked_at` in Unix seconds."""

    message: Message
    error: str
    failures: int
    parked_at: float


class Parking:
    """The parked messages of the agent `agent_id`; of more than `max_messages` the oldest are dropped and counted.

    With `store` each is a record `parked:<agent id>:<digest>`, payload and signature included, which `stored` finds
    again after a restart. What is to be done to the store is handed to `on_store`, which may do it in another thread;
    what the store raises passes through, and nothing has changed then. A message that cannot be encoded is kept in
    memory alone. For the coroutines of one event loop, but for `stored`. `now` gives Unix seconds.
    """

    __slots__ = ("_max", "_now", "_parked", "_prefix", "_requeued", "_store", "dropped")  # one an agent

    def __init__(
        self,
        agent_id: str,
        store: Store | None = None,
        *,
        max_messages: int = DEFAULT_MAX_PARKED,
        now: Callable[[], float] = time.time,
    ) -> None:
        if max_messages < 1:
            raise ValueError(f"max_messages is {max_messages!r}; at least 1 parked message is kept")
        self.dropped = 0
        self._prefix, self._store, self._now = f"{_PREFIX}{agent_id}:", store, now
        self._max = max_messages
        self._parked: dict[str, ParkedMessage] = {}
        self._requeued: dict[str, ParkedMessage] = {}  # shown again; their records stay until they are handled

    @property
    def blocking(self) -> bool:
        """Whether the store may wait for a disk or a network."""
        return self._store is not None and self._store.blocking

    @property
    def messages(self) -> tuple[ParkedMessage, ...]:
        """What is parked, the oldest first."""
        return tuple(self._parked.values())

    @property
    def awaits(self) -> bool:
        """Whether a requeued message has not been settled yet."""
        return bool(self._requeued)

    def holds(self, message: Message) -> bool:
        """Whether exactly this message is parked: it came once more, as who acknowledges it was killed before."""
        parked = self._parked.get(self._key(message)) if self._parked else None
        return parked is not None and parked.message == message

    def stored(self) -> dict[str, ParkedMessage]:
        """What an earlier process has parked, also what it was shown again and did not deal with; for `adopt`.

        Only reads the store; from any thread. A record that cannot be read is left alone, with a line in the log.
        """
        if self._store is None:
            return {}
        found = {key: self._read(key) for key in self._store.list(self._prefix) if self._is_own(key)}
        return {key: each for key, each in found.items() if each is not None}

    def adopt(self, stored: Mapping[str, ParkedMessage]) -> None:
        """Take what `stored` has found."""
        new = {key: each for key, each in stored.items() if key not in self._requeued}
        everything = {**self._parked, **new}
        self._parked = dict(sorted(everything.items(), key=lambda item: item[1].parked_at))

    async def park(self, message: Message, error: str, failures: int, on_store: OnStore) -> int:
        """Set `message` aside; how many others were dropped, as there are too many."""
        shown = error[:_MAX_ERROR_CHARS].encode(errors="backslashreplace").decode()
        key, parked = self._key(message), ParkedMessage(message, shown, failures, self._now())
        await on_store(self._write, key, parked)
        self._requeued.pop(key, None)
        self._parked.pop(key, None)
        self._parked[key] = parked
        over = [*self._parked][: max(len(self._parked) - self._max, 0)]
        return await self._drop_oldest(over, on_store) if over else 0

    def requeue(self, message_id: str) -> list[Message]:
        """Take the messages with this id out, to be handled after all; several senders may have used it.

        Their records stay in the store until `settle`, so that a crash meanwhile loses none.
        """
        keys = self._keys(message_id)
        for key in keys:
            self._requeued[key] = self._parked.pop(key)
        return [self._requeued[key].message for key in keys]

    def restore(self) -> None:
        """What was requeued and not settled is parked again: the runtime has stopped."""
        self._parked, self._requeued = {**self._requeued, **self._parked}, {}

    async def settle(self, message: Message, on_store: OnStore) -> None:
        """`message` has been handled: if it was requeued, its record goes."""
        key = self._key(message)
        if key in self._requeued:
            await self._remove([key], on_store)
            self._requeued.pop(key, None)

    async def drop(self, message_id: str, on_store: OnStore) -> int:
        """Forget the messages with this id for good; how many there were."""
        keys = self._keys(message_id)
        await self._remove(keys, on_store)
        for key in keys:
            self._parked.pop(key, None)
        return len(keys)

    async def _drop_oldest(self, keys: Sequence[str], on_store: OnStore) -> int:
        await self._remove(keys, on_store)
        for key in keys:
            self._parked.pop(key, None)
        self.dropped += len(keys)
        return len(keys)

    def _keys(self, message_id: str) -> list[str]:
        return [key for key, each in self._parked.items() if each.message.id == message_id]

    def _key(self, message: Message) -> str:
        name = f"{message.sender}\0{message.id}".encode(errors="surrogatepass")
        return self._prefix + hashlib.blake2b(name, digest_size=_DIGEST_BYTES).hexdigest()

    def _is_own(self, key: str) -> bool:
        """Not one of an agent whose id begins as this one's."""
        return len(key) == len(self._prefix) + 2 * _DIGEST_BYTES

    def _write(self, key: str, parked: ParkedMessage) -> None:
        if self._store is None:
            return
        try:
            frame = parked.message.to_bytes()
        except (TypeError, ValueError) as error:
            _log.warning("a parked message is kept in memory only, as it cannot be encoded: %s", type(error).__name__)
            return
        record: Plain = {
            "frame": frame,
            "error": parked.error,
            "failures": parked.failures,
            "parked_at": parked.parked_at,
        }
        self._store.put(key, record)

    async def _remove(self, keys: Sequence[str], on_store: OnStore) -> None:
        if self._store is not None:
            for key in keys:
                await on_store(self._store.delete, key)

    def _read(self, key: str) -> ParkedMessage | None:
        assert self._store is not None  # asked by `stored`
        try:
            match self._store.get(key):
                case {
                    "frame": bytes(frame),
                    "error": str(error),
                    "failures": int(failures),
                    "parked_at": float(parked_at),
                }:
                    return ParkedMessage(Message.from_bytes(frame, len(frame)), error, failures, parked_at)
        except (MessageDecodeError, StoreError) as error:
            _log.warning("the parked message under %r cannot be read and is left alone: %s", key, described(error))
            return None
        _log.warning("what lies under %r is no parked message; it is left alone", key)
        return None
