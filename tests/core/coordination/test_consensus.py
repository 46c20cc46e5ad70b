from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converge.coordination.consensus import Consensus

options = st.sampled_from(["a", "b", "c", 1, ("x",)])
ballots = st.lists(options, max_size=12)
COUNTS = [Consensus.majority_vote, Consensus.plurality_vote]


@given(votes=ballots)
def test_a_majority_is_more_than_half(votes: list[Any]) -> None:
    expected = [option for option, count in Counter(votes).items() if count > len(votes) / 2]
    assert Consensus.majority_vote(votes) == (expected[0] if expected else None)


@given(votes=ballots)
def test_a_plurality_is_more_than_anything_else(votes: list[Any]) -> None:
    ranked = Counter(votes).most_common(2)
    ahead = len(ranked) == 1 or (len(ranked) == 2 and ranked[0][1] > ranked[1][1])
    assert Consensus.plurality_vote(votes) == (ranked[0][0] if ahead else None)


@given(votes=ballots)
def test_a_majority_is_a_plurality(votes: list[Any]) -> None:
    assert Consensus.majority_vote(votes) in (None, Consensus.plurality_vote(votes))


@pytest.mark.parametrize("count", COUNTS)
def test_half_against_half_is_undecided(count: Any) -> None:
    assert count(["a", "b"]) is None
    assert count([]) is None


def test_a_plurality_needs_no_majority() -> None:
    votes = ["a", "a", "b", "c"]
    assert Consensus.plurality_vote(votes) == "a"
    assert Consensus.majority_vote(votes) is None


@pytest.mark.parametrize("count", COUNTS)
def test_a_mapping_counts_one_vote_an_agent(count: Any) -> None:
    assert count({"x": "a", "y": "a", "z": "b"}) == "a"


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(
    "votes", [None, "aab", {"a"}, 7, ["a", None], [{"a"}], {"x": [set()]}, [math.nan], [[math.nan]]]
)
def test_malformed_votes_are_refused(count: Any, votes: object) -> None:
    with pytest.raises(ValueError, match="votes"):
        count(votes)
