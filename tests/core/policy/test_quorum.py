from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converge.coordination.consensus import Consensus
from converge.plugins import default_manager
from converge.policy.ballots import leaders, strict_majority, tally
from converge.policy.errors import PolicyContextError, PolicyOptionError
from converge.policy.governance import BicameralGovernance, DemocraticGovernance, EmpiricalGovernance, QuorumGovernance

votes = st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from(["x", "y", "z"]))
percent = st.integers(1, 100)


@given(votes=votes, quorum=percent, majority=st.integers(50, 99), by_ids=st.booleans(), fallback=st.booleans())
def test_it_takes_a_share_of_the_electorate_and_a_majority_of_the_votes(
    votes: dict[str, str], quorum: int, majority: int, *, by_ids: bool, fallback: bool
) -> None:
    model = QuorumGovernance(quorum / 100, majority / 100)
    context: dict[str, object] = {"votes": votes, "electorate": [*"abcdefgh"] if by_ids else 8}
    enough = len(votes) > 0 and len(votes) * 100 >= quorum * 8
    option, most = next(iter(Counter(votes.values()).most_common(1)), (None, 0))
    expected = option if enough and Fraction(most, len(votes)) > Fraction(majority, 100) else None
    if fallback:
        context["fallback"] = "stays"
        expected = expected or "stays"
    assert model.resolve_dispute(context) == expected


def test_a_share_is_the_decimal_that_was_written() -> None:
    context = {"votes": ["x"] * 3, "electorate": 30}
    assert QuorumGovernance(0.1).resolve_dispute(context) == "x"
    assert QuorumGovernance(0.1000001).resolve_dispute(context) is None


@pytest.mark.parametrize(
    "electorate", [None, -1, True, 2.0, "ab", [1], ["a", "a", "b", "c"], ["a", "b", "x"], 2, {"a": 1}, []]
)
def test_an_electorate_that_cannot_have_voted_so_is_refused(electorate: object) -> None:
    context = {"votes": {"a": "x", "b": "x", "c": "y"}, "electorate": electorate}
    with pytest.raises(PolicyContextError) as caught:
        QuorumGovernance().resolve_dispute(context)
    assert caught.value.key == "electorate"


@pytest.mark.parametrize("value", [0, -0.1, 1.1, math.nan, math.inf, True, "1", None])
def test_shares_out_of_range_are_refused(value: Any) -> None:
    with pytest.raises(PolicyOptionError, match="quorum"):
        QuorumGovernance(value)
    with pytest.raises(PolicyOptionError, match="majority"):
        QuorumGovernance(majority=value)
    with pytest.raises(PolicyOptionError, match="majority"):
        QuorumGovernance(majority=1.0)


def test_it_is_a_plugin_that_is_restored_with_its_options() -> None:
    model = QuorumGovernance(0.6, 0.66)
    table = default_manager().describe(model)
    assert table == {"use": "quorum", "quorum": 0.6, "majority": 0.66}
    assert default_manager().build("governance", table) == model
    assert default_manager().build("governance", "quorum") == QuorumGovernance()


RANKED = [["x", "y"], ["y", "x"], ["x", "y"]]


def test_a_ranking_counts_like_any_option_and_is_given_back_as_it_was() -> None:
    assert Consensus.majority_vote(RANKED) == Consensus.plurality_vote(RANKED) == ["x", "y"]
    assert DemocraticGovernance().resolve_dispute({"votes": RANKED}) == ["x", "y"]
    assert EmpiricalGovernance().resolve_dispute({"votes": RANKED, "weights": [1, 5, 1]}) == ["y", "x"]
    chambers = {"chamber_a_votes": RANKED, "chamber_b_votes": [("x", "y")]}
    assert BicameralGovernance().resolve_dispute(chambers) == ["x", "y"]
    tied: dict[str, object] = {"votes": RANKED[:2], "tie_breaker": ("y", "x")}
    assert DemocraticGovernance().resolve_dispute(tied) == ("y", "x")
    assert Consensus.majority_vote({"a": {"x": [1]}, "b": {"x": [1]}, "c": "no"}) == {"x": [1]}


def test_one_odd_vote_does_not_stop_the_count_of_the_others() -> None:
    assert Consensus.majority_vote(["x", "x", []]) == "x"
    assert DemocraticGovernance().resolve_dispute({"votes": {"a": "x", "b": "x", "evil": {"x": {}}}}) == "x"


def test_options_that_only_look_alike_are_different() -> None:
    counted = tally([["a"], "a", {"a": 1}, [["a"]], {"a": [1]}, b"a"])
    assert [count for _, count in counted.items()] == [1] * 6
    assert strict_majority(counted) is None
    assert len(leaders(counted)) == 6


def test_an_option_that_contains_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(PolicyContextError, match="nested deeper than 64"):
        tally([endless])
