from __future__ import annotations

import copy
import json
import math
import pickle
from typing import Any

import pytest
from attrs.exceptions import FrozenInstanceError
from hypothesis import given
from hypothesis import strategies as st

from converge.core.capability import Capability, CapabilitySet, as_capabilities, capability_names

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_a_name_is_enough() -> None:
    capability = Capability("review")
    assert (capability.version, capability.description, capability.latency_ms) == ("1.0", "", None)
    assert (capability.constraints, capability.costs) == ({}, {})


def test_defaults_are_not_shared() -> None:
    Capability("a").costs["usd"] = 1
    assert Capability("a").costs == {}


def test_a_capability_keeps_copies_to_the_depth() -> None:
    given_costs: dict[str, Any] = {"per": {"call": [1]}}
    capability = Capability("a", costs=given_costs)
    given_costs["per"]["call"].append(2)
    assert capability.costs == {"per": {"call": [1]}}


def test_a_capability_is_immutable_and_evolves() -> None:
    capability = Capability("a", latency_ms=5)
    with pytest.raises(FrozenInstanceError):
        capability.name = "b"  # type: ignore[misc]  # what is being tested
    assert capability.evolve(version="2.0") == Capability("a", "2.0", latency_ms=5)


def test_equal_capabilities_have_equal_hashes_and_costs_tell_them_apart() -> None:
    one, same, other = Capability("a", costs={"x": 1}), Capability("a", costs={"x": 1}), Capability("a", costs={"x": 2})
    assert (one == same, hash(one) == hash(same), one == other) == (True, True, False)
    assert len({one, same, other}) == 2


def test_the_hash_stays_when_costs_are_changed_in_place() -> None:
    capability = Capability("a")
    before = hash(capability)
    capability.costs["usd"] = 1
    assert hash(capability) == before


@given(st.dictionaries(st.text(), PLAIN, max_size=3), st.none() | st.floats(0, 1e9))
def test_a_capability_survives_json(costs: dict[str, object], latency_ms: float | None) -> None:
    capability = Capability("a", "2", "does a", costs, costs, latency_ms)  # type: ignore[arg-type]  # plain data
    assert Capability.from_dict(json.loads(json.dumps(capability.to_dict(), allow_nan=False))) == capability


def test_a_capability_survives_pickle_and_copy() -> None:
    capability = Capability("a", costs={"x": [1]})
    assert pickle.loads(pickle.dumps(capability)) == capability == copy.deepcopy(capability)


@pytest.mark.parametrize(
    "wrong", [{"name": ""}, {"latency_ms": -1}, {"latency_ms": math.nan}, {"latency_ms": math.inf}]
)
def test_a_field_out_of_bounds_is_a_value_error(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Capability(**({"name": "a"} | wrong))  # type: ignore[arg-type]  # what is being tested


@pytest.mark.parametrize(
    "wrong",
    [{"name": 1}, {"version": 2}, {"description": None}, {"costs": []}, {"constraints": "x"}, {"costs": {1: 2}}],
)
def test_a_field_of_a_wrong_type_is_a_type_error(wrong: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        Capability(**({"name": "a"} | wrong))  # type: ignore[arg-type]  # what is being tested


def test_costs_that_are_not_plain_data_are_refused_where_they_stand() -> None:
    with pytest.raises(TypeError, match=r"\$\.x\[1\]"):
        Capability("a", costs={"x": [1, {2}]})  # type: ignore[list-item]  # what is being tested


@pytest.mark.parametrize(
    "data", [None, [], {}, {"name": 1}, {"name": "a", "color": 1}, {"name": "a", "costs": 1}, {1: 2}]
)
def test_malformed_data_is_a_value_error(data: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Capability.from_dict(data)


def test_a_set_knows_names_and_versions() -> None:
    capabilities = CapabilitySet(["read", Capability("write", "2.0")])
    assert (capabilities.has("read"), capabilities.has("fly")) == (True, False)
    assert (capabilities.has("write", "2.0"), capabilities.has("write", "1.0")) == (True, False)
    assert "read" in capabilities
    assert capabilities.names() == ["read", "write"]
    assert len(capabilities) == 2


def test_a_set_holds_one_capability_of_a_name_the_last() -> None:
    capabilities = CapabilitySet()
    capabilities.add("a")
    capabilities.add(Capability("a", "2.0"))
    assert list(capabilities) == [Capability("a", "2.0")]


def test_sets_are_equal_by_content_and_have_no_hash() -> None:
    assert CapabilitySet(["a", "b"]) == CapabilitySet(["b", "a"])
    assert CapabilitySet(["a"]) != CapabilitySet([Capability("a", "2.0")])
    assert CapabilitySet(["a"]) != ["a"]
    with pytest.raises(TypeError):
        hash(CapabilitySet())
    assert repr(CapabilitySet(["b", "a"])) == "CapabilitySet(['a', 'b'])"


def test_a_lone_str_is_not_taken_for_a_list_of_letters() -> None:
    for taking in (CapabilitySet, as_capabilities, capability_names):
        with pytest.raises(TypeError, match=r"write \['review'\]"):
            taking("review")


@pytest.mark.parametrize("wrong", [1, None, b"x", ["a"]])
def test_what_is_no_capability_is_refused(wrong: str) -> None:
    with pytest.raises(TypeError, match="a Capability or its name"):
        CapabilitySet().add(wrong)


def test_names_are_read_from_any_mix() -> None:
    assert capability_names(["a", Capability("b")]) == frozenset("ab")
    assert capability_names(CapabilitySet(["c"])) == frozenset("c")
    assert as_capabilities(("a",)) == (Capability("a"),)
