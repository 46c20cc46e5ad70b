"""The WebSocket transport: an agent's connection to a hub, which is made again when it breaks."""

from __future__ import annotations

import asyncio
import logging
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen, validators

from converge.core.errors import IdentityError
from converge.core.limits import MAX_FRAME_BYTES
from converge.core.message import Message
from converge.network.errors import TransportClosed, Undeliverable
from converge.network.transport.base import Transport
from converge.network.transport.websocket.connecting import HubAddress, connect
from converge.network.transport.websocket.errors import CloseCode, HubBusy, HubRefused, HubUnreachable
from converge.network.transport.websocket.inbox import Inbox
from converge.network.transport.websocket.outbox import Outbox
from converge.network.transport.websocket.packets import MAX_PACKET_BYTES, PACKET_OVERHEAD
from converge.network.transport.websocket.session import Session

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import Iterable

    from converge.core.identity import Identity
    from converge.core.topic import Topic

__all__ = ["WebSocketOptions", "WebSocketTransport"]

_FLUSH_SEC = 1.0
_FIRST_BACKOFF_SEC = 0.1
_MAX_BACKOFF_SEC = 30.0
_FINAL = {CloseCode.UNAUTHENTICATED, CloseCode.FORBIDDEN, CloseCode.REPLACED}
_random = secrets.SystemRandom()
_log = logging.getLogger(__name__)


@frozen
class WebSocketOptions:
    """Options of `[transport] use = "websocket"`; times in seconds."""

    uri: str
    hub_id: str | None = None
    ca: Path | None = None
    connect_timeout_sec: float = field(default=10.0, validator=validators.gt(0))
    max_waiting_messages: int = field(default=1024, validator=validators.ge(1))
    max_waiting_bytes: int = field(default=4 * 1024 * 1024, validator=validators.ge(1))


class WebSocketTransport(Transport):
    """Connects an agent with the others that are connected to the hub at `uri`.

    At most once, in order for each sender. An agent sends messages of its own only, signed or not. `send` returns when
    the message waits for the connection; what waits together travels in one frame. Before the first message to an
    agent the hub is asked whether it is there, and tells when it leaves: sending to one that is not there raises
    `Undeliverable`. When much waits for it at the hub already, or the connection is broken, `send` waits,
    `connect_timeout_sec` at most. What was handed to a connection that broke, and was not confirmed by the hub, is
    counted as `messages_lost` (some of it may have arrived) and never sent again; so is what the hub could not deliver,
    besides as `lost_<reason>`.

    Without `identity` the one that a runtime binds is used. `hub_id` is the id of the hub, which it proves; without it
    the hub must be on this machine, or have a certificate that is verified (`InsecureConnection` else). With `hub_id`
    alone a certificate need not be verified: the proof is bound to it. TLS is configured by `ca`, a PEM file to
    trust, or by `ssl_context`.

    A broken connection is made again with growing, random pauses, and subscriptions are in force again. When the hub
    says that another connection has taken over, or that this agent is not wanted, the transport ends: `receive` and
    `send` raise `TransportClosed`. For one event loop.
    """

    converge_options: ClassVar[type[WebSocketOptions]] = WebSocketOptions

    def __init__(
        self,
        agent_id: str,
        uri: str,
        identity: Identity | None = None,
        hub_id: str | None = None,
        *,
        ca: str | os.PathLike[str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        connect_timeout_sec: float = 10.0,
        max_waiting_messages: int = 1024,
        max_waiting_bytes: int = 4 * 1024 * 1024,
    ) -> None:
        super().__init__(agent_id)
        self._address = HubAddress(uri, hub_id, ca, ssl_context)
        self._timeout = connect_timeout_sec
        self._bounds = max_waiting_messages, max_waiting_bytes
        self._identity: Identity | None = None
        if identity is not None:
            self.bind_identity(identity)
        self._inbox: Inbox | None = None
        self._outbox: Outbox | None = None
        self._session: Session | None = None
        self._online = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._ended: str | None = None

    @property
    def waiting(self) -> int:
        """How many messages came and are not received."""
        return 0 if self._inbox is None else len(self._inbox)

    @property
    def connected(self) -> bool:
        """Whether there is a connection to the hub at this moment."""
        return self._session is not None

    @property
    def hub_id(self) -> str | None:
        """The id that the hub has proved; the one that is expected while there is no connection."""
        return self._address.hub_id if self._session is None else self._session.hub_id

    def bind_identity(self, identity: Identity) -> None:
        """Use `identity` to prove who this is, unless there is one; `IdentityError` when it is another agent's."""
        if identity.fingerprint != self.agent_id:
            raise IdentityError(f"the identity of {identity.fingerprint} cannot connect as {self.agent_id}")
        if self._identity is None:
            self._identity = identity

    async def start(self) -> None:
        """Connect to the hub and subscribe. A start that fails leaves nothing open.

        Raises `HubUnreachable` or `HubRefused` (both `OSError`), and `IdentityError` when there is no identity.
        """
        if self._runner is not None:
            return
        if self._identity is None or self._identity.private_key is None:
            raise IdentityError(
                f"the WebSocket transport of {self.agent_id} has no private key to prove who it is; pass identity=, or "
                "give the transport to an AgentRuntime, which binds that of its agent"
            )
        self._inbox, self._outbox, self._ended = (
            Inbox(*self._bounds),
            Outbox(*self._bounds, MAX_PACKET_BYTES),
            None,
        )
        running = await self._open_first(self._inbox, self._outbox)
        self._runner = asyncio.create_task(self._keep(running, self._inbox, self._outbox), name="converge-websocket")

    async def stop(self) -> None:
        """Send what waits, for at most a second, and disconnect; what was not sent or received is counted."""
        runner, self._runner = self._runner, None
        inbox, outbox = self._inbox, self._outbox
        if runner is None or inbox is None or outbox is None:
            return
        inbox.close("the transport was stopped; start() it again")
        try:
            await self._flush(outbox)
        finally:
            runner.cancel()
            await asyncio.wait({runner})
            self._inbox = self._outbox = None
            self._count("messages_lost", len(outbox.take_all()) + outbox.reconnected())
            self._count("dropped_at_stop", inbox.dropped)

    async def send(self, message: Message) -> None:
        """Hand `message` over to the connection; see `Transport.send` and the class."""
        outbox = self._started()
        frame = self._frame(message)
        recipient = message.recipient
        session = self._session or await self._connection(recipient)
        if len(frame) > session.max_message_bytes:
            raise _too_large(recipient, len(frame), session.max_message_bytes)
        if recipient is not None:
            await self._route(session, recipient)
        if outbox.full_for(len(frame)) is not None:
            await self._room(outbox, len(frame), recipient)
        outbox.offer(frame)

    async def receive(self, timeout: float | None = None) -> Message:
        """The next message; see `Transport.receive`."""
        self._started()
        assert self._inbox is not None
        return Message.from_bytes(await self._inbox.get(timeout), MAX_FRAME_BYTES)

    async def subscribe(self, topic: Topic) -> None:
        """Receive from now on what is sent to `topic`: in force when this returns, if there is a connection."""
        self.subscriptions.add(topic)
        await self._tell("subscribe", topic)

    async def unsubscribe(self, topic: Topic) -> None:
        """Receive no more of `topic`; one not subscribed is no error."""
        self.subscriptions.discard(topic)
        await self._tell("unsubscribe", topic)

    async def present(self, agent_ids: Iterable[str]) -> set[str]:
        """Those of `agent_ids` that are connected to the hub now.

        Raises `Undeliverable` when there is no connection within the connect timeout, and `TransportClosed`.
        """
        self._started()
        session = self._session or await self._connection(None)
        found = await self._ask(session, list(agent_ids))
        if found is None:
            raise Undeliverable(None, "the inbox is full, and the answer would come behind it; receive first")
        session.routes.update(found)
        return set(found)

    # -- what sending needs

    def _started(self) -> Outbox:
        if self._outbox is None:
            raise TransportClosed(f"the WebSocket transport of {self.agent_id} is not started; call start() first")
        if self._ended is not None and not self._inbox:
            raise TransportClosed(self._ended)
        return self._outbox

    def _frame(self, message: Message) -> bytes:
        if self._ended is not None:
            raise TransportClosed(self._ended)
        if message.sender != self.agent_id:
            raise Undeliverable(
                message.recipient,
                f"its sender is {message.sender!r}, and through a hub an agent sends messages of its own only, here "
                f"those of {self.agent_id!r}",
            )
        try:
            frame = message.to_bytes()
        except (TypeError, ValueError) as error:
            raise Undeliverable(message.recipient, str(error)) from error
        if len(frame) > MAX_FRAME_BYTES:
            raise _too_large(message.recipient, len(frame), MAX_FRAME_BYTES)
        return frame

    async def _connection(self, recipient: str | None) -> Session:
        try:
            async with asyncio.timeout(self._timeout):
                while self._session is None:
                    if self._ended is not None or self._outbox is None:
                        raise TransportClosed(self._ended or "the transport was stopped; start() it again")
                    await self._online.wait()
                return self._session
        except TimeoutError:
            reason = f"there is no connection to the hub at {self._address.uri} since {self._timeout:g} s"
            raise Undeliverable(recipient, reason) from None

    async def _route(self, session: Session, recipient: str) -> None:
        """Return when the recipient is there and ready.

        While the inbox is full an answer would come behind what has no room in it: then that is not known, and what is
        lost is reported.
        """
        while session.is_reading:  # else nobody can say
            if recipient not in session.routes:
                await self._find(session, recipient)
            elif session.is_busy(recipient):
                await self._ready(session, recipient)
            else:
                return

    async def _ready(self, session: Session, recipient: str) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await session.ready(recipient)
        except TimeoutError:
            reason = f"it has been too slow for {self._timeout:g} s, and what may wait for it at the hub does already"
            raise Undeliverable(recipient, reason) from None

    async def _find(self, session: Session, recipient: str) -> None:
        found = await self._ask(session, [recipient])
        if found == []:
            raise Undeliverable(
                recipient,
                f"no agent of that id is connected to the hub at {self._address.uri}; start it, or try again later",
            )
        session.routes.update(found or ())

    async def _ask(self, session: Session, agent_ids: list[str]) -> list[str] | None:
        """Who is there; None when that cannot be known because the inbox is full."""
        try:
            async with asyncio.timeout(self._timeout):
                return await session.ask("present", agent_ids)
        except TimeoutError:
            raise Undeliverable(None, f"the hub at {self._address.uri} did not answer in {self._timeout:g} s") from None
        except HubUnreachable as error:
            raise Undeliverable(None, str(error)) from error

    async def _room(self, outbox: Outbox, size: int, recipient: str | None) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                while outbox.full_for(size) is not None:
                    outbox.room.clear()
                    await outbox.room.wait()
        except TimeoutError:
            reason = f"the hub has taken nothing for {self._timeout:g} s and {len(outbox)} messages wait already"
            raise Undeliverable(recipient, reason) from None

    async def _tell(self, operation: str, topic: Topic) -> None:
        session = self._session
        if session is not None:
            try:
                async with asyncio.timeout(self._timeout):
                    await session.ask(operation, [topic.wire_fields])  # with a full inbox it is in force soon
            except (TimeoutError, HubUnreachable) as error:  # the next connection begins with all subscriptions
                _log.info("%s of %s waits for the next connection: %s", operation, topic, error)

    # -- the connection

    async def _open_first(self, inbox: Inbox, outbox: Outbox) -> asyncio.Task[int]:
        """The first connection; a hub that is busy is asked again until the connect timeout is over."""
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + self._timeout, _FIRST_BACKOFF_SEC
        while True:
            try:
                return await self._open(inbox, outbox, max(deadline - loop.time(), 0.1))
            except HubBusy:
                if loop.time() + pause > deadline:
                    raise
                await asyncio.sleep(_random.uniform(0, pause))
                pause *= 2

    async def _open(self, inbox: Inbox, outbox: Outbox, timeout: float) -> asyncio.Task[int]:
        """A connection that is subscribed and in use: the task that runs it."""
        assert self._identity is not None
        connection, protocol = await connect(self._address, self._identity, timeout)
        session = Session(self._address.uri, connection, protocol, outbox, inbox, self.counters)
        outbox.agree(protocol.terms.max_message_bytes + PACKET_OVERHEAD, *protocol.terms[1:])
        running = asyncio.create_task(session.run(), name="converge-websocket-session")
        try:
            if self.subscriptions:
                async with asyncio.timeout(timeout):
                    await session.request("subscribe", [topic.wire_fields for topic in self.subscriptions])
        except TimeoutError:
            await _cancel(running)
            raise HubUnreachable(self._address.uri, f"it did not answer within {timeout:g} s") from None
        except BaseException:
            await _cancel(running)
            raise
        self._session = session
        self._online.set()
        return running

    async def _keep(self, running: asyncio.Task[int], inbox: Inbox, outbox: Outbox) -> None:
        """Wait for the end of the connection and make another one, until the hub says not to."""
        try:
            while True:
                try:
                    code = await running
                finally:
                    self._offline(outbox)
                    await _cancel(running)
                if code in _FINAL:
                    self._end(f"the hub has closed the connection: {CloseCode(code).name.lower()}", inbox)
                    return
                _log.info("the connection to %s is over (%s); making another one", self._address.uri, code or "broken")
                reopened = await self._reopen(inbox, outbox)
                if reopened is None:
                    return
                running = reopened
        except Exception as error:  # noqa: BLE001  # what nobody awaits must not vanish: it ends the transport, with its text
            self._end(f"the WebSocket transport has failed: {error}", inbox)
            _log.exception("the WebSocket transport of %s has failed", self.agent_id)

    async def _reopen(self, inbox: Inbox, outbox: Outbox) -> asyncio.Task[int] | None:
        pause = _FIRST_BACKOFF_SEC
        while True:
            await asyncio.sleep(_random.uniform(0, pause))
            pause = min(pause * 2, _MAX_BACKOFF_SEC)
            try:
                running = await self._open(inbox, outbox, self._timeout)
            except HubUnreachable as error:
                _log.info("%s", error)
            except HubRefused as error:
                if error.code in _FINAL:
                    self._end(str(error), inbox)
                    return None
                _log.warning("%s", error)
            else:
                self.counters["reconnected"] += 1
                return running

    def _offline(self, outbox: Outbox) -> None:
        self._session = None
        self._online.clear()
        self._count("messages_lost", outbox.reconnected())

    def _end(self, reason: str, inbox: Inbox) -> None:
        _log.warning("%s: %s", self.agent_id, reason)
        self._ended = reason
        self._online.set()  # who waits for a connection learns that there will be none
        inbox.end(reason)

    async def _flush(self, outbox: Outbox) -> None:
        session = self._session
        if session is None:
            return
        try:
            async with asyncio.timeout(_FLUSH_SEC):
                outbox.confirm()
                await outbox.drained.wait()
                await session.request("leave")
        except (TimeoutError, HubUnreachable) as error:
            _log.info("%s stops with messages unsent: %s", self.agent_id, str(error) or "the hub takes no more")

    def _count(self, name: str, number: int) -> None:
        if number:
            self.counters[name] += number


async def _cancel(task: asyncio.Task[int]) -> None:
    task.cancel()
    await asyncio.wait({task})


def _too_large(recipient: str | None, size: int, most: int) -> Undeliverable:
    return Undeliverable(
        recipient, f"it takes {size} bytes and the hub takes {most}; put large data in a store and send its key"
    )
