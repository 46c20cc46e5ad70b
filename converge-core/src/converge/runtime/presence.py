"""Keeping an agent discoverable while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from converge.network.network import build_descriptor
from converge.runtime.shared.leases import LeaseRenewer
from converge.runtime.shared.registering import Desk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from converge.core.agent import Agent
    from converge.network.discovery import AgentDescriptor
    from converge.network.network import AgentNetwork

__all__ = ["Presence"]


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
        self._renewer: LeaseRenewer | None = None

    async def announce(self) -> None:
        """Register the agent, and subscribe it to its topics; again when what it tells of itself has changed."""
        shared = self._network.shared_discovery
        for topic in self._agent.topics:
            await self._network.transport.subscribe(topic)
        descriptor = build_descriptor(self._agent) if self._descriptor is None else self._descriptor
        if descriptor != self._registered:
            if shared is not None and shared.blocking:
                await Desk.of(shared).register(self._network, self._agent, descriptor)
            else:
                await self._on_store(self._network.register_agent, self._agent, descriptor)
            self._registered = descriptor
        if self._renewer is None and shared is not None and shared.leased:
            self._renewer = LeaseRenewer.of(shared)
            self._renewer.open(descriptor.id, (self._agent.id, self._network))

    async def withdraw(self) -> None:
        """End the renewing, and unregister the agent."""
        shared, renewer, registered = self._network.shared_discovery, self._renewer, self._registered
        self._renewer = self._registered = None
        if renewer is not None and registered is not None:
            await renewer.close(registered.id)
        if shared is not None and shared.blocking:
            await Desk.of(shared).unregister(self._network, self._agent)
        else:
            await self._on_store(self._network.unregister_agent, self._agent.id)
