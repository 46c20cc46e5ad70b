"""Carries what waits in an outbox into its connection: at once while it takes that, else as fast as it does."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from websockets.asyncio.server import broadcast
from websockets.exceptions import ConnectionClosed

if TYPE_CHECKING:
    from collections.abc import Callable

    from websockets.asyncio.connection import Connection

    from converge.network.transport.websocket.outbox import Outbox

__all__ = ["WRITE_LIMIT_BYTES", "Pump"]

WRITE_LIMIT_BYTES = 32 * 1024
"""What may wait in a connection before it counts as blocked."""

_LULL_SEC = 0.0001


class Pump:
    """Writes what comes after a lull at once, and else in the next turn of the event loop all that waits then.

    It does not wait for that turn when the outbox is filling, whose bound is for what the reader does not take. A task
    takes over while the reader is slow (a task for each write would cost a lone message more than all the rest of its
    way). `more_comes` says whether more is about to be put into the outbox in this turn. `blocked_since` is the
    monotonic time since when the reader has taken nothing of what is being written, or None.
    """

    def __init__(self, connection: Connection, outbox: Outbox, more_comes: Callable[[], bool] = lambda: False) -> None:
        self._more_comes, self._wrote_at = more_comes, 0.0
        self._connection, self._outbox = connection, outbox
        self._targets = (connection,)
        self._loop = asyncio.get_running_loop()
        self._blocked = asyncio.Event()
        self._is_scheduled = self._is_over = False
        self._unsent = 0
        self.blocked_since: float | None = None
        outbox.on_waiting, outbox.on_filling = self._soon, self._write
        if not outbox.drained.is_set():
            self._soon()

    async def run(self) -> None:
        """Take over whenever the connection is blocked; until it is closed, or this is cancelled."""
        connection, outbox = self._connection, self._outbox
        try:
            with suppress(ConnectionClosed):  # the reader raises it too
                while True:
                    await self._blocked.wait()
                    self.blocked_since, self._unsent = time.monotonic(), self._buffered()
                    while (packet := outbox.next()) is not None:
                        await connection.send(packet)
                        self.blocked_since, self._unsent = time.monotonic(), self._buffered()
                    self.blocked_since = None
                    self._blocked.clear()
        finally:
            self._is_over = True

    def is_stalled(self, now: float, timeout: float) -> bool:
        """Whether the reader has taken nothing for `timeout` seconds of what is being written to it."""
        if self.blocked_since is None:
            return False
        unsent = self._buffered()
        if unsent < self._unsent:
            self.blocked_since = now
        self._unsent = unsent
        return now - self.blocked_since > timeout

    def _buffered(self) -> int:
        return self._connection.transport.get_write_buffer_size()

    def _soon(self) -> None:
        if self._is_scheduled or self._blocked.is_set() or self._is_over:
            return
        if self._loop.time() - self._wrote_at > _LULL_SEC and not self._more_comes():
            self._write()
        else:
            self._is_scheduled = True
            self._loop.call_soon(self._write_scheduled)

    def _write_scheduled(self) -> None:
        self._is_scheduled = False
        self._write()

    def _write(self) -> None:
        if self._is_over or self._blocked.is_set():
            return
        self._wrote_at = self._loop.time()
        transport = self._connection.transport
        while transport.get_write_buffer_size() <= WRITE_LIMIT_BYTES:
            packet = self._outbox.next()
            if packet is None:
                return
            broadcast(self._targets, packet)
        self._blocked.set()
