from __future__ import annotations

import hashlib

import pytest

from converge.core.merkle import leaf_hash, node_hash, path_sides, root_from_path, tree_with_paths

SIZES = range(1, 34)


def split_point(size: int) -> int:
    """The largest power of two below `size` (RFC 9162 section 2.1.1)."""
    power = 1
    while power * 2 < size:
        power *= 2
    return power


def tree_root(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = split_point(len(leaves))
    return hashlib.sha256(b"\x01" + tree_root(leaves[:k]) + tree_root(leaves[k:])).digest()


def tree_path(index: int, leaves: list[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = split_point(len(leaves))
    if index < k:
        return [*tree_path(index, leaves[:k]), tree_root(leaves[k:])]
    return [*tree_path(index - k, leaves[k:]), tree_root(leaves[:k])]


def leaves_of(size: int) -> list[bytes]:
    return [b"leaf %d" % number for number in range(size)]


def test_the_root_of_one_leaf_is_its_hash() -> None:
    assert leaf_hash(b"") == bytes.fromhex("6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d")
    assert root_from_path(leaf_hash(b"a"), 0, 1, []) == tree_root([b"a"])


def test_a_leaf_cannot_pass_for_a_node() -> None:
    left, right = leaf_hash(b"l"), leaf_hash(b"r")
    assert node_hash(left, right) != leaf_hash(left + right)


@pytest.mark.parametrize("size", SIZES)
def test_every_inclusion_path_leads_to_the_root(size: int) -> None:
    leaves = leaves_of(size)
    for index, leaf in enumerate(leaves):
        path = tree_path(index, leaves)
        assert path_sides(index, size)[1] == len(path)
        assert root_from_path(leaf_hash(leaf), index, size, path) == tree_root(leaves)


@pytest.mark.parametrize("size", SIZES)
def test_a_path_of_another_length_is_refused(size: int) -> None:
    leaves = leaves_of(size)
    for index, leaf in enumerate(leaves):
        path = tree_path(index, leaves)
        with pytest.raises(ValueError, match="too long"):
            root_from_path(leaf_hash(leaf), index, size, [*path, bytes(32)])
        if path:
            with pytest.raises(ValueError, match="too short"):
                root_from_path(leaf_hash(leaf), index, size, path[:-1])


@pytest.mark.parametrize("size", range(2, 18))
def test_a_leaf_at_another_place_leads_to_another_root(size: int) -> None:
    leaves = leaves_of(size)
    for index, leaf in enumerate(leaves):
        path = tree_path(index, leaves)
        for other in range(size):
            if other != index and path_sides(other, size)[1] == len(path):
                assert root_from_path(leaf_hash(leaf), other, size, path) != tree_root(leaves)


def test_an_index_outside_the_tree_is_refused() -> None:
    for index, size in [(1, 1), (-1, 2), (5, 5), (0, 0)]:
        with pytest.raises(ValueError, match="not in a tree"):
            root_from_path(leaf_hash(b"a"), index, size, [])


@pytest.mark.parametrize("size", [*SIZES, 63, 64, 65, 100, 1000])
def test_a_tree_gives_the_root_and_every_path(size: int) -> None:
    leaves = leaves_of(size)
    root, paths = tree_with_paths([leaf_hash(leaf) for leaf in leaves])
    assert root == tree_root(leaves)
    assert paths == [b"".join(tree_path(index, leaves)) for index in range(size)]


def test_there_is_no_tree_without_leaves() -> None:
    with pytest.raises(ValueError, match="at least one"):
        tree_with_paths([])


def rfc_root(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """The algorithm of RFC 9162 section 2.1.3.2, step by step as it stands there."""
    fn, sn, r = index, size - 1, leaf
    for p in path:
        assert sn != 0
        if fn & 1 or fn == sn:
            r = hashlib.sha256(b"\x01" + p + r).digest()
            while not fn & 1 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = hashlib.sha256(b"\x01" + r + p).digest()
        fn, sn = fn >> 1, sn >> 1
    assert sn == 0
    return r


@pytest.mark.parametrize("size", [*SIZES, 255, 256, 257, 65_535, 65_536])
def test_any_path_of_the_right_length_gives_what_the_rfc_computes(size: int) -> None:
    for index in {*range(min(size, 40)), size // 2, size - 2, size - 1} - {-1}:
        path = [bytes([number]) * 32 for number in range(path_sides(index, size)[1])]
        assert root_from_path(b"l" * 32, index, size, path) == rfc_root(b"l" * 32, index, size, path)
