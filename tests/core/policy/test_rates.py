"""Rates and totals: what they allow in any time, what they refuse to be made of, and what a refusal costs."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converge.policy.errors import PolicyOptionError
from converge.policy.limits import Exceeded, Limiter, Limits, take
from converge.policy.rates import Limit, Meter

if TYPE_CHECKING:
    from collections.abc import Iterable


class Clock:
    """Stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def limiter(clock: Clock, owner: str = "a", **limits: Any) -> Limiter:
    return Limiter(Limits(**limits), owner, clock=clock)


def messages(clock: Clock, **limit: Any) -> Limiter:
    return limiter(clock, messages=Limit(**limit))


def allowed(*limiters: Limiter) -> bool:
    return take(limiters, ["messages"]) is None


@pytest.mark.parametrize("option", ["per_second", "per_minute", "window_sec"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, -math.inf, True, "3"])
def test_a_rate_or_a_window_is_a_finite_number_above_0(option: str, value: object) -> None:
    with pytest.raises(PolicyOptionError, match=rf"^Limit: {option} is .*give a finite number above 0"):
        Limit(**{"total": 1, option: value})  # type: ignore[arg-type]  # what is wrong on purpose


@pytest.mark.parametrize("option", ["burst", "total"])
@pytest.mark.parametrize("value", [0, -1, 1.5, math.nan, math.inf, True, "3"])
def test_a_burst_or_a_total_is_a_whole_number_above_0(option: str, value: object) -> None:
    with pytest.raises(PolicyOptionError, match=rf"^Limit: {option} is .*give a whole number, at least 1"):
        Limit(**{"per_second": 1, option: value})  # type: ignore[arg-type]  # what is wrong on purpose


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({}, "total"),
        ({"burst": 2}, "burst"),
        ({"burst": 2, "total": 3}, "burst"),
        ({"per_second": 1, "window_sec": 3}, "window_sec"),
        ({"per_second": 1, "per_minute": 3}, "per_minute"),
    ],
)
def test_a_limit_that_limits_nothing_or_two_ways_is_refused(options: dict[str, Any], option: str) -> None:
    with pytest.raises(PolicyOptionError) as caught:
        Limit(**options)
    assert caught.value.option == option


@pytest.mark.parametrize("value", [0, -1, 2.0, True])
def test_a_turn_allows_a_whole_number_of_decisions(value: Any) -> None:
    with pytest.raises(PolicyOptionError, match="Limits: decisions_per_turn is"):
        Limits(decisions_per_turn=value)


def test_a_rate_allows_its_burst_at_once_and_then_one_at_a_time() -> None:
    clock = Clock()
    one = messages(clock, per_second=2, burst=3)
    assert [allowed(one) for _ in range(4)] == [True, True, True, False]
    clock.now += 0.5
    assert [allowed(one) for _ in range(2)] == [True, False]
    clock.now += 1000
    assert [allowed(one) for _ in range(4)] == [True, True, True, False]


def test_a_rate_a_minute_allows_that_many_at_once_unless_it_has_a_burst() -> None:
    one = messages(Clock(), per_minute=5)
    assert [allowed(one) for _ in range(6)] == [True] * 5 + [False]


def test_a_rate_below_one_a_second_allows_one_at_first() -> None:
    clock = Clock()
    one = messages(clock, per_second=0.1)
    assert [allowed(one), allowed(one)] == [True, False]
    clock.now += 10
    assert allowed(one)


def test_a_refusal_says_which_limit_whose_and_when_it_is_over() -> None:
    clock = Clock()
    one = messages(clock, per_second=2, burst=1)
    assert allowed(one)
    clock.now += 0.1
    exceeded = take([one], ["messages"])
    assert exceeded is not None
    assert exceeded.wait_sec == pytest.approx(0.4)
    assert str(exceeded) == "over the limit messages of a: 2 per second, 1 at once; possible again in 0.4 s"


def test_a_total_is_used_up_for_good_and_one_in_a_window_until_the_next() -> None:
    clock = Clock()
    for_good, in_window = messages(clock, total=2), messages(clock, total=2, window_sec=10)
    assert [allowed(for_good) for _ in range(3)] == [True, True, False]
    assert [allowed(in_window) for _ in range(3)] == [True, True, False]
    clock.now += 4
    assert str(take([in_window], ["messages"])).endswith("2 in 10 s; possible again in 6 s")
    clock.now += 6
    assert [allowed(in_window) for _ in range(3)] == [True, True, False]
    assert str(take([for_good], ["messages"])).endswith("2 in all; never again in this process")


def test_what_one_limit_refuses_costs_nothing_at_the_others() -> None:
    clock = Clock()
    own, pool = messages(clock, total=5), messages(clock, total=2)
    assert [allowed(own, pool) for _ in range(10)] == [True] * 2 + [False] * 8
    assert [allowed(own) for _ in range(4)] == [True] * 3 + [False]


def test_of_several_limits_that_refuse_the_one_that_takes_longest_is_told() -> None:
    clock = Clock()
    quick, slow = messages(clock, per_second=1, burst=1), messages(clock, per_minute=1, burst=1)
    assert allowed(quick, slow)
    exceeded = take([quick, slow], ["messages"])
    assert exceeded is not None
    assert exceeded.wait_sec == pytest.approx(60)


def test_what_has_no_limit_is_not_limited() -> None:
    one = messages(Clock(), total=1)
    assert all(take([one], ["claims", "tools.search"]) is None for _ in range(100))


@pytest.mark.parametrize("limit", [Limit(per_second=1, burst=2), Limit(total=2, window_sec=5)])
def test_a_clock_that_goes_back_allows_nothing_more(limit: Limit) -> None:
    clock = Clock()
    one = Limiter(Limits(messages=limit), "a", clock=clock)
    assert [allowed(one) for _ in range(3)] == [True, True, False]
    for now in (50.0, 100.0, -5.0, 100.0, 0.0, 100.0):
        clock.now = now
        exceeded = take([one], ["messages"])
        assert exceeded is not None
        assert exceeded.wait_sec > 0


@pytest.mark.parametrize("now", [math.nan, math.inf])
def test_a_clock_that_gives_no_time_is_an_error_and_nothing_is_counted(now: float) -> None:
    clock = Clock()
    one = messages(clock, total=1)
    clock.now = now
    with pytest.raises(ValueError, match="the clock of the limits of a says"):
        take([one], ["messages"])
    clock.now = 1.0
    assert allowed(one)


STEPS = st.lists(st.floats(-3, 3, allow_nan=False), max_size=60)


@given(st.floats(0.1, 20), st.integers(1, 5), STEPS)
def test_no_span_of_time_sees_more_than_burst_and_rate_allow(rate: float, burst: int, steps: list[float]) -> None:
    clock = Clock()
    one = messages(clock, per_second=rate, burst=burst)
    latest, times = -math.inf, []  # a limiter knows no time before it is asked
    for step in steps:
        clock.now = max(clock.now + step, 0.0)
        latest = max(latest, clock.now)
        times += [latest for _ in range(3) if allowed(one)]
    for first in range(len(times)):
        for last in range(first, len(times)):
            assert last - first + 1 <= burst + rate * (times[last] - times[first]) + 1e-6


@given(st.integers(1, 5), st.floats(0.5, 10), STEPS)
def test_a_refused_one_changes_nothing(total: int, window: float, steps: list[float]) -> None:
    clock = Clock()
    limit = {"per_second": 1.0, "burst": 2, "total": total, "window_sec": window}
    asked_often, asked_once = messages(clock, **limit), messages(clock, **limit)
    blocked = messages(clock, total=1)
    assert allowed(blocked)
    for step in steps:
        clock.now += abs(step)
        assert not any(allowed(asked_often, blocked) for _ in range(5))
        assert allowed(asked_often) == allowed(asked_once)


class Slow:
    """A meter that always allows, and lets the other threads go on before it says so."""

    text = "slow"

    def wait(self, now: float) -> float:
        time.sleep(0.0005)
        return 0.0

    def take(self, now: float) -> None:
        pass


class SlowLimiter(Limiter):
    """Lets the other threads go on between the answer of its meters and the taking."""

    def meters(self, names: Iterable[str]) -> list[tuple[str, Meter]]:
        return [*super().meters(names), ("slow", Slow())]


def test_threads_that_ask_at_once_never_get_more_than_there_is() -> None:
    shared = SlowLimiter(Limits(messages=Limit(total=21)), "p", clock=Clock())
    got: list[Exceeded | None] = []
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait(30)
        got.extend([take([shared], ["messages"]) for _ in range(10)])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (len(got), got.count(None)) == (80, 21)
