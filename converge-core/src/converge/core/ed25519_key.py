"""What a backend of Ed25519 makes of keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

__all__ = ["PrivateKey", "Verifier"]

Verifier: TypeAlias = Callable[[bytes, bytes], bool]
"""Whether a signature of 64 bytes is one over some data, for one public key. Safe between threads."""


class PrivateKey:
    """A private key, ready to sign. No attribute of it is the secret bytes, so nothing that prints objects shows them.

    `public_key` is 32 raw bytes. `sign` and `seed` are functions: the signature over bytes, and the private key of
    RFC 8032. Safe between threads.
    """

    __slots__ = ("public_key", "seed", "sign")

    def __init__(self, public_key: bytes, sign: Callable[[bytes], bytes], seed: Callable[[], bytes]) -> None:
        self.public_key, self.sign, self.seed = public_key, sign, seed

    def __repr__(self) -> str:
        return f"PrivateKey of {self.public_key.hex()}"
