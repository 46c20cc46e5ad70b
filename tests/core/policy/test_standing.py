"""The rule of trust."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converge.policy.errors import TrustError
from converge.policy.standing import HALF_LIFE_SEC, Standing, check_half_life

NOW = 1_700_000_000.0
DAY = 86_400.0
outcomes = st.lists(st.tuples(st.booleans(), st.floats(0.001, 1000), st.floats(0, 1e4 * DAY)), max_size=20)
moves = st.lists(
    st.one_of(
        st.tuples(st.just("outcome"), st.booleans(), st.floats(1e-9, 1000), st.floats(0, 1e12)),
        st.tuples(st.just("move"), st.floats(-1e300, 1e300), st.none(), st.none()),
    ),
    max_size=20,
)


def after(standing: Standing, success: bool, weight: float = 1.0, at: float = NOW, **more: Any) -> Standing:
    settings = {"now": NOW, "half_life": math.inf, **more}
    return standing.with_outcome(success=success, weight=weight, at=at, **settings)


def test_without_forgetting_it_is_the_mean_of_the_beta_distribution() -> None:
    standing = Standing(0.5)
    for successes in range(10):
        assert standing.trust == pytest.approx((successes + 1) / (successes + 2))
        standing = after(standing, success=True)
    for failures in range(10):
        assert standing.trust == pytest.approx((10 + 1) / (10 + failures + 2))
        standing = after(standing, success=False)


def test_another_base_rate_is_the_trust_of_a_stranger_and_weighs_two_outcomes() -> None:
    assert Standing(0.1).trust == 0.1
    assert after(Standing(0.1), success=True).trust == pytest.approx((1 + 2 * 0.1) / 3)


def test_an_outcome_counts_half_after_each_half_life_and_trust_goes_back_to_the_base_rate() -> None:
    standing = after(Standing(0.5), success=False, weight=8.0)
    assert standing.trust == pytest.approx(1 / 10)
    assert standing.faded(NOW + 30 * DAY, 30 * DAY).trust == pytest.approx(1 / 6)
    assert standing.faded(NOW + 60 * DAY, 30 * DAY).failures == pytest.approx(2.0)
    assert standing.faded(NOW + 1e6 * DAY, 30 * DAY).trust == pytest.approx(0.5)
    assert HALF_LIFE_SEC == 30 * DAY


def test_an_outcome_that_is_told_late_counts_as_if_it_had_been_told_in_time() -> None:
    in_time = after(Standing(0.5), success=True, half_life=DAY).faded(NOW + 2 * DAY, DAY)
    late = after(Standing(0.5), success=True, now=NOW + 2 * DAY, half_life=DAY)
    assert in_time == late
    assert late.successes == 0.25


@given(outcomes=outcomes, seed=st.randoms())
def test_the_order_in_which_outcomes_are_told_does_not_matter(outcomes: list[Any], seed: Any) -> None:
    told = []
    for order in (outcomes, seed.sample(outcomes, len(outcomes))):
        standing = Standing(0.5)
        for success, weight, at in order:
            standing = after(standing, success, weight, at, now=2e9, half_life=HALF_LIFE_SEC)
        told.append(standing)
    assert told[0].trust == pytest.approx(told[1].trust, rel=1e-9)


@given(score=st.floats(0, 1), moves=moves, half_life=st.floats(1e-300, 1e300), step=st.floats(-1e9, 1e9))
def test_trust_is_a_number_from_0_to_1_whatever_happens(
    score: float, moves: list[Any], half_life: float, step: float
) -> None:
    standing, now = Standing(score), NOW
    for kind, first, weight, at in moves:
        now = max(0.0, now + step)
        if kind == "outcome":
            standing = standing.with_outcome(success=first, weight=weight, at=at, now=now, half_life=half_life)
        else:
            expected = min(1.0, max(0.0, standing.faded(now, half_life).trust + max(-1.0, min(1.0, first))))
            standing = standing.moved(first, now, half_life)
            assert standing.trust == pytest.approx(expected, abs=1e-9)
        assert 0 <= standing.trust <= 1
        assert 0 <= standing.score <= 1
        assert min(standing.successes, standing.failures) >= 0
        Standing.checked(standing.score, standing.successes, standing.failures, standing.at)


def test_a_clock_that_was_wrong_neither_freezes_trust_nor_forgets_it() -> None:
    ahead = after(Standing(0.5), success=True, now=NOW + 1e9, at=NOW + 1e9, half_life=DAY)
    now = after(ahead, success=False, half_life=DAY)
    assert (now.successes, now.failures, now.at) == (1.0, 1.0, NOW)


def test_an_outcome_of_the_future_is_one_of_now() -> None:
    assert after(Standing(0.5), success=True, at=NOW + 1e9, half_life=DAY).successes == 1.0


@pytest.mark.parametrize("value", [0, -1, math.nan, True, "1", None])
def test_a_half_life_is_above_zero(value: object) -> None:
    with pytest.raises(TrustError, match="half_life_sec"):
        check_half_life(value)
    assert check_half_life(math.inf) == math.inf


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, "1", None, True, 1e13])
def test_stored_numbers_that_make_no_sense_are_refused(place: int, value: object) -> None:
    values: list[object] = [0.5, 1.0, 1.0, 1.0]
    values[place] = value
    with pytest.raises(TrustError):
        Standing.checked(*values)
