"""An agent's view of the others: send, broadcast, discover."""

from __future__ import annotations

from typing import TYPE_CHECKING

from converge.network.discovery import AgentDescriptor, DiscoveryQuery, DiscoveryService

if TYPE_CHECKING:
    from converge.core.agent import Agent
    from converge.core.message import Message
    from converge.network.transport.base import Transport

__all__ = ["AgentNetwork", "build_descriptor"]


def build_descriptor(agent: Agent) -> AgentDescriptor:
    """What `agent` tells about itself: id, topics, capabilities and public key."""
    return AgentDescriptor(agent.id, agent.topics, list(agent.capabilities), agent.identity.public_key)


class AgentNetwork:
    """Sends for the agents that are registered with it, and finds others.

    Without a `discovery` service it keeps one of its own, which knows the agents registered here.
    """

    def __init__(self, transport: Transport, discovery: DiscoveryService | None = None) -> None:
        self.transport = transport
        self.discovery = DiscoveryService() if discovery is None else discovery
        self._agents: dict[str, Agent] = {}

    def register_agent(self, agent: Agent, descriptor: AgentDescriptor | None = None) -> None:
        """Sign for `agent` from now on, and make it discoverable, by what it tells of itself unless one is given."""
        self.discovery.register(build_descriptor(agent) if descriptor is None else descriptor)
        self._agents[agent.id] = agent

    def unregister_agent(self, agent_id: str) -> None:
        """Undo `register_agent`; an unknown id is no error."""
        self._agents.pop(agent_id, None)
        self.discovery.unregister(agent_id)

    async def send(self, message: Message) -> None:
        """Send `message`, signed if its sender is registered here. Errors as `Transport.send`."""
        agent = self._agents.get(message.sender)
        if agent is not None and not message.is_signed:
            message = agent.sign_message(message)
        await self.transport.send(message)

    async def broadcast(self, message: Message) -> None:
        """Send `message` to everybody, whatever its recipient and topics were."""
        if message.recipient is not None or message.topics:
            message = message.evolve(recipient=None, topics=(), signature=b"")
        await self.send(message)

    def discover(self, query: DiscoveryQuery) -> list[AgentDescriptor]:
        """The agents that fit `query`, in every process that shares the discovery service's store."""
        return self.discovery.query(query, refresh_from_store=True)
