"""A salted verifier of a token: enough to check the token, nothing to read it from.

The text form is `scrypt$<n>$<r>$<p>$<salt>$<key>`, salt and key in base64: scrypt (RFC 7914) with n = 2¹⁴, r = 8,
p = 1, which Percival gives for interactive logins ("Stronger key derivation via sequential memory-hard functions",
2009): 16 MiB, and about 50 ms of one core.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from base64 import b64decode, b64encode

__all__ = ["MAX_TOKEN_BYTES", "check_verifier", "make_verifier", "verifies"]

MAX_TOKEN_BYTES = 4096
_N, _R, _P, _SALT_BYTES, _KEY_BYTES = 2**14, 8, 1, 16, 32
_FORM = re.compile(r"scrypt\$([0-9]{1,7})\$([0-9]{1,2})\$([0-9]{1,2})\$([A-Za-z0-9+/=]{16,128})\$([A-Za-z0-9+/=]{44})")
_MAX_MEMORY = 32 * 1024 * 1024


def make_verifier(token: str) -> str:
    """A verifier of `token` under a new salt; `ValueError` when the token is empty, too long or not UTF-8."""
    salt = os.urandom(_SALT_BYTES)
    key = _derive(_bytes(token), salt, _N, _R, _P)
    return f"scrypt${_N}${_R}${_P}${b64encode(salt).decode()}${b64encode(key).decode()}"


def verifies(verifier: str, token: str) -> bool:
    """Whether `token` is the one that `verifier` was made from; the comparison takes the same time for any token."""
    n, r, p, salt, key = _parse(verifier)
    try:
        candidate = _derive(_bytes(token), salt, n, r, p)
    except ValueError:
        return False
    return hmac.compare_digest(candidate, key)


def check_verifier(verifier: str) -> str:
    """`verifier` itself; `ValueError` when it is malformed.

    Its work may be 1 to 16 times that of `make_verifier`, in at most 32 MiB.
    """
    _parse(verifier)
    return verifier


def _parse(verifier: str) -> tuple[int, int, int, bytes, bytes]:
    found = _FORM.fullmatch(verifier)
    if not found:
        raise ValueError("is not of the form scrypt$n$r$p$salt$key; take one that to_options() gave")
    n, r, p = (int(number) for number in found.group(1, 2, 3))
    if n < _N or n & (n - 1) or r < 8 or p < 1 or 128 * n * r > _MAX_MEMORY or n * r * p > 16 * _N * _R:
        raise ValueError(f"has the cost n={n}, r={r}, p={p}; from n=16384, r=8, p=1 up to 32 MiB is accepted")
    try:
        return n, r, p, b64decode(found[4], validate=True), b64decode(found[5], validate=True)
    except ValueError:
        raise ValueError("has a salt or key that is not base64; take one that to_options() gave") from None


def _derive(token: bytes, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(token, salt=salt, n=n, r=r, p=p, maxmem=2 * _MAX_MEMORY, dklen=_KEY_BYTES)


def _bytes(token: str) -> bytes:
    try:
        raw = token.encode()
    except UnicodeEncodeError:
        raise ValueError("has a lone surrogate, so it cannot be encoded as UTF-8") from None
    if not 0 < len(raw) <= MAX_TOKEN_BYTES:
        raise ValueError(f"has {len(raw)} bytes; a token has 1 to {MAX_TOKEN_BYTES}")
    return raw
