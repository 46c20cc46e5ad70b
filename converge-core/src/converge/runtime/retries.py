"""The messages that an agent failed on, each to be shown again alone when its pause is over."""

from __future__ import annotations

import heapq
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.core.message import Message

__all__ = ["MAX_FAILURES", "MAX_WAITING", "Attempt", "Retries"]

MAX_FAILURES = 5
"""After so many failures of a message that was shown alone, it is parked (GUARANTEES.md, G17)."""

MAX_WAITING = 256
"""While so many messages that failed wait for their next chance, the agent is shown no new ones."""

_FIRST_PAUSE_SEC = 0.1
_GROWTH = 5.0  # 0.1, 0.5, 2.5 and 12.5 s: a hitch is over soon, and an outage of some seconds parks nothing


class Attempt(NamedTuple):
    """A message that is to be shown alone, how often it has failed alone, and with what the last time."""

    message: Message
    failures: int = 0
    error: str = ""


class Retries:
    """What waits to be tried again, the earliest first. `clock` gives seconds, of any beginning."""

    __slots__ = ("_clock", "_number", "_waiting")  # one an agent

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: list[tuple[float, int, Attempt]] = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, attempt: Attempt) -> None:
        """Give `attempt` back when the pause after that many failures is over."""
        pause = _FIRST_PAUSE_SEC * _GROWTH ** (min(attempt.failures, MAX_FAILURES - 1) - 1)
        self._number += 1
        heapq.heappush(self._waiting, (self._clock() + pause, self._number, attempt))

    def due_in(self) -> float | None:
        """Seconds until the next one, at least 0; None when there is none."""
        return max(self._waiting[0][0] - self._clock(), 0.0) if self._waiting else None

    def is_due(self) -> bool:
        """Whether there is one whose pause is over."""
        return bool(self._waiting) and self._waiting[0][0] <= self._clock()

    def pop(self) -> Attempt:
        """The one that waits for the longest; `IndexError` when there is none."""
        return heapq.heappop(self._waiting)[2]

    def clear(self) -> int:
        """Forget all; how many there were."""
        waiting = len(self._waiting)
        self._waiting.clear()
        return waiting
