"""One open connection of an agent to its hub: one task reads, one writes what waits."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from websockets.exceptions import ConnectionClosed

from converge.network.transport.websocket.errors import CloseCode, HubUnreachable, ProtocolViolation
from converge.network.transport.websocket.packets import MAX_ITEMS, Lost, encode_request
from converge.network.transport.websocket.protocol import Busy, Confirmed, Gone, LostMessages, Messages, Ready
from converge.network.transport.websocket.pump import Pump

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Coroutine, Sequence

    from converge.network.transport.websocket.direct import AgentConnection
    from converge.network.transport.websocket.inbox import Inbox
    from converge.network.transport.websocket.outbox import Outbox
    from converge.network.transport.websocket.protocol import ClientEvent, ClientProtocol

__all__ = ["Session"]

_T = TypeVar("_T")

_CONFIRM_SEC = 0.5
_CLOSE_SEC = 1.0
_log = logging.getLogger(__name__)


class Session:
    """Runs from its making until `run` returns. `routes` are agents that the hub said are there, and not gone since."""

    def __init__(
        self,
        uri: str,
        connection: AgentConnection,
        protocol: ClientProtocol,
        outbox: Outbox,
        inbox: Inbox,
        counters: Counter[str],
    ) -> None:
        self._uri, self._connection, self._protocol = uri, connection, protocol
        self._outbox, self._inbox, self._counters = outbox, inbox, counters
        self._asked: dict[int, asyncio.Future[list[str]]] = {}
        self._number = 0
        self._confirming: asyncio.TimerHandle | None = None
        self._is_over = False
        self._pump = Pump(connection, outbox)
        connection.on_packet = self._take_at_once
        self._busy: dict[str, asyncio.Event] = {}
        self.routes: set[str] = set()

    @property
    def max_message_bytes(self) -> int:
        """The largest message that the hub takes."""
        return self._protocol.terms.max_message_bytes

    @property
    def hub_id(self) -> str:
        """The id that the hub has proved."""
        return self._protocol.hub_id

    @property
    def is_reading(self) -> bool:
        """Whether replies can come: not while the inbox is full, since they are behind what has no room."""
        return self._inbox.room.is_set()

    async def run(self) -> int:
        """Read and write until the connection is over; the code it was closed with (0: it broke)."""
        tasks = {asyncio.create_task(self._read()), asyncio.create_task(self._pump.run())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._end()
            await self._close()
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        received = self._connection.protocol.close_rcvd
        return 0 if received is None else received.code

    async def request(self, operation: str, items: Sequence[Any] = ()) -> list[str]:
        """The hub's answers about `items`, as many requests as they take; `HubUnreachable` when the connection ends."""
        answers: list[str] = []
        for start in range(0, max(len(items), 1), MAX_ITEMS):
            answers += await self._request(operation, items[start : start + MAX_ITEMS])
        return answers

    async def ask(self, operation: str, items: Sequence[Any]) -> list[str] | None:
        """As `request`; None when the inbox is full, behind which no answer can come until somebody receives."""
        return await self._unless_full(self.request(operation, items))

    async def _unless_full(self, work: Coroutine[None, None, _T]) -> _T | None:
        working = asyncio.create_task(work)
        filling = asyncio.create_task(self._inbox.full.wait())
        tasks: set[asyncio.Task[Any]] = {working, filling}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def is_busy(self, agent_id: str) -> bool:
        """Whether so much waits for `agent_id` at the hub that nothing should be sent to it."""
        return agent_id in self._busy

    async def ready(self, agent_id: str) -> None:
        """Return when `agent_id` is not busy, or not there any more, or the inbox is full, so that none can tell."""
        while (busy := self._busy.get(agent_id)) is not None and self.is_reading:
            await self._unless_full(busy.wait())

    async def _request(self, operation: str, items: Sequence[Any]) -> list[str]:
        if self._is_over:
            raise HubUnreachable(self._uri, "the connection has ended")
        number = self._number = (self._number + 1) % 2**32
        answer: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            if not self._outbox.notify(encode_request(number, operation, items)):
                raise HubUnreachable(self._uri, "too many requests wait already")
            return await answer
        finally:
            del self._asked[number]

    async def _read(self) -> None:
        connection, protocol, inbox = self._connection, self._protocol, self._inbox
        with suppress(ConnectionClosed):
            while True:
                event = protocol.receive(await connection.next_packet())
                if isinstance(event, Messages):
                    self._took(event.frames)
                    await inbox.room.wait()
                else:
                    self._take(event)

    def _take_at_once(self, packet: bytes) -> bool:
        frames = self._protocol.messages_in(packet) if self._inbox.room.is_set() else None
        if frames is not None:
            self._took(frames)
        return frames is not None

    def _took(self, frames: list[bytes]) -> None:
        self._inbox.extend(frames)
        self._outbox.took(frames)
        if self._confirming is None:
            self._confirming = self._connection.loop.call_later(_CONFIRM_SEC, self._confirm)

    def _take(self, event: ClientEvent) -> None:
        if isinstance(event, Confirmed):
            if not self._outbox.confirmed_by_peer(event.messages):
                raise ProtocolViolation(CloseCode.MALFORMED, "the hub confirms messages that were not sent")
        elif isinstance(event, LostMessages):
            for lost in event.messages:
                self._lost(lost)
        elif isinstance(event, Gone):
            self.routes.difference_update(event.ids)
            self._ready(event.ids)
        elif isinstance(event, Busy):
            for agent_id in event.ids:
                self._busy.setdefault(agent_id, asyncio.Event())
        elif isinstance(event, Ready):
            self._ready(event.ids)
        elif not isinstance(event, Messages):
            answer = self._asked.get(event.number)
            if answer is not None and not answer.done():
                answer.set_result(event.items)

    def _ready(self, ids: Sequence[str]) -> None:
        for agent_id in ids:
            ready = self._busy.pop(agent_id, None)
            if ready is not None:
                ready.set()

    def _lost(self, lost: Lost) -> None:
        self._counters["messages_lost"] += 1
        self._counters[f"lost_{lost.reason[:40]}"] += 1
        if lost.reason == "not_connected":
            self.routes.discard(lost.recipient)
        _log.info("the message %s to %s was lost: %s", lost.id, lost.recipient, lost.reason)

    def _confirm(self) -> None:
        self._confirming = None
        self._outbox.confirm()

    def _end(self) -> None:
        self._is_over = True
        if self._confirming is not None:
            self._confirming.cancel()
        self._ready(list(self._busy))
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(HubUnreachable(self._uri, "the connection has ended"))
                answer.exception()  # whoever asked may be gone

    async def _close(self) -> None:
        """Close as the protocol says, or at once when the other side does not answer in time."""
        try:
            async with asyncio.timeout(_CLOSE_SEC):
                await self._connection.close()
        except TimeoutError:
            self._connection.transport.abort()
