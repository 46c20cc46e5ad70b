"""Who fits a query, found by term: pure data, no store and no clock.

A term is what can be hashed of what is asked for: the name of a capability, the namespace and version of a topic, and
each attribute of a topic with its value. A topic with at most one attribute is asked for by its terms alone; with more,
the terms find the candidates, because an agent may have one attribute in one topic and the other in another.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Generic, Protocol, TypeAlias, TypeVar

from converge.core.limits import pack_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from converge.core.topic import Topic

__all__ = ["HasTopics", "Term", "TermIndex", "Way", "capability_term", "terms_of", "topic_terms", "ways"]


class HasTopics(Protocol):
    """What is indexed."""

    @property
    def topics(self) -> tuple[Topic, ...]:
        """What it is about."""


_T = TypeVar("_T", bound=HasTopics)

Term: TypeAlias = "tuple[str, ...] | tuple[str, str, str, bytes]"
"""What items are indexed by."""

Way: TypeAlias = "tuple[Sequence[Term], Callable[[HasTopics], bool] | None]"
"""Terms that all have to be there, and what has to be asked of those that have them."""


def capability_term(name: str) -> Term:
    """The term of everybody who has a capability of this name."""
    return (name,)


def topic_terms(topic: Topic) -> list[Term]:
    """The terms of everybody who has a topic that `topic` matches, and perhaps of others when it has two attributes."""
    namespace, attributes, version = topic.wire_fields
    if not attributes:
        return [(namespace, version)]
    return [(namespace, version, name, pack_value(value, name)) for name, value in attributes.items()]


def terms_of(topics: Iterable[Topic], capabilities: Iterable[str]) -> frozenset[Term]:
    """Every term by which an agent with these topics and capabilities is found."""
    terms = {capability_term(name) for name in capabilities}
    for topic in topics:
        terms.update(topic_terms(topic))
        terms.add((topic.namespace, topic.version))
    return frozenset(terms)  # which for nothing is always the same one: most agents of many have neither


def ways(topics: Iterable[Topic], capabilities: Iterable[str]) -> list[Way]:
    """What to look for to find all who have any of the topics and all of the capabilities: one way for each topic."""
    required = [capability_term(name) for name in capabilities]
    found: list[Way] = [
        ([*required, *topic_terms(topic)], _has(topic) if len(topic.attributes) > 1 else None) for topic in topics
    ]
    return found or [(required, None)]


def _has(topic: Topic) -> Callable[[HasTopics], bool]:
    return lambda item: any(topic.matches(theirs) for theirs in item.topics)


class _Posting(Generic[_T]):
    """The items of one term by id. They are put in order when somebody has paid for it, not at each change."""

    __slots__ = ("entries", "last", "ordered", "served")

    def __init__(self) -> None:
        self.entries: dict[str, _T] = {}
        self.ordered, self.last, self.served = True, "", 0

    def put(self, item_id: str, item: _T) -> None:
        if item_id not in self.entries:
            self.ordered = self.ordered and item_id > self.last
            self.last = max(self.last, item_id)
        self.entries[item_id] = item

    def sort(self) -> None:
        if not self.ordered:
            self.entries = dict(sorted(self.entries.items(), key=itemgetter(0)))
            self.ordered, self.served = True, 0

    def serve(self, found: int) -> None:
        """Note that this many were found here and had to be sorted; sort once and for all when that was as many."""
        self.served += found
        if self.served >= len(self.entries):
            self.sort()


class TermIndex(Generic[_T]):
    """Items by id and by their terms. A change costs the terms that change, a query its smallest term.

    Not thread-safe; its owner holds a lock.
    """

    def __init__(self) -> None:
        self._all: _Posting[_T] = _Posting()
        self._postings: dict[Term, _Posting[_T]] = {}
        self._terms: dict[str, frozenset[Term]] = {}

    def __len__(self) -> int:
        return len(self._terms)

    def put(self, item_id: str, item: _T, terms: frozenset[Term]) -> None:
        """Add an item, or replace the one of this id."""
        for term in self._terms.get(item_id, frozenset()) - terms:
            self._drop(term, item_id)
        for term in terms:
            posting = self._postings.get(term)
            if posting is None:
                posting = self._postings[term] = _Posting()
            posting.put(item_id, item)
        self._all.put(item_id, item)
        self._terms[item_id] = terms

    def remove(self, item_id: str) -> None:
        """Drop the item; an unknown id is no error."""
        if item_id in self._terms:
            del self._all.entries[item_id]
            for term in self._terms.pop(item_id):
                self._drop(term, item_id)

    def _drop(self, term: Term, item_id: str) -> None:
        entries = self._postings[term].entries
        del entries[item_id]
        if not entries:
            del self._postings[term]

    def find(self, terms: Iterable[Term], accepts: Callable[[_T], bool] | None = None) -> list[_T]:
        """The items that have all of `terms` and that `accepts` takes, in the order of their ids."""
        postings = [self._all]
        for term in terms:
            posting = self._postings.get(term)
            if posting is None:
                return []
            postings.append(posting)
        if len(postings) > 1:
            postings = sorted(postings[1:], key=_size)
        found = _common(postings)
        return found if accepts is None else [item for item in found if accepts(item)]

    def find_any(self, ways: Iterable[Way], id_of: Callable[[_T], str]) -> list[_T]:
        """What is found by any of several `find`s, each once, in the order of their ids."""
        found = [self.find(*way) for way in ways]
        if len(found) == 1:
            return found[0]
        merged = {id_of(item): item for items in found for item in items}
        return [merged[item_id] for item_id in sorted(merged)]


def _size(posting: _Posting[_T]) -> int:
    return len(posting.entries)


def _common(postings: list[_Posting[_T]]) -> list[_T]:
    """What is in all of the postings, the smallest of which is the first."""
    first, *others = postings
    if not others:
        first.sort()
        return list(first.entries.values())
    narrowest = others[0].entries
    pairs = [pair for pair in first.entries.items() if pair[0] in narrowest]
    for other in others[1:]:
        pairs = [pair for pair in pairs if pair[0] in other.entries]
    if not first.ordered:
        pairs.sort(key=itemgetter(0))
        first.serve(len(pairs))
    return [item for _, item in pairs]
