from __future__ import annotations

import random
import threading

import pytest

from converge.core.merkle import leaf_hash, path_sides, root_from_path, tree_with_paths
from converge.core.verified_trees import VerifiedTrees

KEY, SIGNATURE = b"k" * 32, b"s" * 64


class Signer:
    """Knows which (key, signature, root) are good, and how often it was asked."""

    def __init__(self, *good: tuple[bytes, bytes, bytes]) -> None:
        self.good, self.asked = set(good), 0

    def __call__(self, key: bytes, signature: bytes, root: bytes) -> bool:
        self.asked += 1
        return (key, signature, root) in self.good


class Tree:
    def __init__(self, size: int, name: bytes = b"leaf") -> None:
        self.size = size
        self.leaves = [leaf_hash(b"%b %d" % (name, number)) for number in range(size)]
        self.root, self.paths = tree_with_paths(self.leaves)

    def ask(self, trees: VerifiedTrees, signer: Signer, index: int) -> bool:
        sides, _ = path_sides(index, self.size)
        return trees.verify(KEY, SIGNATURE, self.leaves[index], sides, self.paths[index], signer)


@pytest.mark.parametrize("size", [*range(1, 20), 63, 64, 65, 100])
def test_one_check_of_a_signature_serves_the_whole_tree_in_any_order(size: int) -> None:
    tree, numbers = Tree(size), random.Random(size)
    for _ in range(3):
        trees, signer = VerifiedTrees(), Signer((KEY, SIGNATURE, tree.root))
        assert all(tree.ask(trees, signer, index) for index in numbers.sample(range(size), size))
        assert signer.asked == 1
        assert len(trees) <= 2 * size


def test_what_failed_is_asked_again_and_leaves_nothing() -> None:
    tree, trees, signer = Tree(8), VerifiedTrees(), Signer()
    for _ in range(3):
        assert not any(tree.ask(trees, signer, index) for index in range(8))
    assert (signer.asked, len(trees)) == (24, 0)
    signer.good.add((KEY, SIGNATURE, tree.root))
    assert tree.ask(trees, signer, 3)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 8, 11, 16])
def test_memory_never_changes_an_answer(size: int) -> None:
    """Whatever is altered after good messages were seen gets the answer of a verifier that has seen nothing."""
    tree, numbers = Tree(size), random.Random(size)
    good = (KEY, SIGNATURE, tree.root)
    trees, signer = VerifiedTrees(), Signer(good)
    assert all(tree.ask(trees, signer, index) for index in range(size))
    accepted = 0
    for _ in range(4000):
        index, other, claimed = numbers.randrange(size), numbers.randrange(size), numbers.randrange(1, 2 * size + 1)
        key, signature, leaf, path = KEY, SIGNATURE, tree.leaves[index], bytearray(tree.paths[index])
        sides, _ = path_sides(index, size)
        change = numbers.randrange(9)
        if change == 0:
            key = numbers.randbytes(32)
        elif change == 1:
            signature = numbers.randbytes(64)
        elif change == 2:
            leaf = numbers.choice([numbers.randbytes(32), *tree.leaves, tree.root])
        elif change == 3 and path:
            path[numbers.randrange(len(path))] ^= 1 << numbers.randrange(8)
        elif change == 4:
            path = bytearray(tree.paths[other])
        elif change == 5:
            sides ^= 1 << numbers.randrange(4)
        elif change == 6:
            path = path[: 32 * numbers.randrange(len(path) // 32 + 1)]
        elif change == 7:
            path += numbers.choice([bytes(32), tree.root, leaf])
        elif index < claimed:  # the tree size is not signed
            sides, length = path_sides(index, claimed)
            path = path[: 32 * length]
        fresh = VerifiedTrees().verify(key, signature, leaf, sides, bytes(path), Signer(good))
        assert trees.verify(key, signature, leaf, sides, bytes(path), Signer(good)) is fresh
        accepted += fresh
    assert 0 < accepted < 3900


def test_a_signature_over_another_root_vouches_for_nothing_here() -> None:
    one, other = Tree(4), Tree(4, b"other")
    trees, signer = VerifiedTrees(), Signer((KEY, SIGNATURE, one.root))
    assert all(one.ask(trees, signer, index) for index in range(4))
    assert not any(other.ask(trees, signer, index) for index in range(4))
    sides, _ = path_sides(0, 4)
    for index in range(4):  # foreign leaves under the upper part of a path that is known
        mixed = other.paths[index][:32] + one.paths[index][32:]
        assert not trees.verify(KEY, SIGNATURE, other.leaves[index], sides, mixed, signer)
        assert root_from_path(other.leaves[index], 0, 4, [mixed[:32], mixed[32:]]) != one.root


def test_memory_is_bounded_and_the_oldest_goes_first() -> None:
    trees, signer = VerifiedTrees(capacity=64), Signer()
    forest = [Tree(4, b"tree %d" % number) for number in range(100)]
    for tree in forest:
        signer.good.add((KEY, SIGNATURE, tree.root))
        assert tree.ask(trees, signer, 0)
        assert len(trees) <= 64
    asked = signer.asked
    assert forest[-1].ask(trees, signer, 1)
    assert signer.asked == asked
    assert forest[0].ask(trees, signer, 1)
    assert signer.asked == asked + 1


def test_what_is_used_again_stays() -> None:
    trees, signer, kept = VerifiedTrees(capacity=64), Signer(), Tree(1, b"kept")
    signer.good.add((KEY, SIGNATURE, kept.root))
    assert kept.ask(trees, signer, 0)
    for number in range(500):
        passing = Tree(1, b"passing %d" % number)
        signer.good.add((KEY, SIGNATURE, passing.root))
        assert passing.ask(trees, signer, 0)
        assert kept.ask(trees, signer, 0)
    assert signer.asked == 501


def test_a_tree_larger_than_the_memory_is_verified_all_the_same() -> None:
    tree, trees = Tree(64), VerifiedTrees(capacity=2)
    signer = Signer((KEY, SIGNATURE, tree.root))
    assert all(tree.ask(trees, signer, index) for index in range(64))
    assert len(trees) <= 2
    with pytest.raises(ValueError, match="too small"):
        VerifiedTrees(1)


def test_threads_that_share_one_get_right_answers() -> None:
    trees, wrong = VerifiedTrees(capacity=128), []
    forest = [Tree(9, b"tree %d" % number) for number in range(20)]
    signer = Signer(*[(KEY, SIGNATURE, tree.root) for tree in forest[::2]])

    def work(seed: int) -> None:
        numbers = random.Random(seed)
        for _ in range(3000):
            number = numbers.randrange(20)
            if forest[number].ask(trees, signer, numbers.randrange(9)) is not (number % 2 == 0):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(trees) <= 128 + 4 * 9
