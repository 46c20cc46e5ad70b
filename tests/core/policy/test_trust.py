from __future__ import annotations

import copy
import math
import pickle
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converge.plugins import default_manager
from converge.policy.errors import TrustError
from converge.policy.trust import TrustModel


def test_a_stranger_has_the_default_trust() -> None:
    assert TrustModel().get_trust("stranger") == 0.5
    assert TrustModel(0.1).get_trust("stranger") == 0.1


def test_trust_changes_for_one_agent_and_is_returned() -> None:
    trust = TrustModel()
    assert trust.update_trust("a", 0.25) == 0.75
    assert trust.get_trust("a") == 0.75
    assert trust.get_trust("b") == 0.5


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.integers()))
def test_trust_stays_between_0_and_1_whatever_the_changes(deltas: list[float]) -> None:
    trust = TrustModel()
    for delta in deltas:
        assert 0 <= trust.update_trust("a", delta) <= 1


@pytest.mark.parametrize("delta", [math.nan, math.inf, -math.inf, "0.1", None, True])
def test_a_change_that_is_no_finite_number_is_refused_and_changes_nothing(delta: float) -> None:
    trust = TrustModel()
    with pytest.raises(ValueError, match="finite"):
        trust.update_trust("a", delta)
    assert trust.get_trust("a") == 0.5


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.1, "1", None, True])
def test_a_default_or_a_score_that_is_no_trust_is_refused(value: float) -> None:
    with pytest.raises(TrustError, match="default_trust"):
        TrustModel(value)
    with pytest.raises(TrustError, match="'a'"):
        TrustModel(scores={"a": value})


@pytest.mark.parametrize("agent_id", ["", None, 7])
def test_trust_is_kept_for_agent_ids_only(agent_id: str) -> None:
    with pytest.raises(TrustError, match="agent id"):
        TrustModel().update_trust(agent_id, 0.1)


def test_an_agent_back_at_the_default_is_not_kept() -> None:
    trust = TrustModel()
    trust.update_trust("a", 0.25)
    trust.update_trust("a", -0.25)
    assert trust.to_options() == {"default_trust": 0.5, "scores": {}}


def test_options_restore_default_and_scores_so_that_distrust_survives() -> None:
    trust = TrustModel(0.4)
    trust.update_trust("evil", -1)
    table = default_manager().describe(trust)
    assert table == {"use": "default", "default_trust": 0.4, "scores": {"evil": 0.0}}
    restored = default_manager().build("trust", table)
    assert isinstance(restored, TrustModel)
    assert (restored.get_trust("evil"), restored.get_trust("new")) == (0.0, 0.4)


def test_a_copy_goes_its_own_way() -> None:
    trust = TrustModel()
    trust.update_trust("a", 0.25)
    for other in (copy.deepcopy(trust), pickle.loads(pickle.dumps(trust))):
        other.update_trust("a", 0.125)
        assert (other.get_trust("a"), trust.get_trust("a")) == (0.875, 0.75)


def test_changes_from_many_threads_all_count() -> None:
    trust = TrustModel(0)
    step = 2**-12

    def raise_trust() -> None:
        for _ in range(512):
            trust.update_trust("a", step)

    threads = [threading.Thread(target=raise_trust) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert trust.get_trust("a") == 4 * 512 * step


def test_the_repr_does_not_list_the_agents() -> None:
    trust = TrustModel()
    trust.update_trust("somebody", 0.1)
    assert repr(trust) == "TrustModel(default_trust=0.5, 1 agents known)"
