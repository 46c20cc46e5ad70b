"""The contract of transports, over a hub."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial

import pytest

from converge.core.identity import Identity
from converge.core.message import Message
from converge.network.transport.base import Transport
from converge.network.transport.websocket import HubLimits, WebSocketHub, WebSocketTransport
from converge.testing.transport import Medium, TransportContract
from converge.testing.transport.fixtures import OpenMedium, Party


def connect(uri: str, identity: Identity) -> Transport:
    return WebSocketTransport(
        identity.fingerprint, uri, identity, connect_timeout_sec=2.0, max_waiting_messages=10, max_waiting_bytes=10**6
    )


class TestWebSocketTransport(TransportContract):
    crosses_processes = True
    waiting_messages = 30_000  # the buffers of the kernel hold some megabytes

    hub: WebSocketHub

    @pytest.fixture
    def medium(self) -> OpenMedium:
        @asynccontextmanager
        async def medium() -> AsyncIterator[Medium]:
            async with WebSocketHub(limits=HubLimits(max_waiting_messages=100)) as self.hub:
                yield Medium(partial(connect, self.hub.uri), self.misdeliver, self.inject)

        return medium

    async def misdeliver(self, agent_id: str, message: Message) -> None:
        await self.inject(agent_id, message.to_bytes())

    async def inject(self, agent_id: str, data: bytes) -> None:
        peer = self.hub._router.get(agent_id)
        assert peer is not None
        peer.outbox.offer(data)

    def lost(self, parties: Iterable[Party]) -> int:
        """Also what the hub counts: what was for all, and found an agent full."""
        return super().lost(parties) + sum(
            number
            for name, number in self.hub.counters.items()
            if name in ("dropped_outbox_messages", "dropped_outbox_bytes", "dropped_disconnected", "lost_unconfirmed")
        )
