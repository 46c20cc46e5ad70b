"""Encryption with shared keys for applications: AES-256-GCM, keys from passwords, random bytes.

The functions live in `converge.core.aead`, because encrypted payloads need them there.
"""

from __future__ import annotations

from converge.core.aead import decrypt, derive_key, encrypt, secure_random_bytes

__all__ = ["decrypt", "derive_key", "encrypt", "secure_random_bytes"]
