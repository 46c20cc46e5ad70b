"""Which messages are fresh: inside the time window and never seen before."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.core.message import Message

__all__ = ["ReplayWindow"]


class ReplayWindow:
    """Accepts a message once, if its timestamp is at most `max_age_sec` old and `max_ahead_sec` ahead of this clock.

    Seen ids are kept in two generations, each as long as the whole window, so an id is remembered for as long as its
    timestamp could pass. Memory is bounded by `capacity` ids a generation; beyond that messages are refused, because
    forgetting an id would let it be replayed. `now` gives Unix seconds. Not for use by several threads at once.
    """

    def __init__(
        self,
        max_age_sec: float = 120.0,
        max_ahead_sec: float = 30.0,
        capacity: int = 100_000,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._max_age_ms, self._max_ahead_ms = max_age_sec * 1000, max_ahead_sec * 1000
        self._capacity, self._now = capacity, now
        self._span = max_age_sec + max_ahead_sec
        self._young: set[tuple[str, str]] = set()
        self._old: set[tuple[str, str]] = set()
        self._rotated_at = now()

    def refusal(self, message: Message) -> str | None:
        """Why `message` is refused (`stale`, `future`, `replayed`, `window_full`), or None: it is then remembered.

        Call it only after the signature has passed: it changes the window.
        """
        now = self._now()
        if message.timestamp < now * 1000 - self._max_age_ms:
            return "stale"
        if message.timestamp > now * 1000 + self._max_ahead_ms:
            return "future"
        if not 0 <= now - self._rotated_at < self._span:
            gone_long = now - self._rotated_at >= 2 * self._span
            self._old, self._young = (set() if gone_long else self._young), set()
            self._rotated_at = now
        key = (message.sender, message.id)
        if key in self._young or key in self._old:
            return "replayed"
        if len(self._young) >= self._capacity:
            return "window_full"
        self._young.add(key)
        return None
