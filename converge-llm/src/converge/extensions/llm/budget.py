"""What an agent may spend on its model, and what it has spent. A budget that is used up stops the calls."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from attrs import Attribute, define, field, frozen

from converge.core.clock import Clock, SystemClock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from converge.core.plain import Plain
    from converge.extensions.llm.chat import Usage

__all__ = ["Budget", "Exhausted", "Ledger", "Spent"]

_MINUTE_SEC: Final = 60.0
_MILLION: Final = 1_000_000


def _positive(owner: object, attribute: Attribute[Any], value: object) -> None:
    if value is None:
        return
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise ValueError(f"{attribute.name} is {value!r}; give a finite number above 0, or leave it out")


def _not_negative(owner: object, attribute: Attribute[Any], value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
        raise ValueError(f"{attribute.name} is {value!r}; give a finite number, at least 0")


@frozen(kw_only=True)
class Budget:
    """What may be spent; None is no limit.

    `requests_per_minute` counts the calls of any 60 seconds. `requests`, `tokens` and `money` count in all, or within
    each `window_sec` seconds; when the window is over they start anew. Money is in the currency of the prices, which
    are for a million tokens. `calls_in_a_row` bounds the calls that follow on tool results alone, with no new message
    and no change of the tasks.
    """

    requests_per_minute: int | None = field(default=30, validator=_positive)
    requests: int | None = field(default=None, validator=_positive)
    tokens: int | None = field(default=None, validator=_positive)
    money: float | None = field(default=None, validator=_positive)
    window_sec: float | None = field(default=None, validator=_positive)
    input_price: float = field(default=0.0, validator=_not_negative)
    output_price: float = field(default=0.0, validator=_not_negative)
    calls_in_a_row: int | None = field(default=50, validator=_positive)

    @property
    def has_totals(self) -> bool:
        """Whether something is limited in all, which a restart must not forget."""
        return any(limit is not None for limit in (self.requests, self.tokens, self.money))

    def __attrs_post_init__(self) -> None:
        if self.money is not None and not (self.input_price or self.output_price):
            raise ValueError("money is limited, but input_price and output_price are not given: nothing would cost any")


@frozen
class Exhausted:
    """A budget that is used up: which, and in how many seconds it will not be (None: never by itself)."""

    budget: str
    again_in_sec: float | None

    def __str__(self) -> str:
        until = "" if self.again_in_sec is None else f"; the next call is possible in {self.again_in_sec:.0f} s"
        return f"the budget of {self.budget} is used up{until}"


@define
class Spent:
    """What was spent since `since` (Unix seconds)."""

    since: float
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    money: float = 0.0

    def to_plain(self) -> dict[str, Plain]:
        """For the store."""
        return {
            "since": self.since,
            "requests": self.requests,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "money": self.money,
        }

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Spent:
        """What `to_plain` gave; `ValueError` for anything else."""
        try:
            spent = cls(**data)
        except TypeError as error:
            raise ValueError(f"this is no record of what was spent: {error}") from None
        counts: list[object] = [spent.requests, spent.input_tokens, spent.output_tokens]
        numbers: list[object] = [spent.since, spent.money]
        if not all(isinstance(count, int) and count >= 0 for count in counts):
            raise ValueError("a count of what was spent is no int from 0 up")
        if not all(isinstance(number, int | float) and 0 <= number < float("inf") for number in numbers):
            raise ValueError("a sum of what was spent is no number from 0 up")
        return spent


class Ledger:
    """Keeps one agent within its budget. For one thread."""

    def __init__(self, budget: Budget, clock: Clock | None = None) -> None:
        self.budget = budget
        self._clock: Clock = SystemClock() if clock is None else clock
        self._calls: deque[float] = deque()
        self.spent = Spent(self._clock.time())
        self.in_a_row = 0

    def exhausted(self) -> Exhausted | None:
        """The budget that forbids a call now, if one does."""
        budget, spent = self.budget, self._current()
        totals: list[tuple[str, float, float | None]] = [
            ("requests", spent.requests, budget.requests),
            ("tokens", spent.input_tokens + spent.output_tokens, budget.tokens),
            ("money", spent.money, budget.money),
        ]
        for name, used, limit in totals:
            if limit is not None and used >= limit:
                over = None if budget.window_sec is None else spent.since + budget.window_sec - self._clock.time()
                return Exhausted(name, None if over is None else max(over, 0.0))
        if budget.calls_in_a_row is not None and self.in_a_row >= budget.calls_in_a_row:
            return Exhausted("calls in a row", None)
        self._forget()
        if budget.requests_per_minute is not None and len(self._calls) >= budget.requests_per_minute:
            return Exhausted("requests per minute", max(self._calls[0] + _MINUTE_SEC - self._clock.monotonic(), 0.0))
        return None

    def tokens_left(self) -> int | None:
        """How many tokens may still be used; None: no limit."""
        spent = self._current()
        limit = self.budget.tokens
        return None if limit is None else max(limit - spent.input_tokens - spent.output_tokens, 0)

    def begin(self) -> None:
        """Count a call that is made now."""
        self._current().requests += 1
        self.in_a_row += 1
        if self.budget.requests_per_minute is not None:
            self._calls.append(self._clock.monotonic())

    def charge(self, usage: Usage) -> float:
        """Count what a call took; what it cost."""
        spent, budget = self._current(), self.budget
        cost = (usage.input_tokens * budget.input_price + usage.output_tokens * budget.output_price) / _MILLION
        spent.input_tokens += usage.input_tokens
        spent.output_tokens += usage.output_tokens
        spent.money += cost
        return cost

    def restore(self, spent: Spent) -> None:
        """Go on from what was spent before a restart."""
        self.spent = spent
        self._current()

    def _current(self) -> Spent:
        """What was spent in the window that is open now."""
        now, window = self._clock.time(), self.budget.window_sec
        if window is not None and not self.spent.since <= now < self.spent.since + window:
            self.spent = Spent(now)
        return self.spent

    def _forget(self) -> None:
        since = self._clock.monotonic() - _MINUTE_SEC
        while self._calls and self._calls[0] <= since:
            self._calls.popleft()
