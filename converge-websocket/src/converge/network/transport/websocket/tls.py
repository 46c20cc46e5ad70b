"""TLS for both sides: contexts from files, the hash of the certificate, and what counts as the same machine."""

from __future__ import annotations

import hashlib
import ipaddress
import ssl
from typing import TYPE_CHECKING

from converge.network.transport.websocket.errors import InsecureConnection
from converge.network.transport.websocket.handshake import NO_CERTIFICATE

if TYPE_CHECKING:
    import os

__all__ = ["client_context", "is_loopback", "own_certificate_hash", "peer_certificate_hash", "server_context"]

_HANDSHAKE_STEPS = 10
_CHUNK = 64 * 1024


def is_loopback(host: str | None) -> bool:
    """Whether `host` names this machine by an address that never leaves it."""
    if host is None:
        return False
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def server_context(
    context: ssl.SSLContext | None,
    cert: str | os.PathLike[str] | None,
    key: str | os.PathLike[str] | None,
) -> ssl.SSLContext | None:
    """The context that was given, or one from PEM files (`key` may be in the file of `cert`), or None: no TLS.

    Raises `ValueError` when both are given or a key without its certificate; `OSError` (`ssl.SSLError` is one) when the
    files cannot be read or do not belong together.
    """
    if context is not None and (cert is not None or key is not None):
        raise ValueError("give either an ssl_context or the files cert and key, not both")
    if cert is None:
        if key is not None:
            raise ValueError("a key alone makes no TLS; give the file of its certificate as cert")
        return context
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.load_cert_chain(cert, key)
    return made


def client_context(
    context: ssl.SSLContext | None, ca: str | os.PathLike[str] | None, *, hub_id: str | None
) -> ssl.SSLContext:
    """The context that was given, or one that trusts the PEM file `ca`, or what the system trusts.

    With a `hub_id` and neither of them the certificate is not verified: the hub proves its key over the hash of the
    very certificate that this side sees, so nobody else can stand in between.
    """
    if context is not None and ca is not None:
        raise ValueError("give either an ssl_context or the file ca, not both")
    if context is None:
        context = ssl.create_default_context(cafile=ca)
        if hub_id is not None and ca is None:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
    elif hub_id is None and (context.verify_mode is not ssl.CERT_REQUIRED or not context.check_hostname):
        raise InsecureConnection(
            "the ssl_context does not verify the certificate of the hub, and there is no hub_id: anybody could be the "
            "hub; give the hub_id that `converge hub` prints, or verify the certificate and its host name"
        )
    return context


def own_certificate_hash(context: ssl.SSLContext | None) -> bytes:
    """SHA-256 of the certificate that a server with `context` shows, found by a handshake in memory.

    Python does not tell the certificate of a context. A context that shows several (by server name) cannot be used.
    """
    if context is None:
        return NO_CERTIFICATE
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = ssl.create_default_context()
    asking.check_hostname = False
    asking.verify_mode = ssl.CERT_NONE
    server = context.wrap_bio(to_server, to_client, server_side=True)
    client = asking.wrap_bio(to_client, to_server)
    for _ in range(_HANDSHAKE_STEPS):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:  # a server that wants a certificate of its clients; it has shown its own by then
                break
        shown = _shown(client)
        if shown is not None:
            return hashlib.sha256(shown).digest()
    raise ValueError("the ssl_context shows no certificate; load one with load_cert_chain(), or give cert and key")


def _shown(client: ssl.SSLObject) -> bytes | None:
    try:
        return client.getpeercert(binary_form=True)
    except ValueError:  # the handshake is not over
        return None


def peer_certificate_hash(connection: ssl.SSLObject | None) -> bytes:
    """SHA-256 of the certificate that the server of `connection` has shown; zeros without TLS."""
    if connection is None:
        return NO_CERTIFICATE
    shown = connection.getpeercert(binary_form=True)
    return NO_CERTIFICATE if shown is None else hashlib.sha256(shown).digest()
