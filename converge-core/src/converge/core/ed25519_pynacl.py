"""Ed25519 by PyNaCl, that is libsodium: twice as fast at verifying as OpenSSL. Needs `converge-core[fast]`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from converge.core.ed25519_key import PrivateKey

if TYPE_CHECKING:
    from converge.core.ed25519_key import Verifier

__all__ = ["NAME", "private_key", "verifier"]

NAME = "pynacl"
_SIGNATURE_BYTES, _SEED_BYTES = 64, 32


def private_key(seed: bytes) -> PrivateKey:
    """The private key of a seed of 32 bytes."""
    from nacl.bindings import crypto_sign, crypto_sign_seed_keypair  # this module can be imported without it

    public_key, secret = crypto_sign_seed_keypair(seed)

    def sign(data: bytes) -> bytes:
        return crypto_sign(data, secret)[:_SIGNATURE_BYTES]

    return PrivateKey(public_key, sign, lambda: secret[:_SEED_BYTES])


def verifier(public_key: bytes) -> Verifier:
    """What verifies for a public key of 32 bytes."""
    from nacl.bindings import crypto_sign_open
    from nacl.exceptions import BadSignatureError

    def is_good(signature: bytes, data: bytes) -> bool:
        try:
            crypto_sign_open(signature + data, public_key)
        except BadSignatureError:
            return False
        return True

    return is_good
