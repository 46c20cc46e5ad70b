"""Merkle tree hashes with SHA-256, as RFC 9162 section 2.1 defines them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["HASH_BYTES", "leaf_hash", "node_hash", "path_length", "root_from_path"]

HASH_BYTES = 32


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf: SHA-256(0x00 || data). It is the root of a tree of one (RFC 9162 section 2.1.1)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node: SHA-256(0x01 || left || right) (RFC 9162 section 2.1.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def path_length(index: int, size: int) -> int:
    """How many hashes the inclusion path of leaf `index` in a tree of `size` leaves has."""
    position, last, length = index, size - 1, 0
    while last:
        length += bool(position & 1 or position < last)  # the last node of an odd level has no sibling
        position, last = position >> 1, last >> 1
    return length


def root_from_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root of the tree of `size` leaves in which `leaf` (a leaf hash) stands at `index`, from its inclusion path.

    The path lists the siblings from the leaf upwards (RFC 9162 section 2.1.3.2). Raises `ValueError` when index,
    size and path do not fit each other; whether the root is the right one is for the caller to compare.
    """
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    position, last, root = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise ValueError(f"the inclusion path is too long for leaf {index} of {size}")
        if position & 1 or position == last:
            root = node_hash(sibling, root)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            root = node_hash(root, sibling)
        position, last = position >> 1, last >> 1
    if last:
        raise ValueError(f"the inclusion path is too short for leaf {index} of {size}")
    return root
