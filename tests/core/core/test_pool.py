from __future__ import annotations

import inspect
import math
import subprocess
import sys

import pytest

from converge.core.pool import Pool
from converge.core.topic import Topic
from converge.policy.admission import OpenAdmission


def test_a_pool_needs_an_id_only() -> None:
    pool = Pool("p")
    assert (pool.topics, pool.agents, pool.trust_threshold) == ([], set(), 0.0)
    assert (pool.admission_policy, pool.governance, pool.trust_model) == (None, None, None)


def test_the_parameters_are_those_of_the_contract_in_its_order() -> None:
    assert list(inspect.signature(Pool).parameters) == (
        ["id", "topics", "admission_policy", "governance", "agents", "trust_model", "trust_threshold"]
    )


def test_agents_are_added_and_removed_once() -> None:
    pool = Pool("p", agents=["a"])
    pool.add_agent("b")
    pool.add_agent("b")
    pool.remove_agent("a")
    pool.remove_agent("a")
    assert pool.agents == {"b"}


def test_neither_defaults_nor_arguments_are_shared() -> None:
    topics, agents = [Topic("t")], {"a"}
    one, other = Pool("p", topics, OpenAdmission(), agents=agents), Pool("p")
    one.topics.append(Topic("u"))
    one.add_agent("b")
    other.add_agent("c")
    assert (topics, agents, Pool("p").agents) == ([Topic("t")], {"a"}, set())


@pytest.mark.parametrize("threshold", [math.nan, -0.1, 1.1, math.inf, True, None, "1"])
def test_a_threshold_that_is_no_number_from_0_to_1_is_refused_also_later(threshold: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        Pool("p", trust_threshold=threshold)
    pool = Pool("p", trust_threshold=1)
    with pytest.raises(ValueError, match="from 0 to 1"):
        pool.trust_threshold = threshold
    assert pool.trust_threshold == 1


@pytest.mark.parametrize("pool_id", ["", None, 3])
def test_an_id_is_a_str_that_is_not_empty(pool_id: str) -> None:
    with pytest.raises((ValueError, TypeError), match="id"):
        Pool(pool_id)


def test_a_lone_str_is_no_list_of_agents() -> None:
    with pytest.raises(TypeError, match=r"write \['alice'\]"):
        Pool("p", agents="alice")


def test_importing_pools_loads_no_policy() -> None:
    code = "import sys, converge.core.pool; print([name for name in sys.modules if 'converge.policy' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
