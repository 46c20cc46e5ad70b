"""How often something may happen: a rate with a burst, and a total, each as a meter that is asked before."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

from attrs import Attribute, field, frozen

from converge.policy.errors import PolicyOptionError

if TYPE_CHECKING:
    from converge.core.plain import Plain

__all__ = ["BudgetMeter", "Limit", "Meter", "RateMeter", "StoredMeter"]

_ROUNDING = 1e-9  # of a token: what adding up fractions may lose


def _more_than_zero(limit: object, attribute: Attribute[Any], value: object) -> None:
    if value is None:
        return
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise PolicyOptionError("Limit", attribute.name, f"is {value!r}; give a finite number above 0")


def _at_least_one(limit: object, attribute: Attribute[Any], value: object) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise PolicyOptionError(
            "Limit", attribute.name, f"is {value!r}; give a whole number, at least 1 (ActionPolicy forbids altogether)"
        )


@frozen(kw_only=True)
class Limit:
    """A rate (`per_second` or `per_minute`, and a `burst`), a budget (`total`, in each `window_sec`), or both.

    At most `burst` happen at once, and over any time no more than `burst` + rate * time. Without a `burst` it is what
    the rate allows in its second or minute, at least 1. A `total` without a window is for the life of the process. A
    window begins with the first use after the last one ended: a span across two windows may see twice the total.
    What makes no sense is a `PolicyOptionError` (ValueError).
    """

    per_second: float | None = field(default=None, validator=_more_than_zero)
    per_minute: float | None = field(default=None, validator=_more_than_zero)
    burst: int | None = field(default=None, validator=_at_least_one)
    total: int | None = field(default=None, validator=_at_least_one)
    window_sec: float | None = field(default=None, validator=_more_than_zero)

    def __attrs_post_init__(self) -> None:
        if self.per_second is not None and self.per_minute is not None:
            raise PolicyOptionError("Limit", "per_minute", "is given beside per_second; give one of them")
        has_rate = self.per_second is not None or self.per_minute is not None
        if self.burst is not None and not has_rate:
            raise PolicyOptionError("Limit", "burst", "needs a rate; give per_second or per_minute, or a total instead")
        if self.window_sec is not None and self.total is None:
            raise PolicyOptionError("Limit", "window_sec", "needs the total that it is for; give one")
        if not has_rate and self.total is None:
            raise PolicyOptionError(
                "Limit", "total", "is not given, nor is a rate; give per_second, per_minute or total"
            )

    def meters(self) -> list[StoredMeter]:
        """New meters for it, full."""
        meters: list[StoredMeter] = []
        for rate, seconds, unit in ((self.per_second, 1, "second"), (self.per_minute, 60, "minute")):
            if rate is not None:
                burst = max(1, math.floor(rate)) if self.burst is None else self.burst
                meters.append(RateMeter(rate / seconds, burst, f"{rate:g} per {unit}, {burst} at once"))
        if self.total is not None:
            meters.append(BudgetMeter(self.total, self.window_sec))
        return meters


class Meter(Protocol):
    """Counts one thing. Not thread-safe: the `Limiter` that has it takes a lock."""

    text: str

    def wait(self, now: float) -> float:
        """In how many seconds from `now` one more may happen: 0 when it may now, infinity when never."""

    def take(self, now: float) -> None:
        """Count one. Only after `wait` gave 0 for the same `now`."""


class StoredMeter(Meter, Protocol):
    """A meter whose count can be kept elsewhere."""

    def state(self) -> list[Plain]:
        """The count, as plain data."""

    def restore(self, state: list[Plain]) -> None:
        """Go on from what `state` gave."""


class RateMeter:
    """A token bucket that is full at first, with `rate` new tokens a second. A clock that goes back adds none."""

    def __init__(self, rate: float, burst: int, text: str) -> None:
        self.text = text
        self._rate, self._burst = rate, burst
        self._tokens, self._at = float(burst), -math.inf

    def wait(self, now: float) -> float:
        """In how many seconds there is a token."""
        if now > self._at:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
            self._at = now
        missing = 1 - self._tokens
        return 0.0 if missing <= _ROUNDING else self._at - now + missing / self._rate

    def take(self, now: float) -> None:
        """Take a token."""
        self._tokens = max(0.0, self._tokens - 1)

    def state(self) -> list[Plain]:
        """The tokens, and when there were so many."""
        return [self._tokens, self._at]

    def restore(self, state: list[Plain]) -> None:
        """Go on from there."""
        self._tokens, self._at = (_number(value) for value in state)


class BudgetMeter:
    """A total, in each window of `window_sec` seconds or for good. A clock that goes back begins no new window."""

    def __init__(self, total: int, window_sec: float | None) -> None:
        self.text = f"{total} in all" if window_sec is None else f"{total} in {window_sec:g} s"
        self._total, self._window_sec = total, math.inf if window_sec is None else window_sec
        self._used, self._ends = 0, -math.inf

    def wait(self, now: float) -> float:
        """In how many seconds the total is not used up."""
        if now >= self._ends:
            return 0.0
        return 0.0 if self._used < self._total else self._ends - now

    def take(self, now: float) -> None:
        """Use up one."""
        if now >= self._ends:
            self._used, self._ends = 0, now + self._window_sec
        self._used += 1

    def state(self) -> list[Plain]:
        """How much is used up, and when the window ends."""
        return [self._used, self._ends]

    def restore(self, state: list[Plain]) -> None:
        """Go on from there."""
        used, self._ends = (_number(value) for value in state)
        self._used = int(used)


def _number(value: Plain) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or math.isnan(value):
        raise ValueError(f"the count of a limit is a number, not {value!r}; delete the record to begin anew")
    return value
