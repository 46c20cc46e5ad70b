"""Limits that all processes on one store share: what a pool may do counts once, wherever its members run.

What the meters of an owner say is one record, `limits:<owner>`, changed by compare-and-set. A batch of decisions takes
what it needs from it in one step, before any of them is carried out; what it then does not use is left to the next
batch in this process. So a budget is never exceeded, and of a rate no more than such leftovers can come late.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from converge.core.errors import VersionConflict
from converge.core.store import Store, versioned
from converge.policy.limits import Limiter, Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from converge.core.plain import Plain
    from converge.policy.rates import Limit, Meter

__all__ = ["SharedLimiter"]

_PREFIX = "limits:"
_log = logging.getLogger(__name__)


class _Granted:
    """What was taken from the record for this process and is not used yet; not thread-safe, as any meter."""

    def __init__(self, limit: Limit) -> None:
        self.text = ", ".join(meter.text for meter in limit.meters())
        self.left = 0
        self.waits = 0.0

    def wait(self, now: float) -> float:
        """0 while there is some; else how long the record said to wait, at least a moment."""
        return 0.0 if self.left > 0 else max(self.waits, 1e-3)

    def take(self, now: float) -> None:
        """Use up one."""
        self.left -= 1


class SharedLimiter(Limiter):
    """The meters of one owner in `store`. `reserve` has to be called before each batch that is to be allowed.

    `clock` gives Unix seconds, since processes on several hosts have to agree; one that goes back allows nothing more.
    A limit that was changed begins anew. Thread-safe.
    """

    def __init__(
        self,
        limits: Limits,
        owner: str,
        store: Store,
        scope: str = "pool",
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(limits, owner, scope, clock=clock)
        self._store = versioned(store)
        self._limits_by_name = limits.by_name()
        self._granted = {name: _Granted(limit) for name, limit in self._limits_by_name.items()}
        self._meters = {name: [granted] for name, granted in self._granted.items()}

    @property
    def blocking(self) -> bool:
        """Whether `reserve` may wait for a disk or a network."""
        return self._store.blocking

    def reserve(self, counts: Mapping[str, int]) -> None:
        """Take from the record what `counts` of each limit need beyond what is left here, as far as it allows that."""
        with self.lock:
            wanted = {
                name: count - self._granted[name].left
                for name, count in counts.items()
                if name in self._granted and count > self._granted[name].left
            }
        if not wanted:
            return
        now, key = self.now(), _PREFIX + self.owner
        while True:
            found = self._store.get_versioned(key)
            record = _read(found[0]) if found is not None else {}
            got = {name: self._take_from(record, name, count, now) for name, count in wanted.items()}
            if all(count == 0 for count, _ in got.values()):
                break
            try:
                self._store.compare_and_set(key, record, 0 if found is None else found[1])
            except VersionConflict:
                continue
            break
        with self.lock:
            for name, (count, waits) in got.items():
                self._granted[name].left += count
                self._granted[name].waits = waits

    def _take_from(self, record: dict[str, Any], name: str, count: int, now: float) -> tuple[int, float]:
        """How many of `count` the record allows now, and how long to wait for one more; `record` is changed."""
        limit = self._limits_by_name[name]
        meters = limit.meters()
        entry = record.get(name)
        if isinstance(entry, dict) and entry.get("limit") == repr(limit):
            for meter, state in zip(meters, entry["meters"], strict=True):
                meter.restore(state)
        taken, waits = 0, _wait(meters, now)
        while taken < count and waits == 0:
            for meter in meters:
                meter.take(now)
            taken += 1
            waits = _wait(meters, now)
        record[name] = {"limit": repr(limit), "meters": [meter.state() for meter in meters]}
        return taken, waits


def _wait(meters: Sequence[Meter], now: float) -> float:
    return max(meter.wait(now) for meter in meters)


def _read(value: Plain) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise ValueError(f"the record of the limits is {type(value).__name__}, not a dict; delete it to begin anew")
