from __future__ import annotations

import copy
import itertools
import json
import math
import pickle
from typing import Any

import pytest
from attrs.exceptions import FrozenInstanceError
from hypothesis import given
from hypothesis import strategies as st

from converge.core.topic import Topic

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
topics = st.builds(
    Topic,
    st.text(min_size=1, max_size=20),
    st.dictionaries(st.text(), plain, max_size=3),
    st.text(min_size=1, max_size=5),
)


def test_attributes_and_version_have_defaults() -> None:
    topic = Topic("market")
    assert (topic.namespace, dict(topic.attributes), topic.version) == ("market", {}, "1.0")


def test_equality_and_hash_ignore_the_order_of_attributes() -> None:
    one, other = Topic("a", {"x": 1, "y": {"p": 1, "q": 2}}), Topic("a", {"y": {"q": 2, "p": 1}, "x": 1})
    assert one == other
    assert hash(one) == hash(other)
    assert str(one) == str(other)


@pytest.mark.parametrize(
    "pair", list(itertools.combinations([1, True, 1.0, "1", b"1", [1], None, "None", {"1": 1}], 2))
)
def test_values_of_different_type_make_different_topics(pair: tuple[Any, Any]) -> None:
    one, other = (Topic("a", {"k": value}) for value in pair)
    assert one != other
    assert str(one) != str(other)
    assert not one.matches(other)


def test_a_topic_differs_from_other_things() -> None:
    assert Topic("a") != "a@1.0"
    assert Topic("a") != Topic("a", version="2.0")
    assert Topic("a") != Topic("b")


def test_attributes_are_a_private_copy_and_read_only() -> None:
    given_attributes: dict[str, Any] = {"list": [1, {"x": 2}], "dict": {"y": 3}}
    topic = Topic("a", given_attributes)
    before = (hash(topic), str(topic))
    given_attributes["list"].append(9)
    given_attributes["dict"]["y"] = 9
    attributes: Any = topic.attributes
    with pytest.raises(TypeError):
        attributes["new"] = 1
    with pytest.raises(TypeError):
        attributes["dict"]["y"] = 1
    with pytest.raises(TypeError):
        attributes["list"][1]["x"] = 1
    assert attributes["list"][0] == 1
    assert (hash(topic), str(topic)) == before


def test_a_topic_is_immutable() -> None:
    topic = Topic("a")
    with pytest.raises(FrozenInstanceError):
        topic.namespace = "b"  # type: ignore[misc]  # what is tested


@pytest.mark.parametrize(
    "bad", [{"k": {1, 2}}, {"k": object()}, {1: 2}, {"k": 2**64}, {"k": "\ud800"}, [("k", 1)], "k", None]
)
def test_attributes_that_are_not_plain_data_are_a_type_error(bad: Any) -> None:
    with pytest.raises(TypeError):
        Topic("a", bad)


def test_a_cycle_in_the_attributes_is_a_type_error() -> None:
    loop: dict[str, Any] = {}
    loop["loop"] = [loop]
    with pytest.raises(TypeError, match="nested deeper"):
        Topic("a", loop)


@pytest.mark.parametrize(
    ("namespace", "version"), [("", "1"), ("a", ""), ("a" * 1025, "1"), ("é" * 513, "1"), ("\ud800", "1")]
)
def test_names_that_are_empty_or_too_long_are_a_value_error(namespace: str, version: str) -> None:
    with pytest.raises(ValueError):
        Topic(namespace, {}, version)


def test_names_that_are_no_str_are_a_type_error() -> None:
    with pytest.raises(TypeError, match="namespace"):
        Topic(7)  # type: ignore[arg-type]  # what is tested
    with pytest.raises(TypeError, match="version"):
        Topic("a", version=1.0)  # type: ignore[arg-type]  # what is tested


def test_too_many_attributes_are_refused() -> None:
    Topic("a", {str(number): None for number in range(10_000)})
    with pytest.raises(ValueError, match="10001 elements"):
        Topic("a", {str(number): None for number in range(10_001)})


def test_matches_wants_namespace_version_and_a_subset_of_the_attributes() -> None:
    wanted = Topic("jobs", {"lang": "en"})
    assert wanted.matches(wanted)
    assert wanted.matches(Topic("jobs", {"lang": "en", "size": 3}))
    assert Topic("jobs").matches(wanted)
    assert not wanted.matches(Topic("jobs"))
    assert not wanted.matches(Topic("jobs", {"lang": "de", "size": 3}))
    assert not wanted.matches(Topic("other", {"lang": "en"}))
    assert not wanted.matches(Topic("jobs", {"lang": "en"}, "2.0"))
    assert not Topic("jobs", {"n": 1}).matches(Topic("jobs", {"n": True, "m": 0}))
    assert Topic("jobs", {"n": {"a": 1, "b": 2}}).matches(Topic("jobs", {"n": {"b": 2, "a": 1}, "m": 0}))


def test_evolve_changes_a_copy() -> None:
    topic = Topic("a", {"nested": {"x": [1]}})
    assert topic.evolve(version="2") == Topic("a", {"nested": {"x": [1]}}, "2")
    assert topic.evolve(attributes={**topic.attributes, "y": 2}) == Topic("a", {"nested": {"x": [1]}, "y": 2})
    assert topic == Topic("a", {"nested": {"x": [1]}})


def test_str_is_readable_and_stable() -> None:
    assert str(Topic("market")) == "market@1.0"
    assert str(Topic("market", {"b": 1, "a": "x"}, "2")) == 'market@2{"a":"x","b":1}'
    assert str(Topic("a@2", version="1")) == '"a@2"@1'
    assert str(Topic("a\n")) == '"a\\n"@1.0'


def test_repr_shows_how_to_make_it() -> None:
    topic = Topic("a", {"k": [1, {"x": b"y"}]}, "2")
    assert eval(repr(topic)) == topic


@given(topics, topics)
def test_only_equal_topics_have_equal_text(one: Topic, other: Topic) -> None:
    assert (str(one) == str(other)) == (one == other)


@given(topics)
def test_a_topic_survives_json_pickle_and_copies(topic: Topic) -> None:
    assert Topic.from_dict(json.loads(json.dumps(topic.to_dict(), allow_nan=False, sort_keys=True))) == topic
    assert pickle.loads(pickle.dumps(topic)) == topic
    assert copy.deepcopy(topic) == topic


def test_attributes_that_look_like_a_tag_come_back_as_they_were() -> None:
    for attributes in [
        {"$bytes": "eA=="},
        {"$dict": {"$bytes": "x"}},
        {"$float": "nan"},
        {"$x": 1},
        {"k": {"$bytes": ""}},
    ]:
        topic = Topic("a", attributes)  # type: ignore[arg-type]  # dicts are invariant
        assert Topic.from_dict(json.loads(json.dumps(topic.to_dict()))) == topic
    assert Topic.from_dict({"namespace": "a", "attributes": {"k": {"$bytes": "eA=="}}}) == Topic("a", {"k": b"x"})


def test_non_finite_attributes_come_back() -> None:
    back = Topic.from_dict(Topic("a", {"up": math.inf, "none": math.nan}).to_dict())
    assert back.attributes["up"] == math.inf
    assert math.isnan(back.attributes["none"])  # type: ignore[arg-type]  # plain data


def test_from_dict_fills_in_what_has_a_default() -> None:
    assert Topic.from_dict({"namespace": "a"}) == Topic("a")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({}, "no namespace"),
        ({"namespace": "a", "extra": 1}, "unknown key 'extra'"),
        ({"namespace": 1}, "must be a str"),
        ({"namespace": "a", "version": None}, "must be a str"),
        ({"namespace": "a", "attributes": [1]}, "must be a dict"),
        ({"namespace": "a", "attributes": {"k": b"x"}}, "bytes is not JSON"),
        ({"namespace": "a", "attributes": {"k": {1: 2}}}, "a key is int"),
        ({"namespace": "a", "attributes": {"k": {"$bytes": "?"}}}, "not base64"),
        ({"namespace": "a", "attributes": {"k": {"$bytes": 7}}}, "is not a tag"),
        ({"namespace": "a", "attributes": {"k": {"$float": "3ff0000000000000"}}}, "is finite"),
        ({"namespace": "a", "attributes": {"k": {"$float": "zz"}}}, "hex of 8 bytes"),
        ({"namespace": "a", "attributes": {"k": {"$other": 1}}}, "is not a tag"),
        ("a", "read from a dict"),
        (None, "read from a dict"),
    ],
)
def test_from_dict_refuses_everything_else_with_a_value_error(data: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Topic.from_dict(data)


def test_from_dict_refuses_endless_nesting() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ValueError, match="nested deeper"):
        Topic.from_dict({"namespace": "a", "attributes": {"k": deep}})
