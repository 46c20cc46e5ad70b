"""What stands in a file: a mark of its kind, a CRC-32, and msgpack of plain data."""

from __future__ import annotations

from typing import Any, NamedTuple
from zlib import crc32

import ormsgpack

from converge.core.plain import Plain, pack, unpack

__all__ = ["Record", "decode_record", "encode_record", "seal", "unseal"]

_RECORD = b"cvrecord"
_HEAD = len(_RECORD) + 4


class Record(NamedTuple):
    """A stored value, still packed, with the key that it belongs to and its version."""

    key: str
    version: int
    packed: bytes

    @property
    def value(self) -> Plain:
        """The value; `ValueError` when the bytes are no plain data."""
        value: Plain = unpack(self.packed)
        return value


def seal(kind: bytes, body: Plain) -> bytes:
    """`kind` (8 bytes), the CRC-32 (zlib, big-endian) of what follows, and `body` as msgpack."""
    packed = pack(body)
    return kind + crc32(packed).to_bytes(4, "big") + packed


def unseal(kind: bytes, data: bytes) -> Any:  # noqa: ANN401  # the shape is the writer's
    """The body in `data`; `ValueError` that says what is wrong when it is not whole or of another kind."""
    if len(data) < _HEAD:
        raise ValueError(f"it ends after {len(data)} bytes")
    if not data.startswith(kind):
        raise ValueError(f"it does not begin with {kind.decode()!r}")
    packed = data[_HEAD:]
    if crc32(packed) != int.from_bytes(data[len(kind) : _HEAD], "big"):
        raise ValueError("the checksum does not match")
    return unpack(packed)


def encode_record(key: str, version: int, packed: bytes) -> bytes:
    """The content of the file of `key`; the value, packed already, is a byte string in it."""
    body = ormsgpack.packb([key, version, packed])  # what seal does, without a look at each byte of a value packed
    return _RECORD + crc32(body).to_bytes(4, "big") + body


def decode_record(data: bytes) -> Record:
    """The record in `data`; `ValueError` that says what is wrong with it."""
    match unseal(_RECORD, data):
        case [str(key), int(version), bytes(packed)]:
            return Record(key, version, packed)
    raise ValueError("it holds something else than a key, a version and a value")
