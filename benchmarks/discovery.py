"""What a query for agents costs among 100,000, against plain dicts and sets that hold the same.

Run: `python benchmarks/discovery.py [--agents N] [--rounds N]`. Both sides build their query, ask, and give a list of
1,000 descriptors; one right after the other in every round, and the figures are medians over the rounds. The plain
side keeps topic -> ids and capability -> ids, intersects and looks up; it neither sorts, nor expires, nor matches
attributes. Exit code 1 when a bar is missed.

- a query by topic and capability, by topic with an attribute, and by capability alone, 1,000 found in each;
- the same after every change: an agent registers anew between two queries;
- a change (register under a new capability, without a store) among 100,000 against among 1,000;
- signed descriptors: how many a service takes in from a store, and renews, in a second (no bar: a figure).
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections import defaultdict
from typing import TYPE_CHECKING

from figures import Figure, compare_numbered, header, report, summary

from converge.core.identity import Identity
from converge.core.topic import Topic
from converge.extensions.storage.memory import MemoryStore
from converge.network.discovery import AgentDescriptor, DiscoveryQuery, DiscoveryService, SignedDescriptor

if TYPE_CHECKING:
    from collections.abc import Callable

FOUND = 1_000
SIGNED = 1_000


class PlainIndex:
    """What somebody would write in ten lines."""

    def __init__(self) -> None:
        self.agents: dict[str, AgentDescriptor] = {}
        self.by_topic: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.by_capability: dict[str, set[str]] = defaultdict(set)

    def add(self, descriptor: AgentDescriptor) -> None:
        self.agents[descriptor.id] = descriptor
        for topic in descriptor.topics:
            self.by_topic[topic.namespace, topic.version].add(descriptor.id)
        for capability in descriptor.capabilities:
            self.by_capability[capability.name].add(descriptor.id)

    def query(self, topic: tuple[str, str] | None, capabilities: list[str]) -> list[AgentDescriptor]:
        sets = [self.by_capability[name] for name in capabilities]
        if topic is not None:
            sets.append(self.by_topic[topic])
        return [self.agents[agent_id] for agent_id in set.intersection(*sorted(sets, key=len))]


def descriptor(number: int, agents: int) -> AgentDescriptor:
    """Of which `FOUND` have the rare topic and the rare capability, and all the common ones."""
    every = agents // FOUND
    topics = [Topic("common"), Topic("rare" if number % every == 0 else f"topic {number % 97}", {"lang": "en"})]
    capabilities = ["common", "rare" if number % every == 0 else f"capability {number % 89}"]
    return AgentDescriptor(hashlib.sha256(str(number).encode()).hexdigest(), topics, capabilities)


def filled(agents: int) -> tuple[DiscoveryService, PlainIndex]:
    service, plain = DiscoveryService(), PlainIndex()
    for number in range(agents):
        one = descriptor(number, agents)
        service.register(one)
        plain.add(one)
    return service, plain


def queries(agents: int, rounds: int) -> list[Figure]:
    service, plain = filled(agents)
    rare, lang, english = Topic("rare"), Topic("rare", {"lang": "en"}), ("rare", "1.0")
    cases: list[tuple[str, Callable[[], DiscoveryQuery], tuple[str, str] | None, list[str]]] = [
        ("topic and capability", lambda: DiscoveryQuery([rare], ["common"]), english, ["common"]),
        ("topic with an attribute and capability", lambda: DiscoveryQuery([lang], ["common"]), english, ["common"]),
        ("two capabilities", lambda: DiscoveryQuery(capabilities=["common", "rare"]), None, ["common", "rare"]),
        ("one capability", lambda: DiscoveryQuery(capabilities=["rare"]), None, ["rare"]),
    ]
    figures = []
    for name, query, topic, capabilities in cases:
        found = service.query(query())
        assert len(found) == FOUND
        assert {one.id for one in found} == {one.id for one in plain.query(topic, capabilities)}
        figures.append(
            compare_numbered(
                f"{name}, {FOUND:,} of {agents:,}", 2.0, rounds, 50,
                lambda _, query=query: service.query(query()),  # type: ignore[misc]  # a default binds the loop variable
                lambda _, topic=topic, names=capabilities: plain.query(topic, names),  # type: ignore[misc]  # as above
                at_most=True,
            )
        )  # fmt: skip
    changing = descriptor(agents // 2, agents)

    def change(number: int) -> list[AgentDescriptor]:
        service.register(AgentDescriptor(changing.id, [*changing.topics, Topic(f"{number}")], changing.capabilities))
        return service.query(DiscoveryQuery([rare], ["common"]))

    def plain_change(number: int) -> list[AgentDescriptor]:
        plain.add(AgentDescriptor(changing.id, [*changing.topics, Topic(f"{number}")], changing.capabilities))
        return plain.query(english, ["common"])

    figures.append(
        compare_numbered("a change, then topic and capability", 2.0, rounds, 50, change, plain_change, at_most=True)
    )
    small, _ = filled(FOUND)
    figures.append(
        compare_numbered(
            f"a change among {agents:,} / among {FOUND:,}", 2.0, rounds, 200,
            lambda number: service.register(AgentDescriptor(f"new {number % 50}", capabilities=[f"{number}"])),
            lambda number: small.register(AgentDescriptor(f"new {number % 50}", capabilities=[f"{number}"])),
            at_most=True,
        )
    )  # fmt: skip
    return figures


def signed() -> None:
    store = MemoryStore()
    owner = DiscoveryService(store, require_signed=True)
    ids = []
    for number in range(SIGNED):
        identity = Identity.generate()
        one = descriptor(number, 100_000)
        told = AgentDescriptor(identity.fingerprint, one.topics, one.capabilities, identity.public_key)
        owner.register(SignedDescriptor.sign(told, identity))
        ids.append(identity.fingerprint)
    begin = time.perf_counter()
    assert len(DiscoveryService(store, require_signed=True).query(DiscoveryQuery(), refresh_from_store=True)) == SIGNED
    taken_in = time.perf_counter() - begin
    begin = time.perf_counter()
    assert owner.renew_many(ids) == []
    renewed = time.perf_counter() - begin
    print(f"signed: {SIGNED / taken_in:,.0f} taken in a second, {SIGNED / renewed:,.0f} renewed a second, one core")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--agents", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    figures = queries(arguments.agents, arguments.rounds)
    print(header("µs"))
    report(figures)
    signed()
    return summary("discovery", figures)


if __name__ == "__main__":
    sys.exit(main())
