"""Which signatures over which roots were found good, so that one check serves all messages of a tree."""

from __future__ import annotations

__all__ = ["VerifiedRoots"]


class VerifiedRoots:
    """Remembers good (public key, root, signature) triples, at least the `capacity` / 2 used last, at most `capacity`.

    Verifying is a pure function of the three, and the whole of each is the key here; so a hit says exactly what
    checking again would say. What failed is not remembered: a flood of forgeries changes nothing. Someone who signs
    very many roots can push out those of others, which then cost a check again. Some 300 bytes an entry.

    Safe between threads and over a fork, with no lock: a race loses a memory, and never makes one.
    """

    __slots__ = ("_older", "_recent", "_room")

    def __init__(self, capacity: int = 4096) -> None:
        if capacity < 2:
            raise ValueError(f"a capacity of {capacity} is too small; at least 2 triples are remembered")
        self._room = capacity // 2
        self._recent: set[bytes] = set()
        self._older: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._recent | self._older)

    def known(self, public_key: bytes, root: bytes, signature: bytes) -> bool:
        """Whether `signature` was found good before."""
        triple = public_key + root + signature  # 32, 32 and 64 bytes: no two triples are joined to the same
        if triple in self._recent:
            return True
        if triple in self._older:
            self._add(triple)
            return True
        return False

    def add(self, public_key: bytes, root: bytes, signature: bytes) -> None:
        """Remember that `signature` is good. Raises `ValueError` when the three have not 32, 32 and 64 bytes."""
        if (len(public_key), len(root), len(signature)) != (32, 32, 64):
            raise ValueError("a key and a root have 32 bytes and a signature 64")
        self._add(public_key + root + signature)

    def _add(self, triple: bytes) -> None:
        if len(self._recent) >= self._room:
            self._older, self._recent = self._recent, set()
        self._recent.add(triple)
