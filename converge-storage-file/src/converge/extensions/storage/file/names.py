"""From a key to the place of its file and back.

A record lies in one of 256 sub-folders, the shards, named `00` to `ff` by the first byte of the SHA-256 of its key.
Its name is made of `a-z`, `0-9`, `_`, `-`, `%`, `~` and ends in `.record`: it leaves no folder, and two keys never
share one, also where the file system folds case or normalises Unicode. Every other file of the store starts with a
dot, which no such name does.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha256

__all__ = ["SHARDS", "file_name", "has_digest", "identify", "key_of", "may_start_with", "place_of", "shard_of"]

SHARDS = frozenset(f"{number:02x}" for number in range(256))
"""The names that the sub-folders may have."""

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


def shard_of(key: str) -> str:
    """The name of the sub-folder in which the record of `key` lies."""
    return sha256(key.encode()).hexdigest()[:2]


@lru_cache(maxsize=1024)
def place_of(key: str) -> str:
    """Where the record of `key` lies in the folder of the store: shard, slash, file name."""
    return f"{shard_of(key)}/{file_name(key)}"


def identify(name: str) -> tuple[str, str | None] | None:
    """The shard in which the record of the file name `name` belongs, and its key unless that is a long one.

    None when it is the name of no record.
    """
    if has_digest(name):
        return name.removesuffix(_SUFFIX).rpartition("~")[2][:2], None
    key = key_of(name)
    return None if key is None else (shard_of(key), key)


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
    return name.startswith(_start(prefix))


@lru_cache(maxsize=64)  # a listing asks for each name
def _start(prefix: str) -> str:
    return _escaped(prefix)[:_KEPT]


def _escaped(text: str) -> str:
    raw = text.encode(errors="surrogatepass")  # no key has a lone surrogate, so such a prefix finds none
    return _UNSAFE.sub(lambda found: b"%%%02x" % found[0][0], raw).decode()
