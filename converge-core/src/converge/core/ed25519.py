"""Ed25519 (RFC 8032) with strict public keys and cached key objects.

The arithmetic is PyNaCl's when that is installed (`converge-core[fast]`), else that of `cryptography`; `BACKEND` tells
which. Both refuse malleable signatures (S >= L) and compare R by its bytes, without the cofactor. Where they differ,
or take what more than the owner of one private key could have signed, this module refuses for both:

- public keys with y >= p, which RFC 8032 section 5.1.3 refuses too, and which would give one key two fingerprints;
- public keys of small order, under which one signature fits many messages;
- signatures whose R is of small order, which nobody makes who signs as RFC 8032 says.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

from converge.core.errors import IdentityError

try:
    import nacl.bindings  # noqa: F401  # whether it is there and can be loaded
except ImportError:
    from converge.core import ed25519_cryptography as _backend
else:
    from converge.core import ed25519_pynacl as _backend  # type: ignore[no-redef]  # one of the two

if TYPE_CHECKING:
    from converge.core.ed25519_key import PrivateKey, Verifier

__all__ = [
    "BACKEND",
    "KEY_BYTES",
    "SIGNATURE_BYTES",
    "SMALL_ORDER_Y",
    "check_public_key",
    "fingerprint_of",
    "load_private_key",
    "load_public_key",
    "verify",
]

BACKEND: str = _backend.NAME
"""Whose arithmetic is used: `pynacl` or `cryptography`."""

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
def load_public_key(public_key: bytes) -> Verifier:
    """What verifies for a checked public key, remembered for the 4,096 keys used last; `IdentityError` if refused."""
    check_public_key(public_key)
    return _backend.verifier(public_key)


def load_private_key(private_key: bytes) -> PrivateKey:
    """The key object of a raw private key (the 32-byte seed of RFC 8032); `IdentityError` for anything else."""
    if not isinstance(private_key, bytes):
        raise IdentityError(f"a private key is {KEY_BYTES} raw bytes, not {type(private_key).__name__}")
    if len(private_key) != KEY_BYTES:
        raise IdentityError(f"a private key has {KEY_BYTES} raw bytes; this one has {len(private_key)}")
    return _backend.private_key(private_key)


@lru_cache(maxsize=4096)
def fingerprint_of(public_key: bytes) -> str:
    """The agent id that belongs to `public_key`: its SHA-256 as 64 lower-case hex digits."""
    return hashlib.sha256(public_key).hexdigest()


def verify(public_key: bytes, signature: bytes, data: bytes) -> bool:
    """Whether `signature` is one that the owner of `public_key` made over `data`; a refused key has made none.

    Raises `TypeError` unless signature and data are bytes. Safe between threads.
    """
    for given in (signature, data):
        if not isinstance(given, bytes):
            raise TypeError(f"a signature and what it is over are bytes, not {type(given).__name__}")
    if len(signature) != SIGNATURE_BYTES or int.from_bytes(signature[:32], "little") & _Y_BITS in SMALL_ORDER_Y:
        return False
    try:
        is_good = load_public_key(public_key)
    except IdentityError:
        return False
    return is_good(signature, data)
