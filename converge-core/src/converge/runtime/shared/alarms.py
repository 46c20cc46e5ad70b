"""One timer for all that wait in an event loop with a time limit."""

from __future__ import annotations

import asyncio
import heapq
import math
import weakref
from itertools import count
from typing import Protocol

__all__ = ["Alarms", "Sleeper"]

_FAR_SEC = 2.0
_TOGETHER_SEC = 0.125


class Sleeper(Protocol):
    """Who waits. It is called when its alarm may be due, by the clock of the event loop."""

    def ring(self, now: float) -> float | None:
        """Wake up if the time is over; if it is not (the wait was ended and another begun), when to call again."""


class Alarms:
    """Rings sleepers, all with one timer of the event loop, however many there are. Use `of`.

    Those of 2 s and more may ring up to 1/8 s late: the alarms of many agents at one moment wake the process once.
    An alarm is never taken back: a sleeper that was woken by something else keeps it, and says at the ring how long it
    has still to go. So a wait that ends early, as most do, costs nothing. Sleepers are held weakly.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, weakref.ref[Sleeper]]] = []
        self._number = count()
        self._armed = math.inf

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Alarms:
        """The alarms of `loop`."""
        if (alarms := _alarms.get(loop)) is None:
            alarms = _alarms[loop] = cls()
        return alarms

    def set(self, sleeper: Sleeper, when: float, loop: asyncio.AbstractEventLoop) -> None:
        """Ring `sleeper` when the clock of `loop` reads `when`."""
        heapq.heappush(self._heap, (_rounded(when, loop.time()), next(self._number), weakref.ref(sleeper)))
        self._arm(loop)

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._heap and self._heap[0][0] < self._armed:
            self._armed = self._heap[0][0]
            loop.call_at(self._armed, self._due, self._armed)

    def _due(self, armed: float) -> None:
        if armed != self._armed:
            return  # an earlier one was set after this, and has seen to everything
        loop = asyncio.get_running_loop()
        self._armed, now, heap = math.inf, max(loop.time(), armed), self._heap
        again = []
        while heap and heap[0][0] <= now:
            reference = heapq.heappop(heap)[2]
            sleeper = reference()
            if sleeper is not None and (when := sleeper.ring(now)) is not None:
                again.append((_rounded(when, now), next(self._number), reference))
        for alarm in again:
            heapq.heappush(heap, alarm)
        self._arm(loop)


def _rounded(when: float, now: float) -> float:
    return when if when - now < _FAR_SEC else math.ceil(when / _TOGETHER_SEC) * _TOGETHER_SEC


_alarms: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Alarms] = weakref.WeakKeyDictionary()
