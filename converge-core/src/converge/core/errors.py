"""The errors of `converge.core`; every layer above derives its own from `ConvergeError`."""

from __future__ import annotations

__all__ = [
    "ConvergeError",
    "CursorExpired",
    "DecryptionError",
    "IdentityError",
    "MessageDecodeError",
    "SigningError",
    "StoreCorruption",
    "StoreError",
    "ToolFailed",
    "ToolNotImportable",
    "ToolParameterError",
    "VersionConflict",
]


class ConvergeError(Exception):
    """Base of every error that Converge raises on purpose."""


class IdentityError(ConvergeError, ValueError):
    """A key, a fingerprint or a key file is not what it has to be."""


class SigningError(ConvergeError, ValueError):
    """A message cannot be signed: the identity has no private key, or the sender is somebody else."""


class DecryptionError(ConvergeError, ValueError):
    """A ciphertext does not open: wrong key, tampered bytes, or moved to another message."""


class MessageDecodeError(ConvergeError, ValueError):
    """Bytes or a dict that are not a message of wire format version 1."""


class ToolParameterError(ConvergeError, ValueError):
    """The parameters given to a tool do not fit its schema; the text says where."""


class ToolNotImportable(ConvergeError, ValueError):
    """A tool that is to run in a process of its own cannot be found there by an import name."""


class ToolFailed(ConvergeError, RuntimeError):
    """What a tool raised in another process, as its type and text; or how that process ended."""


class StoreError(ConvergeError):
    """Base of what a store raises about its own state."""


class VersionConflict(StoreError, ValueError):
    """A compare-and-set found another version than expected; nothing was written.

    Attributes: `key`, `expected`, and `actual` (0 when the key is absent, None when the store did not look).
    """

    def __init__(self, key: str, expected: int, actual: int | None) -> None:
        found = "unknown" if actual is None else "absent" if actual == 0 else f"version {actual}"
        wanted = "to be absent" if expected == 0 else f"version {expected}"
        super().__init__(f"{key!r}: expected {wanted}, found {found}; read it again and retry")
        self.key, self.expected, self.actual = key, expected, actual

    def __reduce__(self) -> tuple[type[VersionConflict], tuple[str, int, int | None]]:
        return type(self), (self.key, self.expected, self.actual)


class StoreCorruption(StoreError, ValueError):
    """Stored bytes do not match their checksum or format. Attributes: `key`, `place` (a file or a database)."""

    def __init__(self, key: str, place: str, reason: str) -> None:
        super().__init__(
            f"{place}: the record of {key!r} is corrupt ({reason}); restore it from a backup or put it anew"
        )
        self.key, self.place, self.reason = key, place, reason

    def __reduce__(self) -> tuple[type[StoreCorruption], tuple[str, str, str]]:
        return type(self), (self.key, self.place, self.reason)


class CursorExpired(StoreError, LookupError):
    """A change-feed cursor is older than the deletions the store still remembers: list again, then follow anew."""
