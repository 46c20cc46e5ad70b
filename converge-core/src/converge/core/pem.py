"""Private keys as PEM text (PKCS #8, RFC 5958)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from converge.core.errors import IdentityError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["parse", "serialise"]


def serialise(seed: bytes, password: str | bytes | None) -> bytes:
    """The raw private key as PEM, encrypted when there is a password; `IdentityError` for an empty one."""
    encryption = NoEncryption() if password is None else _encryption(password)
    return Ed25519PrivateKey.from_private_bytes(seed).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def _encryption(password: str | bytes) -> KeySerializationEncryption:
    if not password:
        raise IdentityError("the password is empty; give one, or None to store the key unencrypted")
    return BestAvailableEncryption(_encoded(password))


def _encoded(password: str | bytes) -> bytes:
    return password.encode() if isinstance(password, str) else password


def parse(pem: bytes, password: str | bytes | None, path: Path) -> bytes:
    """The raw private key in `pem`; `IdentityError` naming `path` when there is none or the password is not right."""
    encrypted = b"ENCRYPTED" in pem
    if encrypted and not password:
        raise IdentityError(f"{path} is encrypted; give its password")
    if password is not None and not encrypted:
        raise IdentityError(f"{path} is not encrypted; leave the password out")
    try:
        key = load_pem_private_key(pem, _encoded(password) if password else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        reason = "the password is wrong or the file is damaged" if encrypted else f"it is no PEM private key ({error})"
        raise IdentityError(f"{path} cannot be read: {reason}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise IdentityError(f"{path} holds another kind of key ({type(key).__name__}); an identity needs Ed25519")
    return key.private_bytes_raw()
