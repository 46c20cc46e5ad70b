"""What an agent can reach while it runs, beside the managers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from converge.core.identity import Identity
from converge.extensions.storage.memory import MemoryStore
from converge.network.discovery import AgentDescriptor, DiscoveryService
from tests.core.runtime.conftest import PATIENCE_SEC, Scripted

if TYPE_CHECKING:
    from tests.core.runtime.conftest import World


async def test_an_agent_that_asks_to_be_called_again_is_called_though_nothing_is_new(world: World) -> None:
    def ask(*_: object) -> list[object]:
        agent.context.call_again(60)
        agent.context.call_again(0.01)
        return []

    agent = Scripted(ask, ask)
    async with world.runtime(agent, receive_timeout_sec=PATIENCE_SEC * 10):
        await agent.called(3)
    assert [(messages, tasks) for messages, tasks, _ in agent.shown] == [([], [])] * 3


async def test_an_agent_that_does_not_ask_is_not_called_again(world: World) -> None:
    agent = Scripted()
    async with world.runtime(agent, receive_timeout_sec=0.01):
        await agent.called(1)
        await asyncio.sleep(0.1)
    assert agent.calls == 1


@pytest.mark.parametrize("given", ["store", "checkpoint_store"])
async def test_its_store_is_the_runtimes(world: World, given: str) -> None:
    agent, store = Scripted(), MemoryStore()
    options: dict[str, Any] = {given: store}
    async with world.runtime(agent, **options):
        assert agent.context.store is store
        assert agent.context.metrics is world.metrics


async def test_its_peers_are_those_that_discovery_knows_without_itself(world: World) -> None:
    agent, discovery, peer = Scripted(), DiscoveryService(), Identity.generate().fingerprint
    discovery.register(AgentDescriptor(peer))
    async with world.runtime(agent, discovery_service=discovery):
        assert [descriptor.id for descriptor in await agent.context.peers()] == [peer]
