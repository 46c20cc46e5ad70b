"""An agent's view of the others: send, broadcast, discover."""

from __future__ import annotations

from typing import TYPE_CHECKING

from converge.core.errors import SigningError
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

    async def send(self, message: Message) -> Message:
        """Send `message`, signed if it is not yet and its sender is registered here; the message as it was sent.

        Without a sender it is the message of the agent whose transport this is. One that is signed goes as it is,
        whoever signed it; one of an unregistered sender goes unsigned. Errors as `Transport.send`, `SigningError` when
        the agent has no private key, and what `Message.sign` raises for a payload that cannot travel.
        """
        agent = self._agents.get(message.sender or self.transport.agent_id)
        if agent is not None and not message.is_signed:
            message = agent.sign_message(message)
        await self.transport.send(message)
        return message

    async def broadcast(self, message: Message) -> Message:
        """Send `message` to everybody, whatever its recipient and topics were; as `send`.

        Raises `SigningError` when it is signed as a direct or topic message of an agent that is not registered here and
        so cannot sign it anew.
        """
        if message.recipient is not None or message.topics:
            if message.is_signed and message.sender not in self._agents:
                raise SigningError(
                    f"the message was signed by {message.sender} as one that is not a broadcast, and {message.sender} "
                    "is not registered here to sign it again; let it broadcast the message itself"
                )
            message = message.evolve(recipient=None, topics=())
        return await self.send(message)

    def discover(self, query: DiscoveryQuery) -> list[AgentDescriptor]:
        """The agents that fit `query`, in every process that shares the discovery service's store."""
        return self.discovery.query(query, refresh_from_store=True)
