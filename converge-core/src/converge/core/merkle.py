"""Merkle tree hashes with SHA-256, as RFC 9162 section 2.1 defines them."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["HASH_BYTES", "leaf_hash", "node_hash", "path_sides", "root_from_path", "tree_with_paths"]

HASH_BYTES = 32


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf: SHA-256(0x00 || data). It is the root of a tree of one (RFC 9162 section 2.1.1)."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node: SHA-256(0x01 || left || right) (RFC 9162 section 2.1.1)."""
    return sha256(b"\x01" + left + right).digest()


def tree_with_paths(leaves: Sequence[bytes]) -> tuple[bytes, list[bytes]]:
    """The root of the tree over `leaves` (leaf hashes), and for each of them its inclusion path as joined hashes.

    One hash per inner node, n - 1 in all. Raises `ValueError` when there are no leaves.
    """
    if not leaves:
        raise ValueError("a tree has at least one leaf")
    levels = [list(leaves)]
    while len(levels[-1]) > 1:
        below = levels[-1]
        above = [sha256(b"\x01" + below[at] + below[at + 1]).digest() for at in range(0, len(below) - 1, 2)]
        levels.append(above if len(below) % 2 == 0 else [*above, below[-1]])  # the last one of an odd level moves up
    root = levels.pop()[0]
    paths = [b""]
    for level in reversed(levels):
        last_moves_up = len(level) % 2
        paths = [level[at ^ 1] + paths[at >> 1] for at in range(len(level) - last_moves_up)] + paths[
            -1:
        ] * last_moves_up
    return root, paths


def path_sides(index: int, size: int) -> tuple[int, int]:
    """On which sides the hashes of the inclusion path of leaf `index` in a tree of `size` leaves stand, and how many.

    The sides are bits, the lowest for the sibling of the leaf: 1 when it stands to the left. The results are those of
    RFC 9162 section 2.1.3.2: up to the level where the leaf's ancestor is the last node, each level has a sibling, on
    the side that the bit of the index says; above it, one for each bit that is set, to the left.
    """
    inner = (index ^ (size - 1)).bit_length()
    border = (index >> inner).bit_count()
    return index & ((1 << inner) - 1) | ((1 << border) - 1) << inner, inner + border


def root_from_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root of the tree of `size` leaves in which `leaf` (a leaf hash) stands at `index`, from its inclusion path.

    The path lists the siblings from the leaf upwards. Raises `ValueError` when index, size and path do not fit each
    other; whether the root is the right one is for the caller to compare.
    """
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    sides, length = path_sides(index, size)
    if len(path) != length:
        what = "long" if len(path) > length else "short"
        raise ValueError(f"the inclusion path is too {what} for leaf {index} of {size}")
    root = leaf
    for sibling in path:
        root = node_hash(sibling, root) if sides & 1 else node_hash(root, sibling)
        sides >>= 1
    return root
