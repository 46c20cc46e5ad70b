"""The hub: agents connect to it, prove their keys, and send each other messages through it."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Self

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

from converge.core.identity import Identity
from converge.network.transport.websocket.connection import HubConnection
from converge.network.transport.websocket.errors import CloseCode, InsecureConnection, ProtocolViolation
from converge.network.transport.websocket.gate import Gate
from converge.network.transport.websocket.limits import HubLimits
from converge.network.transport.websocket.member import Member
from converge.network.transport.websocket.protocol import HubProtocol
from converge.network.transport.websocket.pump import WRITE_LIMIT_BYTES
from converge.network.transport.websocket.router import Router
from converge.network.transport.websocket.tls import is_loopback, own_certificate_hash, server_context

if TYPE_CHECKING:
    import os
    import ssl
    from collections import Counter
    from collections.abc import Iterable
    from types import TracebackType

    from websockets.asyncio.server import Server, ServerConnection
    from websockets.server import ServerProtocol

__all__ = ["WebSocketHub"]

_FLUSH_SEC = 1.0
_RECEIVED_PACKETS = 16
_log = logging.getLogger(__name__)
_library_log = logging.getLogger(f"{__name__}.websockets")


class WebSocketHub:
    """Relays messages between the agents that are connected to it; an async context manager that listens meanwhile.

    An agent proves its key when it connects, and sends messages of its own only: the hub does not check signatures,
    the receivers do. Delivery is at most once. A message for an agent that is not connected is reported to its sender;
    one for an agent with a full outbox is dropped, counted, and reported if it was direct.

    `port` 0 takes a free one, which `uri` names. `identity` is the hub's own key (default: a new one each time), and
    `hub_id` the id of it, which agents beyond this machine need. `allow` are the ids that may connect (None: every
    agent with a key). TLS comes from `ssl_context`, or the PEM files `cert` and `key`. Without TLS a host that is not
    loopback raises `InsecureConnection` unless `insecure` says that the network is to be trusted.

    For one event loop. One that could not be entered, or was left, can be entered again. `counters` counts what was
    carried, refused, dropped and closed. Entering raises `OSError` when the address cannot be bound.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        identity: Identity | None = None,
        *,
        allow: Iterable[str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        cert: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | None = None,
        insecure: bool = False,
        limits: HubLimits | None = None,
    ) -> None:
        self._context = server_context(ssl_context, cert, key)
        if self._context is None and not insecure and not is_loopback(host):
            raise InsecureConnection(
                f"a hub on {host!r} would let everybody on the way read and alter messages; give it a certificate "
                "(cert and key, or ssl_context), listen on 127.0.0.1, or say insecure=True (--insecure)"
            )
        self.identity = Identity.generate() if identity is None else identity
        if self.identity.private_key is None:
            raise ValueError("the identity of a hub needs its private key; load it from its key file")
        self.limits = HubLimits() if limits is None else limits
        self._host, self._port = host, port
        self._certificate_hash = own_certificate_hash(self._context)
        self._allowed = None if allow is None else set(allow)
        self._revoked: set[str] = set()
        self._router = Router(self.limits)
        self._gate: Gate[HubConnection] = Gate(self.limits)
        self._members: dict[str, Member] = {}
        self._server: Server | None = None
        self._watch: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def hub_id(self) -> str:
        """The id of the hub: the fingerprint of its key."""
        return self.identity.fingerprint

    @property
    def uri(self) -> str:
        """Where agents connect to; `RuntimeError` while the hub does not listen."""
        if self._server is None:
            raise RuntimeError("the hub does not listen; enter it with `async with` first")
        port = self._server.sockets[0].getsockname()[1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'ws' if self._context is None else 'wss'}://{host}:{port}"

    @property
    def counters(self) -> Counter[str]:
        """What was carried, refused, dropped and closed so far, by name."""
        return self._router.counters

    @property
    def peers(self) -> frozenset[str]:
        """The ids of the agents that are connected."""
        return frozenset(self._members)

    @property
    def is_listening(self) -> bool:
        """Whether agents can connect now."""
        return self._server is not None and self._server.is_serving()

    def metrics(self) -> dict[str, int]:
        """The counters, and how much there is now: connections, subscriptions, and what waits."""
        outboxes = [peer.outbox for peer in self._router.peers]
        return dict(self.counters) | {
            "connections": len(self._gate),
            "agents": len(outboxes),
            "unauthenticated": self._gate.unauthenticated,
            "subscriptions": self._router.subscriptions,
            "waiting_messages": sum(map(len, outboxes)),
            "waiting_bytes": sum(outbox.waiting_bytes for outbox in outboxes),
        }

    def allow(self, agent_id: str) -> None:
        """Let `agent_id` connect from now on; undoes `revoke`."""
        self._revoked.discard(agent_id)
        if self._allowed is not None:
            self._allowed.add(agent_id)

    def revoke(self, agent_id: str) -> None:
        """Let `agent_id` connect no more, and close its connection if it has one."""
        self._revoked.add(agent_id)
        if self._allowed is not None:
            self._allowed.discard(agent_id)
        member = self._members.get(agent_id)
        if member is not None:
            self._close(member.connection, CloseCode.FORBIDDEN, "the hub has revoked this agent")

    async def __aenter__(self) -> Self:
        if self._server is not None:
            raise RuntimeError(f"the hub listens already, at {self.uri}")
        limits = self.limits
        self._server = await serve(
            self._serve,
            self._host,
            self._port,
            ssl=self._context,
            compression=None,  # what one byte can be made to cost is then bounded
            max_size=limits.max_packet_bytes,
            max_queue=_RECEIVED_PACKETS,
            write_limit=WRITE_LIMIT_BYTES,
            open_timeout=limits.handshake_timeout_sec,
            ping_interval=limits.ping_interval_sec,
            ping_timeout=limits.ping_interval_sec,
            close_timeout=limits.close_timeout_sec,
            server_header=None,
            logger=_library_log,
            create_connection=self._connection,  # type: ignore[arg-type]  # any factory will do, as its documentation says
        )
        self._watch = asyncio.create_task(self._watch_time(), name="converge-hub-watch")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        server, watch = self._server, self._watch
        if server is None or watch is None:
            return
        try:
            await self._flush()
        finally:
            self._server = self._watch = None
            watch.cancel()
            server.close()
            for connection in self._gate.connections():
                if not connection.is_authenticated:
                    connection.abort()
            try:
                async with asyncio.timeout(self.limits.close_timeout_sec):
                    await server.wait_closed()
            except TimeoutError:
                for connection in self._gate.connections():
                    connection.abort()
                await server.wait_closed()
            await asyncio.wait({watch, *self._closing})

    async def _flush(self) -> None:
        """Let what waits go out, as far as the readers take it within a second."""
        try:
            async with asyncio.timeout(_FLUSH_SEC):
                await asyncio.gather(*(member.peer.outbox.drained.wait() for member in self._members.values()))
        except TimeoutError:
            _log.warning("the hub stops with %s messages waiting", self.metrics()["waiting_messages"])

    def _connection(self, protocol: ServerProtocol, server: Server, **settings: object) -> ServerConnection:
        return HubConnection(self._gate, self.counters, protocol, server, **settings)

    async def _serve(self, connection: ServerConnection) -> None:
        assert isinstance(connection, HubConnection)
        protocol = HubProtocol(self.identity, self._certificate_hash, self.limits.terms, self.limits.max_packet_bytes)
        try:
            await self._authenticate(connection, protocol)
            member = Member(connection, protocol, self._router, self.limits)
            self._join(member)
            try:
                await member.serve()
            finally:
                self._leave(member)
        except ProtocolViolation as violation:
            self.counters[f"closed_{violation.code.name.lower()}"] += 1
            _log.info("%s: closing %s", connection.remote_address, violation)
            await connection.dismiss(violation.code, violation.reason[:100], self.limits.close_timeout_sec)
        except TimeoutError:
            self.counters["closed_handshake_timeout"] += 1
            connection.abort()
        except ConnectionClosed as closed:
            _log.debug("%s: %s", connection.remote_address, closed)

    async def _authenticate(self, connection: HubConnection, protocol: HubProtocol) -> None:
        async with asyncio.timeout_at(connection.opened_at + self.limits.handshake_timeout_sec):
            await connection.send(protocol.challenge())
            welcome = protocol.authenticate(await connection.recv())
            agent_id = protocol.client_id
            if agent_id in self._revoked or (self._allowed is not None and agent_id not in self._allowed):
                raise ProtocolViolation(CloseCode.FORBIDDEN, f"the agent {agent_id} is not allowed here")
            self._gate.authenticated(connection)
            await connection.send(welcome)
        connection.is_authenticated = True

    def _join(self, member: Member) -> None:
        self._router.join(member.peer)
        earlier = self._members.get(member.peer.id)
        self._members[member.peer.id] = member
        if earlier is not None:
            self.counters["closed_replaced"] += 1
            self._close(earlier.connection, CloseCode.REPLACED, "another connection has proved the same key")

    def _leave(self, member: Member) -> None:
        self._router.leave(member.peer)
        if self._members.get(member.peer.id) is member:
            del self._members[member.peer.id]

    def _close(self, connection: HubConnection, code: CloseCode, reason: str) -> None:
        task = asyncio.create_task(connection.dismiss(code, reason, self.limits.close_timeout_sec))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _watch_time(self) -> None:
        while True:
            await asyncio.sleep(self.limits.check_interval_sec)
            now = time.monotonic()
            for connection in self._gate.connections():
                if connection.is_late(now, self.limits.frame_timeout_sec):
                    self.counters["closed_frame_timeout"] += 1
                    connection.abort()
            for member in list(self._members.values()):
                member.peer.outbox.confirm()
                if member.is_stalled(now, self.limits.stalled_timeout_sec):
                    self.counters["closed_stalled"] += 1
                    _log.warning("%s takes nothing; it is disconnected", member.peer.id)
                    member.connection.abort()
