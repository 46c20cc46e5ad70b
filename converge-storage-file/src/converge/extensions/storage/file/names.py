"""From a key to a file name and back.

A name is made of `a-z`, `0-9`, `_`, `-`, `%`, `~` and ends in `.record`: it leaves no folder, and two keys never
share one, also where the file system folds case or normalises Unicode. Every other file of the store starts with a
dot, which no such name does.
"""

from __future__ import annotations

import re
from hashlib import sha256

__all__ = ["file_name", "has_digest", "key_of", "may_start_with"]

_SUFFIX = ".record"
_LONGEST = 200  # of the part before the suffix; file systems take names of 255 bytes
_KEPT = _LONGEST - 65  # what a digest of 64 digits and its mark leave
_UNSAFE = re.compile(rb"[^a-z0-9_-]")
_ESCAPE = re.compile(rb"%([0-9a-f]{2})")
_DIGEST = re.compile(rf"[a-z0-9_%-]{{{_KEPT}}}~[0-9a-f]{{64}}")


def file_name(key: str) -> str:
    """The name of the file of `key`; that of a long key has only the start of it, and a digest of the whole."""
    stem = _escaped(key)
    if len(stem) > _LONGEST:
        stem = f"{stem[:_KEPT]}~{sha256(key.encode()).hexdigest()}"
    return stem + _SUFFIX


def has_digest(name: str) -> bool:
    """Whether `name` is that of a long key, which has to be read in the file."""
    return name.endswith(_SUFFIX) and _DIGEST.fullmatch(name.removesuffix(_SUFFIX)) is not None


def key_of(name: str) -> str | None:
    """The key that `name` tells; None when it tells none: the file is foreign, or that of a long key."""
    if not name.endswith(_SUFFIX) or not name.isascii():
        return None
    stem = name.removesuffix(_SUFFIX).encode()
    try:
        key = _ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), stem).decode()
    except UnicodeDecodeError:
        return None
    return key if key and file_name(key) == name else None


def may_start_with(prefix: str, name: str) -> bool:
    """False when the key of `name` certainly does not start with `prefix`."""
    return name.startswith(_escaped(prefix)[:_KEPT])


def _escaped(text: str) -> str:
    raw = text.encode(errors="surrogatepass")  # no key has a lone surrogate, so such a prefix finds none
    return _UNSAFE.sub(lambda found: b"%%%02x" % found[0][0], raw).decode()
