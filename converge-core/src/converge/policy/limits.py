"""What an agent, or all members of a pool together, may do in a time."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Any

from attrs import Attribute, field, fields, frozen

from converge.policy.errors import PolicyOptionError
from converge.policy.rates import Limit, Meter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["Exceeded", "Limiter", "Limits", "take"]

_lock = threading.Lock()


def _check_turn(limits: object, attribute: Attribute[Any], value: object) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise PolicyOptionError("Limits", attribute.name, f"is {value!r}; give a whole number, at least 1")


@frozen(kw_only=True)
class Limits:
    """The limits of one agent or pool; None does not limit.

    `decisions` counts every decision, `decisions_per_turn` those that one call of `decide` gave. `messages` are those
    sent, `tool_calls` those of all tools, and `tools` has the limit of each tool by its name. `tasks` are those
    submitted, `claims` those tried.
    """

    decisions: Limit | None = None
    decisions_per_turn: int | None = field(default=None, validator=_check_turn)
    messages: Limit | None = None
    tool_calls: Limit | None = None
    tools: dict[str, Limit] = field(factory=dict)
    tasks: Limit | None = None
    claims: Limit | None = None

    def by_name(self) -> dict[str, Limit]:
        """Each limit that there is, as a `Limiter` is asked for it: `messages`, or `tools.NAME`."""
        named = {each.name: getattr(self, each.name) for each in fields(Limits)}
        found = {name: limit for name, limit in named.items() if isinstance(limit, Limit)}
        return found | {f"tools.{name}": limit for name, limit in self.tools.items()}


@frozen
class Exceeded:
    """Which limit says no: its name, whose it is, what it is, and in how many seconds it allows one more."""

    limit: str
    scope: str
    owner: str
    text: str
    wait_sec: float

    def __str__(self) -> str:
        """The text that an agent gets."""
        when = f"possible again in {self.wait_sec:.3g} s" if self.wait_sec > 0 else "possible again in the next one"
        if math.isinf(self.wait_sec):
            when = "never again in this process"
        return f"over the limit {self.limit} of {self.owner}: {self.text}; {when}"


class Limiter:
    """The meters of one owner, in this process. Thread-safe. `scope` is what metrics say: "agent" or "pool".

    `clock` gives seconds; when it goes back, nothing is allowed that would not have been. One that gives no finite
    number is a ValueError when it is asked.
    """

    def __init__(
        self, limits: Limits, owner: str, scope: str = "agent", *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits, self.owner, self.scope, self._clock = limits, owner, scope, clock
        self._meters: dict[str, list[Meter]] = {name: [*limit.meters()] for name, limit in limits.by_name().items()}

    @property
    def lock(self) -> threading.Lock:
        """That of all meters of this process: a decision takes from several limiters, and from all or none."""
        return _lock

    def meters(self, names: Iterable[str]) -> list[tuple[str, Meter]]:
        """The meters of the limits that `names` names, as far as there are any."""
        return [(name, meter) for name in names for meter in self._meters.get(name, ())]

    def now(self) -> float:
        """The time of its clock."""
        now = self._clock()
        if not math.isfinite(now):
            raise ValueError(f"the clock of the limits of {self.owner} says {now!r}; it has to give seconds")
        return now


def take(limiters: Iterable[Limiter], names: Sequence[str]) -> Exceeded | None:
    """Count one for each of `names` with all `limiters`; if one of them says no, count nothing and return that.

    When several say no, it is the one that takes longest. Raises what a clock raises, and counts nothing then.
    """
    found = [(limiter, limiter.meters(names)) for limiter in limiters]
    with _lock:
        timed = [(each, name, meter, now) for each, meters in found for now in [each.now()] for name, meter in meters]
        waits = [(meter.wait(now), each, name, meter) for each, name, meter, now in timed]
        longest = max(waits, key=lambda one: one[0], default=None)
        if longest is not None and longest[0] > 0:
            wait, limiter, name, meter = longest
            return Exceeded(name, limiter.scope, limiter.owner, meter.text, wait)
        for _, _, meter, now in timed:
            meter.take(now)
    return None
