"""A stored row and its checksum."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

from converge.core.errors import StoreCorruption
from converge.core.plain import Plain, unpack
from converge.core.store import DELETED, Deleted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apsw import SQLiteValue

__all__ = ["checksum", "decode", "floor_checksum"]


def checksum(key: bytes, version: int, value: bytes | None) -> int:
    """CRC-32 (zlib) over version, key, and value; a deletion (`None`) differs from every value."""
    head = b"%d\0%d\0%s\0" % (version, value is not None, key)
    return crc32(head) if value is None else crc32(value, crc32(head))


def floor_checksum(floor: int) -> int:
    """CRC-32 (zlib) over the version up to which deletions may be forgotten."""
    return crc32(b"floor %d" % floor)


def decode(place: str, key: str, row: Sequence[SQLiteValue]) -> tuple[Plain | Deleted, int]:
    """What the row (version, crc, value) of `key` holds, `DELETED` for a deletion, and its version.

    `StoreCorruption` when the row does not match its checksum; `place` names the database in it.
    """
    version, crc, value = row
    if not isinstance(version, int) or not isinstance(value, bytes | None):
        raise StoreCorruption(key, place, "a column has the wrong type")
    if checksum(key.encode(), version, value) != crc:
        raise StoreCorruption(key, place, "the checksum does not match")
    if value is None:
        return DELETED, version
    try:
        return unpack(value), version
    except ValueError as error:
        raise StoreCorruption(key, place, str(error)) from error
