"""An authenticated agent's connection to the hub: one task reads, one writes what waits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from converge.core.limits import MAX_TEXT_BYTES
from converge.network.transport.websocket.errors import CloseCode, ProtocolViolation
from converge.network.transport.websocket.outbox import Outbox
from converge.network.transport.websocket.packets import Lost, Request, encode_lost, encode_reply
from converge.network.transport.websocket.protocol import Confirmed, Messages
from converge.network.transport.websocket.pump import Pump
from converge.network.transport.websocket.router import Peer

if TYPE_CHECKING:
    from converge.network.transport.websocket.connection import HubConnection
    from converge.network.transport.websocket.limits import HubLimits
    from converge.network.transport.websocket.protocol import HubProtocol
    from converge.network.transport.websocket.router import Router

__all__ = ["Member"]

_SMALL_PACKET_BYTES = 4096
"""What is carried in the callback in which it came; larger packets may hold many broadcasts, which take turns."""

_OFFERS_IN_A_ROW = 2048
"""After so many the others get their turn: a broadcast to thousands is that many."""


class Member:
    """Carries what comes from `connection` into the router, and what waits in the outbox out."""

    def __init__(self, connection: HubConnection, protocol: HubProtocol, router: Router, limits: HubLimits) -> None:
        self.connection = connection
        self._protocol, self._router = protocol, router
        outbox = Outbox(limits.max_waiting_messages, limits.max_waiting_bytes, limits.max_packet_bytes)
        outbox.confirm_within(limits.terms.window_messages, limits.terms.window_bytes)
        self.peer = Peer(protocol.client_id, protocol.client_key, outbox)
        outbox.on_low = self._release
        connection.on_packet = self._take_at_once
        self._pump = Pump(connection, outbox, lambda: router.carries_many)

    async def serve(self) -> None:
        """Read and write until the connection ends, which raises `ConnectionClosed`, or `ProtocolViolation`."""
        writer = asyncio.create_task(self._pump.run(), name=f"converge-hub-{self.peer.id[:8]}")
        try:
            while True:
                event = self._protocol.receive(await self.connection.next_packet())
                if isinstance(event, Messages):
                    await self._route(event.frames)
                elif isinstance(event, Confirmed):
                    if not self.peer.outbox.confirmed_by_peer(event.messages):
                        raise ProtocolViolation(CloseCode.MALFORMED, "more messages are confirmed than were sent")
                else:
                    self._answer(event)
        finally:
            writer.cancel()
            await asyncio.wait({writer})
            self.peer.outbox.drained.set()  # by nobody any more, for whoever waits

    def is_stalled(self, now: float, timeout: float) -> bool:
        """Whether the reader has taken nothing for `timeout` seconds while something is being sent to it."""
        return self._pump.is_stalled(now, timeout)

    def _take_at_once(self, packet: bytes) -> bool:
        frames = self._protocol.messages_in(packet) if len(packet) <= _SMALL_PACKET_BYTES else None
        if frames is None:
            return False
        lost: list[Lost] = []
        self._router.carries_many = len(frames) > 1
        for frame in frames:
            self._router.route(self.peer, frame, lost)
        self._carried(frames, lost)
        return True

    def _carried(self, frames: list[bytes], lost: list[Lost]) -> None:
        self._router.carries_many = False
        self.peer.outbox.took(frames)
        if lost and not self.peer.outbox.notify(encode_lost(lost)):
            self._router.counters["dropped_notices"] += 1

    def _release(self) -> None:
        if self.peer.held:
            self._router.release(self.peer)

    async def _route(self, frames: list[bytes]) -> None:
        router, peer, offers = self._router, self.peer, 0
        lost: list[Lost] = []
        router.carries_many = len(frames) > 1
        for frame in frames:
            offers += router.route(peer, frame, lost)
            if offers >= _OFFERS_IN_A_ROW:
                offers = 0
                router.carries_many = False
                await asyncio.sleep(0)
                router.carries_many = True
        self._carried(frames, lost)

    def _answer(self, request: Request) -> None:
        items: list[str] = []
        try:
            if request.operation == "subscribe":
                self._router.subscribe(self.peer, map(bytes, request.items))
            elif request.operation == "unsubscribe":
                self._router.unsubscribe(self.peer, map(bytes, request.items))
            elif request.operation == "present":
                items = self._router.present(self.peer, map(_agent_id, request.items))
            elif request.operation == "leave":
                self.peer.outbox.confirm()
                self._router.leave(self.peer)
            else:
                raise ValueError(f"there is no operation {request.operation[:40]!r}")
        except ProtocolViolation:
            raise
        except (ValueError, msgspec.DecodeError) as error:
            raise ProtocolViolation(CloseCode.MALFORMED, f"the request is malformed: {error}") from None
        if not self.peer.outbox.notify(encode_reply(request.number, items)):
            raise ProtocolViolation(CloseCode.TOO_SLOW, "too many replies wait to be read")


def _agent_id(packed: msgspec.Raw) -> str:
    agent_id = msgspec.msgpack.decode(packed, type=str)
    if len(agent_id) > MAX_TEXT_BYTES:
        raise ValueError("an agent id is longer than any can be")
    return agent_id
