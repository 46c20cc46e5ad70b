"""Authenticated encryption with a shared key, and where such keys come from.

AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce: use one key for at most 2**32 encryptions (section 8.3).
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING

from converge.core.errors import DecryptionError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["KEY_BYTES", "decrypt", "derive_key", "encrypt", "secure_random_bytes"]

KEY_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16


def encrypt(plaintext: bytes, key: bytes, associated_data: bytes | None = None) -> bytes:
    """`plaintext` sealed as nonce (12 bytes) || ciphertext || tag (16 bytes).

    `associated_data` is authenticated with it but not carried: whoever decrypts has to give the same bytes.
    Raises `ValueError` unless `key` has 32 bytes, `TypeError` unless all are bytes.
    """
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + _cipher(key).encrypt(nonce, plaintext, associated_data)


def decrypt(ciphertext: bytes, key: bytes, associated_data: bytes | None = None) -> bytes:
    """The plaintext of what `encrypt` returned.

    Raises `DecryptionError` (a ValueError) when the key or the associated data are others or a byte was changed.
    """
    cipher = _cipher(key)
    if len(ciphertext) < _NONCE_BYTES + _TAG_BYTES:
        raise DecryptionError(
            f"a ciphertext has at least {_NONCE_BYTES + _TAG_BYTES} bytes (nonce and tag); this has {len(ciphertext)}"
        )
    from cryptography.exceptions import InvalidTag  # as in `_cipher`

    try:
        return cipher.decrypt(ciphertext[:_NONCE_BYTES], ciphertext[_NONCE_BYTES:], associated_data)
    except InvalidTag:
        raise DecryptionError(
            "the ciphertext does not open: the key or the associated data are not those it was sealed with, "
            "or it was changed on the way"
        ) from None


def derive_key(password: str, salt: bytes, length: int = 32, iterations: int = 100_000) -> bytes:
    """A key of `length` bytes from a password: PBKDF2-HMAC-SHA256 (RFC 8018 section 5.2).

    Use a random salt of 16 bytes or more for each password and keep it beside the ciphertext. OWASP's Password
    Storage Cheat Sheet asks for 600,000 iterations where people choose the passwords; the default is lower because
    it is part of the interface. Raises `ValueError` for an empty salt, or a length or iterations below 1.
    """
    if not isinstance(password, str):
        raise TypeError(f"the password must be a str, not {type(password).__name__}")
    if not salt:
        raise ValueError("the salt cannot be empty; use secure_random_bytes(16) and keep it")
    if length < 1 or iterations < 1:
        raise ValueError(f"length and iterations must be at least 1, not {length} and {iterations}")
    return hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations, length)


def secure_random_bytes(length: int) -> bytes:
    """`length` bytes from the operating system's random generator; `ValueError` below 1."""
    if length < 1:
        raise ValueError(f"length must be at least 1, not {length}")
    return secrets.token_bytes(length)


def _cipher(key: bytes) -> AESGCM:
    if not isinstance(key, bytes):
        raise TypeError(f"the key must be bytes, not {type(key).__name__}; derive_key() makes one from a password")
    if len(key) != KEY_BYTES:
        raise ValueError(f"the key must have {KEY_BYTES} bytes (AES-256), not {len(key)}")
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # costs as much as Ed25519; few need it

    return AESGCM(key)
