"""A connection to the hub as its event loop sees it: when it came, and when the message began that has not ended."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from websockets.asyncio.server import ServerConnection

from converge.network.transport.websocket.direct import Direct
from converge.network.transport.websocket.progress import MessageProgress

if TYPE_CHECKING:
    from collections import Counter

    from websockets.asyncio.server import Server
    from websockets.server import ServerProtocol

    from converge.network.transport.websocket.gate import Gate

__all__ = ["HubConnection"]


class HubConnection(Direct, ServerConnection):
    """A connection that the gate has let in, or has aborted. `opened_at` is a time of the event loop."""

    def __init__(
        self,
        gate: Gate[HubConnection],
        counters: Counter[str],
        protocol: ServerProtocol,
        server: Server,
        **settings: Any,
    ) -> None:
        super().__init__(protocol, server, **settings)
        self._gate, self._counters = gate, counters
        self._progress = MessageProgress()
        self.opened_at = self.loop.time()
        self.is_authenticated = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the connection in, or abort it or an older one that has proved nothing."""
        super().connection_made(transport)
        address = transport.get_extra_info("peername")
        turned = self._gate.open(self, str(address[0]) if isinstance(address, tuple) else "")
        if turned is not None:
            self._counters[f"turned_away_{turned}"] += 1
            self.abort()
        while (surplus := self._gate.surplus()) is not None:
            self._counters["turned_away_unauthenticated"] += 1
            self._gate.close(surplus)
            surplus.abort()

    def data_received(self, data: bytes) -> None:
        """Follow the framing, then let the library read."""
        self._progress.feed(data, time.monotonic())
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room for another one."""
        self._gate.close(self)
        super().connection_lost(exc)

    def is_late(self, now: float, timeout: float) -> bool:
        """Whether a message began more than `timeout` seconds ago and has not ended."""
        return self._progress.since is not None and now - self._progress.since > timeout

    async def dismiss(self, code: int, reason: str, timeout: float) -> None:
        """Close with `code`, or at once when the other side takes nothing for `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self.close(code, reason)
        except TimeoutError:
            self.abort()

    def abort(self) -> None:
        """End the connection at once."""
        self.transport.abort()
