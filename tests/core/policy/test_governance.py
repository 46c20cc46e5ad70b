from __future__ import annotations

import math
import pickle
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converge.plugins import default_manager
from converge.policy.errors import PolicyContextError, PolicyOptionError
from converge.policy.governance import (
    VETO,
    BicameralGovernance,
    DemocraticGovernance,
    DictatorialGovernance,
    EmpiricalGovernance,
    GovernanceModel,
    VetoGovernance,
)

MODELS: dict[str, GovernanceModel] = {
    "democratic": DemocraticGovernance(),
    "dictatorial": DictatorialGovernance("boss"),
    "bicameral": BicameralGovernance(),
    "veto": VetoGovernance("vetoer"),
    "empirical": EmpiricalGovernance(),
}
BY_LIST = [model for name, model in MODELS.items() if name != "dictatorial"]

options = st.sampled_from(["a", "b", "c"])
ballots = st.lists(options, max_size=12)
weighed = st.lists(st.tuples(options, st.floats(min_value=0, max_value=1e300) | st.integers(0, 10)), max_size=12)


def chambers(votes: list[str]) -> dict[str, object]:
    return {"votes": votes, "chamber_a_votes": votes, "chamber_b_votes": votes}


def ids(model: GovernanceModel) -> str:
    return type(model).__name__


# every model


@pytest.mark.parametrize("model", MODELS.values(), ids=ids)
def test_no_votes_decide_nothing(model: GovernanceModel) -> None:
    assert model.resolve_dispute({}) is None
    assert model.resolve_dispute({"votes": None, "fallback": None}) is None
    assert model.resolve_dispute({"votes": {}, "chamber_a_votes": {}, "chamber_b_votes": {}}) is None


@pytest.mark.parametrize("model", MODELS.values(), ids=ids)
def test_the_fallback_holds_when_nothing_is_decided(model: GovernanceModel) -> None:
    assert model.resolve_dispute({"fallback": "as before"}) == "as before"
    assert model.resolve_dispute({"fallback": False}) is False


@pytest.mark.parametrize("model", BY_LIST, ids=ids)
@given(votes=ballots, seed=st.randoms(use_true_random=False))
def test_the_order_of_the_votes_does_not_matter(model: GovernanceModel, votes: list[str], seed: Any) -> None:
    shuffled = seed.sample(votes, len(votes))
    assert model.resolve_dispute(chambers(votes)) == model.resolve_dispute(chambers(shuffled))


@pytest.mark.parametrize("model", BY_LIST, ids=ids)
@given(votes=ballots)
def test_a_list_and_a_mapping_of_the_same_votes_decide_the_same(model: GovernanceModel, votes: list[str]) -> None:
    by_agent = {f"agent {index}": option for index, option in enumerate(votes)}
    as_mappings = {"votes": by_agent, "chamber_a_votes": by_agent, "chamber_b_votes": by_agent}
    assert model.resolve_dispute(chambers(votes)) == model.resolve_dispute(as_mappings)


@pytest.mark.parametrize("model", MODELS.values(), ids=ids)
@given(votes=st.dictionaries(st.sampled_from(["boss", "vetoer", "x", "y", "z"]), options), tie_breaker=options)
def test_what_is_decided_was_voted_for(model: GovernanceModel, votes: dict[str, str], tie_breaker: str) -> None:
    context = {"votes": votes, "chamber_a_votes": votes, "chamber_b_votes": votes, "tie_breaker": tie_breaker}
    assert model.resolve_dispute(context) in {*votes.values(), None}


@pytest.mark.parametrize("model", MODELS.values(), ids=ids)
@pytest.mark.parametrize("votes", ["ab", b"ab", {"a", "b"}, 7, iter(["a"]), {"x": None}, {"x": {"a"}}, {"x": math.nan}])
def test_malformed_votes_are_refused_by_key(model: GovernanceModel, votes: object) -> None:
    with pytest.raises(PolicyContextError) as caught:
        model.resolve_dispute({"votes": votes, "chamber_a_votes": votes})
    assert caught.value.key == ("chamber_a_votes" if isinstance(model, BicameralGovernance) else "votes")


@pytest.mark.parametrize("model", BY_LIST, ids=ids)
@pytest.mark.parametrize("votes", [["a", None], [{"a"}], [[{"a"}]], [{"x": bytearray()}], [math.nan], [[math.nan]]])
def test_an_option_that_cannot_be_counted_is_refused(model: GovernanceModel, votes: list[object]) -> None:
    with pytest.raises(PolicyContextError, match="votes"):
        model.resolve_dispute({"votes": votes, "chamber_b_votes": votes})


@pytest.mark.parametrize("model", MODELS.values(), ids=ids)
def test_a_malformed_fallback_is_refused_even_when_it_is_not_needed(model: GovernanceModel) -> None:
    votes = {"boss": "a"}
    with pytest.raises(PolicyContextError) as caught:
        model.resolve_dispute({"votes": votes, "chamber_a_votes": votes, "chamber_b_votes": votes, "fallback": set()})
    assert caught.value.key == "fallback"


@pytest.mark.parametrize("model", MODELS.values(), ids=ids)
def test_a_context_that_is_no_mapping_is_refused(model: GovernanceModel) -> None:
    not_a_context: Any = ["a"]
    with pytest.raises(PolicyContextError, match="mapping"):
        model.resolve_dispute(not_a_context)


@pytest.mark.parametrize("name", MODELS)
def test_models_are_described_and_built_again_equal(name: str) -> None:
    table = default_manager().describe(MODELS[name])
    assert table is not None
    assert table["use"] == name
    assert default_manager().build("governance", table) == MODELS[name]


@pytest.mark.parametrize("model", MODELS.values(), ids=ids)
def test_models_are_values(model: GovernanceModel) -> None:
    assert pickle.loads(pickle.dumps(model)) == model
    assert len({model, pickle.loads(pickle.dumps(model))}) == 1


# democratic


@given(votes=ballots)
def test_democracy_takes_what_more_than_half_voted_for(votes: list[str]) -> None:
    expected = [option for option, count in Counter(votes).items() if 2 * count > len(votes)]
    assert DemocraticGovernance().resolve_dispute({"votes": votes}) == (expected[0] if expected else None)


def test_half_of_the_votes_is_no_majority() -> None:
    assert DemocraticGovernance().resolve_dispute({"votes": ["a", "a", "b", "c"]}) is None


def test_the_casting_vote_decides_between_the_leading_options_only() -> None:
    tie = ["a", "a", "b", "b", "c"]
    democratic = DemocraticGovernance()
    assert democratic.resolve_dispute({"votes": tie, "tie_breaker": "b", "fallback": "f"}) == "b"
    assert democratic.resolve_dispute({"votes": tie, "tie_breaker": "c", "fallback": "f"}) == "f"
    assert democratic.resolve_dispute({"votes": tie, "tie_breaker": "new"}) is None


def test_the_casting_vote_does_not_overrule_a_majority() -> None:
    assert DemocraticGovernance().resolve_dispute({"votes": ["a", "a", "b"], "tie_breaker": "b"}) == "a"


def test_the_casting_vote_alone_decides_nothing() -> None:
    assert DemocraticGovernance().resolve_dispute({"votes": [], "tie_breaker": "a"}) is None


def test_options_may_be_any_hashable_value() -> None:
    assert DemocraticGovernance().resolve_dispute({"votes": [False, False, ("x", 1)]}) is False
    assert DemocraticGovernance().resolve_dispute({"votes": [("x", 1)]}) == ("x", 1)


# dictatorial


def test_the_leader_decides_against_everybody() -> None:
    votes = {"x": "a", "y": "a", "boss": "b"}
    assert DictatorialGovernance("boss").resolve_dispute({"votes": votes, "tie_breaker": "a"}) == "b"


def test_without_the_leaders_vote_nothing_is_decided() -> None:
    context = {"votes": {"x": "a", "y": "a"}}
    assert DictatorialGovernance("boss").resolve_dispute(context) is None
    assert DictatorialGovernance("boss").resolve_dispute({**context, "fallback": "f"}) == "f"


def test_a_list_in_which_the_leader_cannot_be_found_is_refused() -> None:
    with pytest.raises(PolicyContextError, match="who voted"):
        DictatorialGovernance("boss").resolve_dispute({"votes": ["a"]})


@pytest.mark.parametrize("agent_id", ["", None, 7])
def test_the_agents_of_a_model_are_named_by_ids(agent_id: Any) -> None:
    with pytest.raises(PolicyOptionError, match="leader_id"):
        DictatorialGovernance(agent_id)
    with pytest.raises(PolicyOptionError, match="veto_agent_id"):
        VetoGovernance(agent_id)


# bicameral


def bicameral(first: list[str], second: list[str], **more: object) -> object:
    return BicameralGovernance().resolve_dispute({"chamber_a_votes": first, "chamber_b_votes": second, **more})


def test_both_chambers_have_to_agree() -> None:
    assert bicameral(["a", "a", "b"], ["a"]) == "a"
    assert bicameral(["a", "a", "b"], ["b"]) is None
    assert bicameral(["a"], ["b"], fallback="f") == "f"


def test_a_chamber_without_a_majority_blocks() -> None:
    assert bicameral(["a"], ["a", "b"], tie_breaker="a") is None
    assert bicameral([], ["a"], tie_breaker="a") is None


def test_the_casting_vote_decides_between_the_chambers_majorities() -> None:
    assert bicameral(["a"], ["b"], tie_breaker="b") == "b"
    assert bicameral(["a"], ["b"], tie_breaker="c", fallback="f") == "f"


# veto


def test_without_a_veto_the_majority_decides() -> None:
    assert VetoGovernance("vetoer").resolve_dispute({"votes": ["a", "a", "b"]}) == "a"
    assert VetoGovernance("vetoer").resolve_dispute({"votes": ["a", "b"], "tie_breaker": "b"}) == "b"


@pytest.mark.parametrize(
    "context",
    [
        {"votes": ["a", "a", "b"], "veto_exercised": True},
        {"votes": {"x": "a", "y": "a", "vetoer": VETO}},
        {"votes": {"x": "a", "y": "a", "vetoer": VETO}, "veto_exercised": False},
        {"votes": {"x": "a", "vetoer": "a"}, "veto_exercised": True, "tie_breaker": "a"},
    ],
)
def test_a_veto_stops_any_majority(context: dict[str, object]) -> None:
    assert VetoGovernance("vetoer").resolve_dispute(context) is None
    assert VetoGovernance("vetoer").resolve_dispute({**context, "fallback": "f"}) == "f"


def test_only_the_one_agent_can_veto_by_its_vote() -> None:
    assert VetoGovernance("vetoer").resolve_dispute({"votes": {"x": VETO, "y": "a", "vetoer": "a"}}) == "a"


@pytest.mark.parametrize("exercised", [1, "yes", "vetoer", []])
def test_a_veto_is_exercised_or_not(exercised: object) -> None:
    with pytest.raises(PolicyContextError, match="veto_exercised"):
        VetoGovernance("vetoer").resolve_dispute({"votes": ["a"], "veto_exercised": exercised})


# empirical


def empirical(votes: object, weights: object = None, **more: object) -> object:
    return EmpiricalGovernance().resolve_dispute({"votes": votes, "weights": weights, **more})


def test_evidence_outweighs_numbers() -> None:
    assert empirical(["a", "a", "b"], [0.2, 0.2, 0.5]) == "b"
    assert empirical({"x": "a", "y": "a", "z": "b"}, {"x": 0.2, "y": 0.2, "z": 0.5}) == "b"


def test_without_weights_every_vote_weighs_the_same() -> None:
    assert empirical(["a", "a", "b"]) == "a"
    assert empirical({"x": "a", "y": "b"}) is None


def test_an_agent_without_a_weight_counts_for_nothing() -> None:
    assert empirical({"x": "a", "stranger": "b"}, {"x": 0.1, "absent": 5}) == "a"
    assert empirical({"stranger": "b"}, {}) is None


def test_equal_evidence_is_a_tie_and_the_rounding_of_floats_does_not_decide_it() -> None:
    assert empirical(["a", "b"], [1, 1], tie_breaker="a") is None
    assert empirical(["a", "a", "b"], [0.1, 0.2, 0.3]) is None
    assert empirical(["a", "b"], [1, 1], fallback="f") == "f"


def test_no_evidence_at_all_decides_nothing() -> None:
    assert empirical(["a", "a"], [0, 0.0]) is None


def test_sums_beyond_the_range_of_floats_are_exact() -> None:
    assert empirical(["a", "b", "b"], [1.7e308, 1.7e308, 1.7e308]) == "b"


@given(votes=weighed, seed=st.randoms(use_true_random=False))
def test_the_order_of_weighed_votes_does_not_matter(votes: list[tuple[str, float]], seed: Any) -> None:
    shuffled = seed.sample(votes, len(votes))
    results = [empirical([o for o, _ in order], [w for _, w in order]) for order in (votes, shuffled)]
    assert results[0] == results[1]


@given(votes=weighed.filter(bool), extra=st.floats(min_value=0, max_value=1e300))
def test_more_evidence_for_the_winner_does_not_make_it_lose(votes: list[tuple[str, float]], extra: float) -> None:
    names, weights = [option for option, _ in votes], [weight for _, weight in votes]
    winner = empirical(names, weights)
    if winner is not None:
        assert empirical([*names, winner], [*weights, extra]) == winner


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf, -1, True, "1", None])
def test_a_weight_that_is_no_amount_is_refused(weight: object) -> None:
    with pytest.raises(PolicyContextError, match="weights"):
        empirical(["good", "good", "evil"], [1, 1, weight])
    with pytest.raises(PolicyContextError, match="weights"):
        empirical({"x": "good", "y": "evil"}, {"x": 1, "y": weight})
    with pytest.raises(PolicyContextError, match="weights"):
        empirical({"x": "good"}, {"x": 1, "absent": weight})


@pytest.mark.parametrize(
    ("votes", "weights"),
    [(["a"], []), (["a"], [1, 2]), (["a"], {"a": 1}), ({"x": "a"}, [1]), (["a"], 1), ({"x": "a"}, "1")],
)
def test_weights_have_the_form_of_the_votes(votes: object, weights: object) -> None:
    with pytest.raises(PolicyContextError) as caught:
        empirical(votes, weights)
    assert caught.value.key == "weights"
