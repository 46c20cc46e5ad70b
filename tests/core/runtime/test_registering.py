"""Agents that start and stop at the same time are registered and unregistered together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from converge.core.agent import Agent
from converge.core.identity import Identity
from converge.extensions.storage.sqlite import SQLiteStore
from converge.network.discovery import AgentDescriptor, DiscoveryService
from converge.network.errors import DescriptorRefused
from converge.network.network import AgentNetwork, build_descriptor
from converge.network.transport.local import LocalTransport, LocalTransportRegistry
from converge.runtime.shared import registering
from converge.runtime.shared.registering import Desk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IDENTITIES = [Identity.generate() for _ in range(20)]


class Counting(DiscoveryService):
    """Counts how often it is asked, and may be away."""

    batches = singles = 0
    away = False

    def register(self, descriptor: Any, *, ttl_sec: float | None = None) -> None:
        self.singles += 1
        super().register(descriptor, ttl_sec=ttl_sec)

    def register_many(self, descriptors: Any) -> Any:
        told = [*descriptors]
        self.batches += len(told) > 1
        if self.away:
            raise OSError("no store")
        return super().register_many(told)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    with SQLiteStore(tmp_path / "agents.db") as opened:
        yield opened


@pytest.fixture
def discovery(store: SQLiteStore) -> Counting:
    return Counting(store)


def member(discovery: DiscoveryService, identity: Identity) -> tuple[AgentNetwork, Agent]:
    return AgentNetwork(LocalTransport(identity.fingerprint, LocalTransportRegistry()), discovery), Agent(identity)


async def test_what_is_asked_for_at_the_same_time_is_one_commit(store: SQLiteStore, discovery: Counting) -> None:
    members = [member(discovery, identity) for identity in IDENTITIES]
    desk = Desk.of(discovery)
    assert Desk.of(discovery) is desk
    await asyncio.gather(*(desk.register(network, agent, build_descriptor(agent)) for network, agent in members))
    assert (discovery.batches, discovery.singles) == (1, 0)
    assert len(store.list("agent:")) == len(IDENTITIES)
    assert all(network.signs_for(agent.id) for network, agent in members)
    desk = Desk.of(discovery)
    await asyncio.gather(*(desk.unregister(network, agent) for network, agent in members))
    assert store.list("agent:") == []
    assert not any(network.signs_for(agent.id) for network, agent in members)
    assert registering._desks == {}


async def test_who_is_refused_is_told_so_and_the_others_are_registered(store: SQLiteStore, discovery: Counting) -> None:
    members = [member(discovery, identity) for identity in IDENTITIES[:3]]
    told = [build_descriptor(agent) for _, agent in members]
    told[1] = AgentDescriptor(told[1].id, capabilities=[f"c{number}" for number in range(300)])
    desk = Desk.of(discovery)
    results = await asyncio.gather(
        *(desk.register(network, agent, one) for (network, agent), one in zip(members, told, strict=True)),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None), DescriptorRefused, type(None)]
    assert store.list("agent:") == sorted(f"agent:{told[index].id}" for index in (0, 2))


async def test_when_the_store_is_away_everybody_is_told_and_nobody_is_registered(discovery: Counting) -> None:
    members = [member(discovery, identity) for identity in IDENTITIES[:3]]
    discovery.away = True
    desk = Desk.of(discovery)
    results = await asyncio.gather(
        *(desk.register(network, agent, build_descriptor(agent)) for network, agent in members), return_exceptions=True
    )
    assert [str(result) for result in results] == ["no store"] * 3
    assert not any(network.signs_for(agent.id) for network, agent in members)
    discovery.away = False
    await Desk.of(discovery).register(*members[0], build_descriptor(members[0][1]))
    assert discovery.get(members[0][1].id) is not None


async def test_what_is_asked_for_one_agent_is_done_in_its_order(store: SQLiteStore, discovery: Counting) -> None:
    (network, agent), (other, another) = (member(discovery, identity) for identity in IDENTITIES[:2])
    desk, told = Desk.of(discovery), build_descriptor(agent)
    await asyncio.gather(
        desk.register(network, agent, told),
        desk.register(other, another, build_descriptor(another)),
        desk.unregister(network, agent),
        desk.register(network, agent, told),
        desk.register(network, agent, AgentDescriptor(agent.id, capabilities=["new"], public_key=told.public_key)),
        desk.unregister(other, another),
    )
    assert store.list("agent:") == [f"agent:{agent.id}"]
    found = discovery.get(agent.id)
    assert found is not None
    assert [capability.name for capability in found.capabilities] == ["new"]


async def test_who_is_cancelled_before_it_has_begun_is_not_registered(store: SQLiteStore, discovery: Counting) -> None:
    members = [member(discovery, identity) for identity in IDENTITIES[:3]]
    desk = Desk.of(discovery)
    asked = [desk.register(network, agent, build_descriptor(agent)) for network, agent in members]
    jobs = [asyncio.create_task(one) for one in asked]
    await asyncio.sleep(0)  # all have asked, and the desk has not begun
    jobs[1].cancel()
    results = await asyncio.gather(*jobs, return_exceptions=True)
    assert isinstance(results[1], asyncio.CancelledError)
    assert store.list("agent:") == sorted(f"agent:{members[index][1].id}" for index in (0, 2))
