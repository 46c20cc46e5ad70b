"""Agents that run: found while they live, whatever becomes of their processes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from converge.core.agent import Agent
from converge.core.errors import StoreError
from converge.core.identity import Identity
from converge.core.plain import Plain
from converge.extensions.storage.memory import MemoryStore
from converge.extensions.storage.sqlite import SQLiteStore
from converge.network.discovery import AgentDescriptor, DiscoveryQuery, DiscoveryService
from converge.network.transport.local import LocalTransport, LocalTransportRegistry
from converge.runtime.loop import AgentRuntime
from converge.runtime.shared.base import Shared
from converge.runtime.shared.leases import LeaseRenewer
from tests.core.network.discovery_clock import EVERYBODY, listed

WORKER = Path(__file__).with_name("discovery_worker.py")
PATIENCE_SEC = 30.0
TTL_SEC = 2.0


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SEC
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SEC):
        while not condition():  # noqa: ASYNC110  # there is no event
            await asyncio.sleep(0.005)


def test_the_agent_of_a_killed_process_is_gone_when_its_lease_is_over(tmp_path: Path) -> None:
    path = str(tmp_path / "c.db")
    with SQLiteStore(path) as store:
        command = [sys.executable, str(WORKER), path, str(TTL_SEC)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            agent_id = process.stdout.readline().strip()
            mine = DiscoveryService(store, require_signed=True)
            until(lambda: listed(mine) == [agent_id])
            records = {str(store.get(f"agent:{agent_id}"))}

            def renewed_often() -> bool:
                records.add(str(store.get(f"agent:{agent_id}")))
                return len(records) > 3

            until(renewed_often)
        finally:
            process.kill()
            process.communicate()
        killed = time.time()
        time.sleep(max(0.0, killed + TTL_SEC - time.time()))
        assert listed(mine) == []
        assert listed(DiscoveryService(store)) == []
        assert store.list("agent:") == []
        assert mine.counters == {}


def runtime(discovery: DiscoveryService, *, capability: str = "x") -> AgentRuntime:
    agent = Agent(Identity.generate())
    agent.capabilities.add(capability)
    return AgentRuntime(agent, LocalTransport(agent.id, LocalTransportRegistry()), discovery_service=discovery)


async def test_agents_that_share_a_service_are_renewed_together_and_unregistered_when_they_stop() -> None:
    class Counted(MemoryStore):
        commits = 0

        def compare_and_set_many(self, writes: object) -> list[int | None]:
            self.commits += 1
            return super().compare_and_set_many(writes)  # type: ignore[arg-type]  # passes through

    store = Counted()
    discovery = DiscoveryService(store, require_signed=True, lease_ttl_sec=0.6)
    runtimes = [runtime(discovery) for _ in range(5)]
    for started in runtimes:
        await started.start()
    ids = sorted(started.agent.id for started in runtimes)
    first = {agent_id: store.get(f"agent:{agent_id}") for agent_id in ids}
    await eventually(lambda: all(store.get(f"agent:{agent_id}") != record for agent_id, record in first.items()))
    assert store.commits >= 1
    assert sorted(listed(discovery)) == ids
    for started in runtimes:
        await started.stop()
    assert store.list() == []
    assert [key for key in Shared._living if key[1] is discovery] == []
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "converge-presence"] == []


async def test_a_running_agent_comes_back_when_its_record_was_lost() -> None:
    store = MemoryStore()
    discovery = DiscoveryService(store, require_signed=True, lease_ttl_sec=0.3)
    async with runtime(discovery) as started:
        store.delete(f"agent:{started.agent.id}")
        assert listed(discovery) == []
        await eventually(lambda: listed(discovery) == [started.agent.id])


async def test_renewing_goes_on_when_the_store_was_away(caplog: pytest.LogCaptureFixture) -> None:
    class Flaky(MemoryStore):
        failures = 0

        def compare_and_set_many(self, writes: object) -> list[int | None]:
            return super().compare_and_set_many(writes)  # type: ignore[arg-type]  # passes through

        def compare_and_set(self, key: str, value: Plain, expected: int) -> int:
            if self.failures:
                self.failures -= 1
                raise StoreError("away")
            return super().compare_and_set(key, value, expected)

    store = Flaky()
    discovery = DiscoveryService(store, lease_ttl_sec=60.0)
    async with runtime(discovery) as started:
        renewer = LeaseRenewer.of(discovery)
        store.failures, discovery.lease_ttl_sec = 2, 0.3
        await renewer.close(started.agent.id)
        renewer = LeaseRenewer.of(discovery)  # now at the shorter interval
        renewer.open(started.agent.id, (started.agent.id, started._network))
        before = store.get(f"agent:{started.agent.id}")
        await eventually(lambda: store.get(f"agent:{started.agent.id}") != before)
        assert store.failures == 0
        assert caplog.text.count("renewing 1 descriptors failed") == 2
        await renewer.close(started.agent.id)


async def test_a_runtime_without_a_store_has_no_renewer() -> None:
    discovery = DiscoveryService()
    async with runtime(discovery):
        assert [key for key in Shared._living if key[1] is discovery] == []


async def test_a_given_descriptor_is_signed_and_renewed_too() -> None:
    agent = Agent(Identity.generate())
    told = AgentDescriptor(agent.id, capabilities=["told"])
    discovery = DiscoveryService(MemoryStore(), require_signed=True)
    transport = LocalTransport(agent.id, LocalTransportRegistry())
    async with AgentRuntime(agent, transport, discovery_service=discovery, agent_descriptor=told):
        assert discovery.query(DiscoveryQuery(capabilities=["told"])) == [told]
    assert discovery.query(EVERYBODY) == []
