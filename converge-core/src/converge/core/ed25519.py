"""Ed25519 (RFC 8032) with strict public keys and cached key objects.

OpenSSL takes any 32 bytes as a public key. Two kinds of them are refused here, because more than the owner of one
private key could sign under them: encodings with y >= p (RFC 8032 section 5.1.3 refuses them, and they would give
one key two fingerprints), and points of small order, under which one signature fits many messages.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from converge.core.errors import IdentityError

__all__ = [
    "KEY_BYTES",
    "SIGNATURE_BYTES",
    "SMALL_ORDER_Y",
    "check_public_key",
    "fingerprint_of",
    "load_private_key",
    "load_public_key",
    "verify",
]

KEY_BYTES = 32
SIGNATURE_BYTES = 64

_P = 2**255 - 19
_Y_BITS = 2**255 - 1
_ORDER_8_Y = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826

SMALL_ORDER_Y = frozenset({0, 1, _P - 1, _ORDER_8_Y, _P - _ORDER_8_Y})
"""The y coordinates of the eight points whose order divides 8 (the sign of x does not matter)."""


def check_public_key(public_key: bytes) -> None:
    """Raise `IdentityError` unless `public_key` is 32 bytes that only the owner of one private key can sign under."""
    if not isinstance(public_key, bytes):
        raise IdentityError(f"a public key is {KEY_BYTES} raw bytes, not {type(public_key).__name__}")
    if len(public_key) != KEY_BYTES:
        raise IdentityError(f"a public key has {KEY_BYTES} raw bytes; this one has {len(public_key)}")
    y = int.from_bytes(public_key, "little") & _Y_BITS
    if y >= _P:
        raise IdentityError(f"{public_key.hex()} is not a canonical Ed25519 public key (y >= p); it cannot be used")
    if y in SMALL_ORDER_Y:
        raise IdentityError(
            f"{public_key.hex()} is a point of small order, which anybody can sign for; it cannot be used"
        )


@lru_cache(maxsize=4096)
def load_public_key(public_key: bytes) -> Ed25519PublicKey:
    """The key object of a checked public key, remembered for the 4,096 keys used last; `IdentityError` if refused."""
    check_public_key(public_key)
    return Ed25519PublicKey.from_public_bytes(public_key)


def load_private_key(private_key: bytes) -> Ed25519PrivateKey:
    """The key object of a raw private key (the 32-byte seed of RFC 8032); `IdentityError` for anything else."""
    if not isinstance(private_key, bytes):
        raise IdentityError(f"a private key is {KEY_BYTES} raw bytes, not {type(private_key).__name__}")
    if len(private_key) != KEY_BYTES:
        raise IdentityError(f"a private key has {KEY_BYTES} raw bytes; this one has {len(private_key)}")
    return Ed25519PrivateKey.from_private_bytes(private_key)


def fingerprint_of(public_key: bytes) -> str:
    """The agent id that belongs to `public_key`: its SHA-256 as 64 lower-case hex digits."""
    return hashlib.sha256(public_key).hexdigest()


def verify(public_key: bytes, signature: bytes, data: bytes) -> bool:
    """Whether `signature` is one that the owner of `public_key` made over `data`; a refused key has made none."""
    try:
        load_public_key(public_key).verify(signature, data)
    except (InvalidSignature, IdentityError):
        return False
    return True
