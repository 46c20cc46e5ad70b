"""Connections that hand a message on in the callback in which it came, so that it waits for no task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.connection import Connection
from websockets.frames import DATA_OPCODES, Frame, Opcode

if TYPE_CHECKING:
    from collections.abc import Callable

    from websockets.protocol import Event

__all__ = ["AgentConnection", "Direct"]


class Direct(Connection):
    """Offers each whole binary message to `on_packet` while somebody waits in `next_packet`.

    What `on_packet` does not take (it returns False), and all that comes before that is read, goes the library's own
    way, which bounds what waits. So does everything if a version of the library has no `process_event` to extend: this
    is a shorter way for the same messages in the same order.
    """

    on_packet: Callable[[bytes], bool] | None = None
    _is_waiting = False

    async def next_packet(self) -> str | bytes:
        """The next message that was not taken; `ConnectionClosed` at the end."""
        self._is_waiting = self.on_packet is not None
        try:
            return await self.recv()
        finally:
            self._is_waiting = False

    def process_event(self, event: Event) -> None:
        """Called by the library with each frame that is complete."""
        if self._is_waiting and isinstance(event, Frame) and event.opcode in DATA_OPCODES:
            whole = event.fin and event.opcode is Opcode.BINARY
            if whole and self.on_packet is not None and self.on_packet(bytes(event.data)):
                return
            self._is_waiting = False
        super().process_event(event)


class AgentConnection(Direct, ClientConnection):
    """The connection of an agent to its hub."""
