"""From a URI to an authenticated connection, or to an error that says what is wrong."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import connect as websocket_connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.uri import parse_uri

from converge.network.transport.websocket.direct import AgentConnection
from converge.network.transport.websocket.errors import (
    HubBusy,
    HubRefused,
    HubUnreachable,
    InsecureConnection,
    ProtocolViolation,
)
from converge.network.transport.websocket.packets import MAX_PACKET_BYTES
from converge.network.transport.websocket.protocol import ClientProtocol
from converge.network.transport.websocket.pump import WRITE_LIMIT_BYTES
from converge.network.transport.websocket.tls import client_context, is_loopback, peer_certificate_hash

if TYPE_CHECKING:
    import os

    from converge.core.identity import Identity

__all__ = ["HubAddress", "connect"]

_PING_SEC = 20.0
_CLOSE_TIMEOUT_SEC = 0.5  # the runtime gives a transport two seconds to stop
_RECEIVED_PACKETS = 16
_log = logging.getLogger(f"{__name__}.websockets")


class HubAddress:
    """Where the hub is, and what proves that it is the right one.

    Raises `InsecureConnection` (a ValueError) when nothing does, `ValueError` for a `uri` that is none of WebSocket.
    """

    def __init__(
        self,
        uri: str,
        hub_id: str | None,
        ca: str | os.PathLike[str] | None,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        try:
            parsed = parse_uri(uri)
        except InvalidURI:
            raise ValueError(
                f"{uri!r} is not the uri of a hub; write it as ws://HOST:PORT or wss://HOST:PORT"
            ) from None
        self.uri, self.hub_id = uri, hub_id
        self.is_local = is_loopback(parsed.host)
        self.context: ssl.SSLContext | None = None
        if parsed.secure:
            self.context = client_context(ssl_context, ca, hub_id=hub_id)
        elif ca is not None or ssl_context is not None:
            raise ValueError(f"{uri!r} has no TLS, so ca and ssl_context mean nothing; write wss://")
        elif hub_id is None and not self.is_local:
            raise InsecureConnection(
                f"nothing proves who the hub at {uri!r} is: give the hub_id that `converge hub` prints, or use wss:// "
                "with a certificate that can be verified"
            )


class _Connect(websocket_connect):
    """Goes where the configuration says, and not where a server would send it."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def connect(address: HubAddress, identity: Identity, timeout: float) -> tuple[AgentConnection, ClientProtocol]:
    """An open connection to the hub at `address`, each side having proved its key, within `timeout` seconds.

    Raises `HubUnreachable`, `HubBusy` or `HubRefused`; nothing is left open then.
    """
    try:
        async with asyncio.timeout(timeout):
            return await _connect(address, identity)
    except TimeoutError:
        raise HubUnreachable(address.uri, f"no answer within {timeout:.3g} s") from None
    except ssl.SSLCertVerificationError as error:
        text = f"its certificate cannot be verified ({error.verify_message}); give the ca it comes from, or the hub_id"
        raise HubRefused(address.uri, text) from error
    except OSError as error:
        if isinstance(error, HubUnreachable | HubRefused):
            raise
        raise HubUnreachable(address.uri, str(error) or type(error).__name__) from error
    except InvalidHandshake as error:
        if isinstance(error.__cause__, EOFError):
            raise HubBusy(address.uri, "it dropped the connection; it may have too many") from error
        raise HubRefused(address.uri, f"this is no hub ({error})") from error


async def _connect(address: HubAddress, identity: Identity) -> tuple[AgentConnection, ClientProtocol]:
    tls: dict[str, Any] = {} if address.context is None else {"ssl": address.context}
    connection = await _Connect(
        address.uri,
        compression=None,
        max_size=MAX_PACKET_BYTES,
        max_queue=_RECEIVED_PACKETS,
        write_limit=WRITE_LIMIT_BYTES,
        open_timeout=None,  # the caller has one for all of it
        ping_interval=_PING_SEC,
        ping_timeout=_PING_SEC,
        close_timeout=_CLOSE_TIMEOUT_SEC,
        proxy=None if address.is_local else True,
        user_agent_header=None,
        logger=_log,
        create_connection=AgentConnection,
        **tls,
    )
    assert isinstance(connection, AgentConnection)
    try:
        return connection, await _prove(connection, address, identity)
    except BaseException as error:
        connection.transport.abort()
        await connection.wait_closed()
        if isinstance(error, ProtocolViolation):
            raise HubRefused(address.uri, error.reason) from error
        if isinstance(error, ConnectionClosed):
            raise _refusal(address.uri, error) from error
        raise


async def _prove(connection: AgentConnection, address: HubAddress, identity: Identity) -> ClientProtocol:
    certificate_hash = peer_certificate_hash(connection.transport.get_extra_info("ssl_object"))
    protocol = ClientProtocol(identity, certificate_hash, address.hub_id, MAX_PACKET_BYTES)
    await connection.send(protocol.hello(await connection.recv()))
    protocol.finish(await connection.recv())
    return protocol


def _refusal(uri: str, closed: ConnectionClosed) -> HubRefused | HubUnreachable:
    if closed.rcvd is None or closed.rcvd.code < 4000:
        return HubBusy(uri, "it dropped the connection; it may have too many")
    return HubRefused(uri, closed.rcvd.reason or "the hub refused the connection", closed.rcvd.code)
