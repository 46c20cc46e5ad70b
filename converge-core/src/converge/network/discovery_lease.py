"""How long a descriptor stays without being renewed, and which have stayed too long: pure data, fed with the time."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from attrs import define, frozen

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DEFAULT_TTL_SEC", "MAX_TTL_SEC", "Lease", "LeaseBook", "check_ttl"]

DEFAULT_TTL_SEC = 60.0
"""The lease that a runtime takes for its agent. Renewed at a third of it, two renewals may fail."""

MAX_TTL_SEC = 86_400.0
"""The longest lease: a day. Who wants to stay longer renews it."""

_MICRO = 1_000_000
_SLACK = 64


def check_ttl(ttl_sec: object) -> float:
    """`ttl_sec` itself; `ValueError` unless it is a number of seconds above 0 and of at most `MAX_TTL_SEC`."""
    if isinstance(ttl_sec, bool) or not isinstance(ttl_sec, int | float) or not 1e-6 <= ttl_sec <= MAX_TTL_SEC:
        raise ValueError(f"ttl_sec is a number of seconds above 0, at most {MAX_TTL_SEC:.0f}, not {ttl_sec!r}")
    return ttl_sec


@frozen
class Lease:
    """From when (Unix microseconds) and for how long (microseconds) a descriptor is told."""

    issued_us: int
    ttl_us: int

    @classmethod
    def begin(cls, now: float, ttl_sec: float, after_us: int = -1) -> Lease:
        """A lease from `now` (Unix seconds), or from right after `after_us` where the clock was set back behind it."""
        return cls(max(int(now * _MICRO), after_us + 1), max(1, int(check_ttl(ttl_sec) * _MICRO)))

    @property
    def ttl_sec(self) -> float:
        """How long it lasts, in seconds."""
        return self.ttl_us / _MICRO

    @property
    def expires_at(self) -> float:
        """When it ends, in Unix seconds."""
        return (self.issued_us + self.ttl_us) / _MICRO


@define(eq=False)
class _Held:
    serial: int
    version: int
    lease: Lease
    observed: float

    @property
    def observed_until(self) -> float:
        return self.observed + self.lease.ttl_sec


class LeaseBook:
    """The leases that are watched, by agent id. A look at what is due costs what is due. Not thread-safe.

    A lease is over when the wall clock says so, or when the same one has been observed here for as long as it lasts,
    by the monotonic clock of this process: a wall clock that was set back keeps nobody alive.
    """

    def __init__(self) -> None:
        self._serial = 0
        self._held: dict[str, _Held] = {}
        self._by_wall_clock: list[tuple[float, str, int]] = []
        self._by_observation: list[tuple[float, str, int]] = []
        self._over: dict[str, int] = {}
        self._ended: dict[str, tuple[int, float]] = {}
        self._clean_at = _SLACK

    def watch(self, agent_id: str, version: int, lease: Lease, monotonic: float) -> None:
        """Watch a lease that is seen for the first time; it takes the place of the agent's earlier one.

        The very same lease under a new version is no renewal: it is still observed since it was first seen.
        """
        self._over.pop(agent_id, None)
        known = self._held.get(agent_id)
        if known is not None and known.lease == lease:
            known.version = version
            return
        if known is not None and self._ends_no_earlier(known, lease, monotonic):
            known.version, known.lease, known.observed = version, lease, monotonic
            return  # it is looked at when the one before would have ended, and then again
        self._serial += 1
        self._held[agent_id] = _Held(self._serial, version, lease, monotonic)
        heappush(self._by_wall_clock, (lease.expires_at, agent_id, self._serial))
        heappush(self._by_observation, (monotonic + lease.ttl_sec, agent_id, self._serial))
        if len(self._by_wall_clock) > 2 * len(self._held) + _SLACK:
            self._by_wall_clock = self._living(self._by_wall_clock)
        if len(self._by_observation) > 2 * len(self._held) + _SLACK:
            self._by_observation = self._living(self._by_observation)

    @staticmethod
    def _ends_no_earlier(known: _Held, lease: Lease, monotonic: float) -> bool:
        by_observation = known.observed_until <= monotonic + lease.ttl_sec
        return by_observation and known.lease.expires_at <= lease.expires_at

    def _living(self, heap: list[tuple[float, str, int]]) -> list[tuple[float, str, int]]:
        kept = [entry for entry in heap if self._serial_of(entry[1]) == entry[2]]
        heapify(kept)
        return kept

    def _serial_of(self, agent_id: str) -> int:
        held = self._held.get(agent_id)
        return 0 if held is None else held.serial

    def forget(self, agent_id: str) -> None:
        """Stop watching; an unknown id is no error."""
        self._held.pop(agent_id, None)
        self._over.pop(agent_id, None)

    def expire(self, now: float, monotonic: float) -> list[str]:
        """The ids of those whose lease is over since the last call. They are kept in `over` until forgotten."""
        wall_clock = self._ended_in(self._by_wall_clock, now, lambda held: held.lease.expires_at)
        return wall_clock + self._ended_in(self._by_observation, monotonic, lambda held: held.observed_until)

    def _ended_in(
        self, heap: list[tuple[float, str, int]], reading: float, until: Callable[[_Held], float]
    ) -> list[str]:
        expired = []
        while heap and heap[0][0] <= reading:
            _, agent_id, serial = heappop(heap)
            held = self._held.get(agent_id)
            if held is None or held.serial != serial:
                continue
            if (end := until(held)) > reading:  # it was renewed meanwhile
                heappush(heap, (end, agent_id, serial))
                continue
            del self._held[agent_id]
            self._over[agent_id] = held.version
            expired.append(agent_id)
        return expired

    def over(self) -> list[tuple[str, int]]:
        """(id, version) of those whose lease is over and that nobody has forgotten yet."""
        return [*self._over.items()]

    def version_over(self, agent_id: str) -> int:
        """The version of the record whose lease is over; 0 when there is none."""
        return self._over.get(agent_id, 0)

    def remember_end(self, agent_id: str, issued_us: int, until: float, monotonic: float) -> None:
        """Note the last lease of an agent that is gone, until the monotonic clock reads `until`.

        For as long, an earlier or equal one is a replay. It is not remembered longer, so that an agent whose clock
        was set back is not kept out.
        """
        if len(self._ended) >= self._clean_at:
            self._ended = {known: end for known, end in self._ended.items() if end[1] > monotonic}
            self._clean_at = 2 * len(self._ended) + _SLACK
        self._ended[agent_id] = issued_us, until

    def last_issued(self, agent_id: str, monotonic: float) -> int:
        """When the last lease of an agent that is gone was issued, as far as it is remembered, else -1."""
        issued_us, until = self._ended.get(agent_id, (-1, 0.0))
        return issued_us if until > monotonic else -1
