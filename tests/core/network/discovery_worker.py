"""A process whose agent is discoverable while it lives: prints its id when it is, and runs until it is killed."""

from __future__ import annotations

import asyncio
import sys

from converge.core.agent import Agent
from converge.core.identity import Identity
from converge.core.topic import Topic
from converge.extensions.storage.sqlite import SQLiteStore
from converge.network.discovery import DiscoveryService
from converge.network.transport.local import LocalTransport
from converge.runtime.loop import AgentRuntime


async def run(path: str, ttl_sec: float) -> None:
    with SQLiteStore(path) as store:
        agent = Agent(Identity.generate())
        agent.topics.append(Topic("news"))
        discovery = DiscoveryService(store, require_signed=True, lease_ttl_sec=ttl_sec)
        async with AgentRuntime(agent, LocalTransport(agent.id), discovery_service=discovery):
            sys.stdout.write(f"{agent.id}\n")
            sys.stdout.flush()
            await asyncio.Event().wait()


asyncio.run(run(sys.argv[1], float(sys.argv[2])))
