r"""The handshake: each side proves its key over the other's fresh nonce, bound to the transport and to the certificate.

    hub     challenge = 1, version, hub key (32), hub nonce (32)
    client  hello     = 2, version, client key (32), client nonce (32), signature (64)
    hub     welcome   = 3, terms (12), signature (64)

The client signs `converge/hello/v1\0`, hub nonce, client nonce, hub id, transport, certificate hash. The hub signs the
mirror image: `converge/welcome/v1\0`, client nonce, hub nonce, client id, transport, certificate hash, and the terms.
The certificate hash is the SHA-256 of the hub's DER certificate, 32 zero bytes without TLS: a man in the middle who
shows another certificate cannot pass the signatures on. Pure functions of bytes; nothing here does I/O.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from converge.core.ed25519 import KEY_BYTES, SIGNATURE_BYTES, check_public_key, fingerprint_of, verify
from converge.core.errors import IdentityError
from converge.core.limits import MAX_FRAME_BYTES
from converge.network.transport.websocket.errors import CloseCode, ProtocolViolation
from converge.network.transport.websocket.packets import Kind

if TYPE_CHECKING:
    from converge.core.identity import Identity

__all__ = ["NO_CERTIFICATE", "TRANSPORT", "VERSION", "ClientHandshake", "HubHandshake", "Terms"]

VERSION: Final = 1
"""The version of this protocol."""

TRANSPORT: Final = b"websocket"
"""The transport as both sides sign it."""

NO_CERTIFICATE: Final = bytes(32)
"""In the place of the certificate's hash when there is no TLS."""

_HELLO = b"converge/hello/v1\0"
_WELCOME = b"converge/welcome/v1\0"
_NONCE_BYTES = 32
_TERMS = struct.Struct(">III")
_CHALLENGE_LENGTH = 2 + KEY_BYTES + _NONCE_BYTES
_HELLO_LENGTH = 2 + KEY_BYTES + _NONCE_BYTES + SIGNATURE_BYTES
_WELCOME_LENGTH = 1 + _TERMS.size + SIGNATURE_BYTES


class Terms(NamedTuple):
    """What the hub takes: the size of a message, and how many messages and bytes may be unconfirmed."""

    max_message_bytes: int
    window_messages: int
    window_bytes: int


class HubHandshake:
    """The hub's side of one connection. After `receive` has returned, `client_id` is who is there."""

    def __init__(self, identity: Identity, certificate_hash: bytes, terms: Terms) -> None:
        self._identity, self._certificate_hash = identity, certificate_hash
        self._terms = _TERMS.pack(*terms)
        self._nonce = os.urandom(_NONCE_BYTES)
        self._received = False
        self.client_key = b""
        self.client_id = ""

    def challenge(self) -> bytes:
        """The first packet, from the hub."""
        return bytes([Kind.CHALLENGE, VERSION]) + self._identity.public_key + self._nonce

    def receive(self, packet: bytes) -> bytes:
        """The welcome, after the hello in `packet` has been checked; `ProtocolViolation` when it proves nothing."""
        if self._received:
            raise _violation("a second hello")
        self._received = True
        _check_start(packet, Kind.HELLO, _HELLO_LENGTH, "hello")
        client_key = packet[2 : 2 + KEY_BYTES]
        _check_version(packet)
        nonce = packet[2 + KEY_BYTES : 2 + KEY_BYTES + _NONCE_BYTES]
        signed = _signed(_HELLO, self._nonce, nonce, self._identity.public_key, self._certificate_hash)
        _check_signature(client_key, packet[-SIGNATURE_BYTES:], signed, "hello")
        self.client_key, self.client_id = client_key, fingerprint_of(client_key)
        proof = _signed(_WELCOME, nonce, self._nonce, client_key, self._certificate_hash) + self._terms
        return bytes([Kind.WELCOME]) + self._terms + self._identity.sign(proof)


class ClientHandshake:
    """The client's side of one connection. After `finish`, `hub_id` is who is there and `terms` what it takes.

    `hub_id` is the id the hub must have; None takes any, which proves nothing about who it is.
    """

    def __init__(self, identity: Identity, certificate_hash: bytes, hub_id: str | None) -> None:
        self._identity, self._certificate_hash, self._expected = identity, certificate_hash, hub_id
        self._nonce = os.urandom(_NONCE_BYTES)
        self._hub_key = self._hub_nonce = b""
        self.hub_id = ""
        self.terms = Terms(0, 0, 0)

    def hello(self, packet: bytes) -> bytes:
        """The hello that answers the challenge in `packet`; `ProtocolViolation` when the hub is another one."""
        _check_start(packet, Kind.CHALLENGE, _CHALLENGE_LENGTH, "challenge")
        _check_version(packet)
        self._hub_key, self._hub_nonce = packet[2 : 2 + KEY_BYTES], packet[2 + KEY_BYTES :]
        try:
            check_public_key(self._hub_key)
        except IdentityError as error:
            raise _violation(f"the key of the hub: {error}") from None
        hub_id = fingerprint_of(self._hub_key)
        if self._expected is not None and hub_id != self._expected:
            raise _violation(f"the hub has the id {hub_id}, and the one wanted is {self._expected}")
        self.hub_id = hub_id
        signed = _signed(_HELLO, self._hub_nonce, self._nonce, self._hub_key, self._certificate_hash)
        start = bytes([Kind.HELLO, VERSION]) + self._identity.public_key + self._nonce
        return start + self._identity.sign(signed)

    def finish(self, packet: bytes) -> None:
        """Check the welcome in `packet`; `ProtocolViolation` when the hub has not proved its key."""
        _check_start(packet, Kind.WELCOME, _WELCOME_LENGTH, "welcome")
        terms = packet[1 : 1 + _TERMS.size]
        signed = _signed(_WELCOME, self._nonce, self._hub_nonce, self._identity.public_key, self._certificate_hash)
        _check_signature(self._hub_key, packet[-SIGNATURE_BYTES:], signed + terms, "welcome")
        self.terms = Terms(*_TERMS.unpack(terms))
        if not 1 <= self.terms.max_message_bytes <= MAX_FRAME_BYTES or 0 in self.terms:
            raise _violation(f"the hub has {self.terms}, which none may have")


def _signed(purpose: bytes, theirs: bytes, mine: bytes, other_key: bytes, certificate_hash: bytes) -> bytes:
    """What is signed: every part but the purpose has a fixed length, so no two meanings have the same bytes."""
    return purpose + theirs + mine + bytes.fromhex(fingerprint_of(other_key)) + TRANSPORT + certificate_hash


def _check_start(packet: bytes, kind: Kind, length: int, name: str) -> None:
    if len(packet) != length:
        raise _violation(f"a {name} has {length} bytes; {len(packet)} came")
    if packet[0] != kind:
        raise _violation(f"a packet of kind {packet[0]} came in the place of a {name}")


def _check_version(packet: bytes) -> None:
    if packet[1] != VERSION:
        raise _violation(f"this is version {VERSION} of the protocol, and the other side speaks {packet[1]}")


def _check_signature(key: bytes, signature: bytes, signed: bytes, name: str) -> None:
    if not verify(key, signature, signed):
        raise _violation(
            f"the signature of the {name} is not good: another key, another challenge, or another certificate "
            "than the one that the other side sees"
        )


def _violation(reason: str) -> ProtocolViolation:
    return ProtocolViolation(CloseCode.UNAUTHENTICATED, reason)
