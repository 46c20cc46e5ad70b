"""Ed25519 by `cryptography`, that is OpenSSL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from converge.core.ed25519_key import PrivateKey

if TYPE_CHECKING:
    from converge.core.ed25519_key import Verifier

__all__ = ["NAME", "private_key", "verifier"]

NAME = "cryptography"


def private_key(seed: bytes) -> PrivateKey:
    """The private key of a seed of 32 bytes."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    return PrivateKey(key.public_key().public_bytes_raw(), key.sign, key.private_bytes_raw)


def verifier(public_key: bytes) -> Verifier:
    """What verifies for a public key of 32 bytes."""
    verify = Ed25519PublicKey.from_public_bytes(public_key).verify

    def is_good(signature: bytes, data: bytes) -> bool:
        try:
            verify(signature, data)
        except InvalidSignature:
            return False
        return True

    return is_good
