"""Which signatures were found good, so that one check serves all messages of a tree."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from converge.core.merkle import HASH_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["VerifiedTrees"]


class VerifiedTrees:
    """Checks signatures over Merkle trees, each signature once, and each inner node of a tree about once.

    What is remembered is a *step*: a public key, a signature, a node, and all that is still to be hashed with it to
    come to the root. It is remembered when that root was found to be signed, by this key, with this signature, and
    only then. As a step holds the whole input of the rest of the check, meeting it again says exactly what going on
    would say: nothing that was changed, be it in the path, the index, the tree size or the signature, and nothing
    under another key is ever taken for it. From a message that was good follow the steps of its siblings, so the
    other messages of the tree end early. What failed is not remembered.

    At least `capacity` / 2 steps that were used last are kept, at most `capacity`; one takes 300 to 800 bytes. Someone
    who signs very much can push out the steps of others, which are then checked again. Safe between threads and over a
    fork, with no lock: a race can lose a step, and cannot make one.
    """

    __slots__ = ("_older", "_recent", "_room")

    def __init__(self, capacity: int = 8192) -> None:
        if capacity < 2:
            raise ValueError(f"a capacity of {capacity} is too small; at least 2 steps are remembered")
        self._room = capacity // 2
        self._recent: set[bytes] = set()
        self._older: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._recent | self._older)

    def verify(
        self,
        public_key: bytes,
        signature: bytes,
        leaf: bytes,
        sides: int,
        path: bytes,
        is_signed: Callable[[bytes, bytes, bytes], bool],
    ) -> bool:
        """Whether `signature` is over the root that `leaf` (a leaf hash) comes to with `path`, hashes from below.

        `sides` has a bit for each hash, the lowest for the first: 1 when it stands to the left. Both were checked to be
        of the length that fits the tree. `is_signed(public_key, signature, root)` is asked only when no step is known.
        """
        signer = public_key + signature
        recent, learnt = self._recent, []
        node, at, end = leaf, 0, len(path)
        while True:
            step = b"".join((signer, sides.to_bytes(2, "big"), node, path[at:]))
            if step in recent:
                break
            if step in self._older or (at == end and is_signed(public_key, signature, node)):
                learnt.append(step)
                break
            if at == end:
                return False
            sibling, at = path[at : at + HASH_BYTES], at + HASH_BYTES
            learnt.append(b"".join((signer, (sides ^ 1).to_bytes(2, "big"), sibling, node, path[at:])))
            node = sha256(b"\x01" + sibling + node if sides & 1 else b"\x01" + node + sibling).digest()
            sides >>= 1
        if learnt:
            self._remember(learnt)
        return True

    def _remember(self, steps: list[bytes]) -> None:
        if len(self._recent) + len(steps) > self._room:
            self._older, self._recent = self._recent, set()
        self._recent.update(steps[-self._room :])
