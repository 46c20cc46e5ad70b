"""Keeping agents discoverable while they run: one renewer for all the runtimes that share a discovery service."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from converge.network.network import build_descriptor
from converge.runtime.calls import backoff
from converge.runtime.registering import Desk
from converge.runtime.threads import StoreThread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from converge.core.agent import Agent
    from converge.network.discovery import AgentDescriptor, DiscoveryService
    from converge.network.network import AgentNetwork

__all__ = ["RENEWALS_PER_LEASE", "Presence", "Renewer"]

RENEWALS_PER_LEASE = 3
"""How often a lease is renewed in its time, so that it stands after a renewal or two that failed."""

_log = logging.getLogger(__name__)


class Presence:
    """One agent's entry in discovery, from the start of its runtime to the stop."""

    __slots__ = ("_agent", "_descriptor", "_network", "_on_store", "_registered", "_renewer")  # one an agent

    def __init__(
        self,
        agent: Agent,
        network: AgentNetwork,
        descriptor: AgentDescriptor | None,
        on_store: Callable[..., Awaitable[object]],
    ) -> None:
        self._agent, self._network, self._descriptor, self._on_store = agent, network, descriptor, on_store
        self._registered: AgentDescriptor | None = None
        self._renewer: Renewer | None = None

    async def announce(self) -> None:
        """Register the agent, and subscribe it to its topics; again when what it tells of itself has changed."""
        for topic in self._agent.topics:
            await self._network.transport.subscribe(topic)
        descriptor = build_descriptor(self._agent) if self._descriptor is None else self._descriptor
        if descriptor != self._registered:
            if self._network.discovery.blocking:
                await Desk.of(self._network.discovery).register(self._network, self._agent, descriptor)
            else:
                await self._on_store(self._network.register_agent, self._agent, descriptor)
            self._registered = descriptor
        if self._renewer is None and self._network.discovery.leased:
            self._renewer = Renewer.of(self._network.discovery)
            self._renewer.open(descriptor.id, self._agent.id, self._network)

    async def withdraw(self) -> None:
        """End the renewing, and unregister the agent."""
        renewer, registered = self._renewer, self._registered
        self._renewer = self._registered = None
        if renewer is not None and registered is not None:
            await renewer.close(registered.id)
        if self._network.discovery.blocking:
            await Desk.of(self._network.discovery).unregister(self._network, self._agent)
        else:
            await self._on_store(self._network.unregister_agent, self._agent.id)


class Renewer:
    """Renews the leases of all its agents a few times in their duration, in one commit. Use `of`."""

    def __init__(self, discovery: DiscoveryService) -> None:
        self._discovery = discovery
        self._kept: dict[str, tuple[str, AgentNetwork]] = {}
        self._thread = StoreThread()
        self._job: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, discovery: DiscoveryService) -> Renewer:
        """The renewer of `discovery` on the running event loop."""
        key = discovery, asyncio.get_running_loop()
        if (renewer := _renewers.get(key)) is None:
            renewer = _renewers[key] = cls(discovery)
        return renewer

    def open(self, descriptor_id: str, agent_id: str, network: AgentNetwork) -> None:
        """Renew the descriptor, which `network` registered for the agent, until `close`."""
        self._kept[descriptor_id] = agent_id, network
        if self._job is None:
            self._thread.open()
            self._job = asyncio.create_task(self._renew_all(), name="converge-presence")

    async def close(self, descriptor_id: str) -> None:
        """Undo one `open`; the last one ends the renewing."""
        self._kept.pop(descriptor_id, None)
        if not self._kept and self._job is not None:
            job, self._job = self._job, None
            _renewers.pop((self._discovery, asyncio.get_running_loop()), None)
            job.cancel()
            await asyncio.wait({job})
            self._thread.close()

    async def _renew_all(self) -> None:
        interval, failures = self._discovery.lease_ttl_sec / RENEWALS_PER_LEASE, 0
        while True:
            await asyncio.sleep(min(backoff(failures, interval), interval) if failures else interval)
            kept = dict(self._kept)
            try:
                await (self._thread.run(self._renew, kept) if self._discovery.blocking else self._now(kept))
                failures = 0
            except Exception:  # noqa: BLE001  # a store that is away; logged, and tried again before the leases are over
                failures += 1
                _log.exception("renewing %d descriptors failed (%d in a row)", len(kept), failures)

    def _renew(self, kept: dict[str, tuple[str, AgentNetwork]]) -> None:
        for descriptor_id in self._discovery.renew_many(kept):
            agent_id, network = kept[descriptor_id]
            if descriptor_id in self._kept:
                network.renew_agents([agent_id])

    async def _now(self, kept: dict[str, tuple[str, AgentNetwork]]) -> None:
        self._renew(kept)


_renewers: dict[tuple[DiscoveryService, asyncio.AbstractEventLoop], Renewer] = {}
