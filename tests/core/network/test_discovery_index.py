"""The index against going through all of it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converge.core.plain import Plain
from converge.core.topic import Topic
from converge.network.discovery import AgentDescriptor, DiscoveryQuery
from converge.network.discovery_index import TermIndex, terms_of, ways

VALUES: list[Plain] = [0, False, 0.0, "0", None, b"0", [0], {"a": 0, "b": 1}, {"b": 1, "a": 0}, math.nan, -0.0]
topics = st.builds(
    Topic,
    st.sampled_from(["news", "sport"]),
    st.dictionaries(st.sampled_from(["lang", "size"]), st.sampled_from(VALUES), max_size=2),
    st.sampled_from(["1.0", "2"]),
)
names = st.sampled_from(["read", "write", "news", "1.0"])
descriptors = st.builds(
    AgentDescriptor,
    st.sampled_from([f"agent {number}" for number in range(8)]),
    st.lists(topics, max_size=3),
    st.lists(names, max_size=3, unique=True),
)
queries = st.builds(DiscoveryQuery, st.lists(topics, max_size=3), st.lists(names, max_size=3))


def put(index: TermIndex[AgentDescriptor], descriptor: AgentDescriptor) -> None:
    terms = terms_of(descriptor.topics, [capability.name for capability in descriptor.capabilities])
    index.put(descriptor.id, descriptor, terms)


def found(index: TermIndex[AgentDescriptor], query: DiscoveryQuery) -> list[AgentDescriptor]:
    return index.find_any(ways(query.topics, query.capabilities), lambda descriptor: descriptor.id)


@settings(max_examples=300)
@given(st.lists(st.one_of(descriptors, st.integers(0, 7)), max_size=20), st.lists(queries, min_size=1, max_size=4))
def test_the_index_finds_what_going_through_all_of_it_finds(
    changes: list[AgentDescriptor | int], asked: list[DiscoveryQuery]
) -> None:
    index: TermIndex[AgentDescriptor] = TermIndex()
    there: dict[str, AgentDescriptor] = {}
    for change in changes:
        if isinstance(change, int):
            index.remove(f"agent {change}")
            there.pop(f"agent {change}", None)
        else:
            put(index, change)
            there[change.id] = change
        for query in asked:
            expected = [there[agent_id] for agent_id in sorted(there) if query.matches(there[agent_id])]
            assert found(index, query) == expected
    assert len(index) == len(there)


def test_two_attributes_have_to_be_of_one_topic() -> None:
    index: TermIndex[AgentDescriptor] = TermIndex()
    apart = AgentDescriptor("apart", [Topic("news", {"lang": "en"}), Topic("news", {"size": 1})])
    together = AgentDescriptor("together", [Topic("news", {"lang": "en", "size": 1, "more": True})])
    put(index, apart)
    put(index, together)
    assert found(index, DiscoveryQuery([Topic("news", {"lang": "en", "size": 1})])) == [together]
    assert found(index, DiscoveryQuery([Topic("news", {"lang": "en"})])) == [apart, together]


def test_the_order_is_that_of_the_ids_however_often_and_in_whatever_order_they_came() -> None:
    index: TermIndex[AgentDescriptor] = TermIndex()
    numbers = [7, 3, 9, 1, 5, 8, 2, 6, 4, 0]
    for number in numbers:
        put(index, AgentDescriptor(f"a{number}", capabilities=["x", "even" if number % 2 == 0 else "odd"]))
    for _ in range(4):  # later ones are answered from what the first ones have sorted
        for wanted in (["x"], ["even", "x"], []):
            answer = [descriptor.id for descriptor in found(index, DiscoveryQuery(capabilities=wanted))]
            assert answer == [f"a{number}" for number in range(0, 10, 2 if "even" in wanted else 1)]


def test_nothing_is_left_of_what_was_removed() -> None:
    index: TermIndex[AgentDescriptor] = TermIndex()
    put(index, AgentDescriptor("a", [Topic("news", {"lang": "en"})], ["x"]))
    put(index, AgentDescriptor("a", [Topic("sport")], ["y"]))
    assert found(index, DiscoveryQuery([Topic("news")])) == []
    index.remove("a")
    index.remove("a")
    assert len(index) == 0
    assert vars(index)["_postings"] == {}


def looked_at(size: int) -> int:
    """How many ids a query compares when one in `size` fits both terms."""
    compared = 0

    class Counted(str):
        __slots__ = ()

        def __hash__(self) -> int:
            nonlocal compared
            compared += 1
            return super().__hash__()

    index: TermIndex[AgentDescriptor] = TermIndex()
    for number in range(size):
        descriptor = AgentDescriptor(Counted(f"{number:06}"), [Topic("all")], ["rare"] if number % 100 == 0 else [])
        put(index, descriptor)
    compared = 0
    assert len(found(index, DiscoveryQuery([Topic("all")], ["rare"]))) == size // 100
    return compared


@pytest.mark.parametrize("size", [1_000, 10_000])
def test_a_query_looks_at_its_smallest_term_only(size: int) -> None:
    assert looked_at(size) <= 2 * (size // 100)
