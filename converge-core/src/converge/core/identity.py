"""Who an agent is: an Ed25519 key pair whose public half names it."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Self

from converge.core.ed25519 import KEY_BYTES, check_public_key, fingerprint_of, load_private_key
from converge.core.errors import IdentityError, SigningError
from converge.core.key_file import read_key_file, write_key_file

if TYPE_CHECKING:
    import os

    from converge.core.ed25519_key import PrivateKey

__all__ = ["Identity"]


class Identity:
    """An Ed25519 key pair (RFC 8032), or the public half of one; immutable.

    `public_key` and `private_key` are 32 raw bytes, `fingerprint` is the hex SHA-256 of the public key and the id of
    the agent. The private key never shows in `repr`, an error or a copy by `attrs.asdict`, and an identity is not
    pickled. Two identities are equal when their public keys are and both or neither can sign.

    Raises `IdentityError` when a key is malformed or unsafe, or when the three do not belong together.
    """

    __slots__ = ("__weakref__", "_fingerprint", "_public_key", "_signer")

    # The key object, not the raw private key, is what is kept: making it for each signature halves the rate, and a
    # tool that prints all attributes of an object finds no secret bytes.
    _public_key: bytes
    _fingerprint: str
    _signer: PrivateKey | None

    def __init__(self, public_key: bytes, private_key: bytes | None = None, fingerprint: str | None = None) -> None:
        check_public_key(public_key)
        signer = None if private_key is None else load_private_key(private_key)
        if signer is not None and signer.public_key != public_key:
            raise IdentityError("the private key does not belong to the public key")
        actual = fingerprint_of(public_key)
        if fingerprint is not None and fingerprint != actual:
            raise IdentityError(f"the fingerprint of this public key is {actual}, not {fingerprint!r}")
        object.__setattr__(self, "_public_key", bytes(public_key))
        object.__setattr__(self, "_fingerprint", actual)
        object.__setattr__(self, "_signer", signer)

    @classmethod
    def generate(cls) -> Self:
        """A new identity from the operating system's random generator."""
        return cls._from_seed(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def from_public_key(cls, public_key: bytes) -> Self:
        """An identity that can verify but not sign."""
        return cls(public_key)

    @classmethod
    def load(cls, path: str | os.PathLike[str], password: str | bytes | None = None) -> Self:
        """The identity in a PEM file that `save` wrote, or any other PKCS #8 file with an Ed25519 key.

        Raises `IdentityError` naming the file when group or others have any permission on it, when the password is
        wrong, missing or needless, or when it holds no Ed25519 private key; `OSError` when it cannot be opened.
        """
        from converge.core.pem import parse  # only who reads or writes a file pays for its format

        file = Path(path)
        return cls._from_seed(parse(read_key_file(file), password, file))

    def save(self, path: str | os.PathLike[str], password: str | bytes | None = None) -> None:
        """Write the private key to a new PEM file (PKCS #8, RFC 5958) with mode 0600, encrypted if a password is given.

        The file is whole or absent, whatever happens meanwhile. Raises `FileExistsError` when `path` exists, since a
        key is never overwritten, and `IdentityError` when there is no private key or the password is empty.
        """
        from converge.core.pem import serialise

        if self._signer is None:
            raise IdentityError(f"{self!r} has no private key to save; keep its public_key bytes instead")
        write_key_file(Path(path), serialise(self._signer.seed(), password))

    @property
    def public_key(self) -> bytes:
        """The raw public key, 32 bytes."""
        return self._public_key

    @property
    def private_key(self) -> bytes | None:
        """The raw private key (the seed), 32 bytes, or None. Whoever has these bytes is this agent."""
        return None if self._signer is None else self._signer.seed()

    @property
    def fingerprint(self) -> str:
        """The id of the agent: SHA-256 of the public key, 64 hex digits."""
        return self._fingerprint

    def sign(self, data: bytes) -> bytes:
        """The bare Ed25519 signature over `data`, 64 bytes.

        Raises `SigningError` when there is no private key, `TypeError` for what is no bytes.
        Safe between threads.
        Begin `data` with a prefix that names the purpose, so that no signature can be used for another one.
        """
        if self._signer is None:
            raise SigningError(f"{self!r} holds only a public key and cannot sign; load the identity from its key file")
        if not isinstance(data, bytes):
            raise TypeError(f"only bytes can be signed, not {type(data).__name__}; encode it first")
        return self._signer.sign(data)

    def evolve(self, *, public_key: bytes | None = None, **changes: bytes | str | None) -> Self:
        """A copy with `public_key`, `private_key` or `fingerprint` changed, checked like a new one.

        Another public key drops the private key unless that is given too; `private_key=None` drops it in any case.
        """
        fields: dict[str, bytes | str | None] = {"private_key": self.private_key if public_key is None else None}
        return type(self)(self._public_key if public_key is None else public_key, **(fields | changes))  # type: ignore[arg-type]  # the constructor checks them

    @classmethod
    def _from_seed(cls, seed: bytes) -> Self:
        return cls(load_private_key(seed).public_key, seed)

    def __repr__(self) -> str:
        return f"Identity({self._fingerprint}, {'public key only' if self._signer is None else 'private key hidden'})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Identity):
            return NotImplemented
        return self._public_key == other._public_key and (self._signer is None) == (other._signer is None)

    def __hash__(self) -> int:
        return hash((self._public_key, self._signer is None))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"an Identity is immutable: {name} cannot be set; evolve() makes a changed copy")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"an Identity is immutable: {name} cannot be deleted")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            "an Identity is never pickled, so that no private key leaks; save() it and load() it in the other process, "
            "or pass the public_key bytes"
        )

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        self.__getstate__()
