"""A store in memory that a test lets fail at the n-th operation, as the death of a process at that moment would."""

from __future__ import annotations

from typing import TYPE_CHECKING

from converge.core.store import VersionedStore, Write
from converge.extensions.storage.memory import MemoryStore

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterable

    from converge.core.plain import Plain
    from converge.core.store import Change


class Crash(Exception):
    """The process is dead; nothing but the store is left of it."""


class Crashing(MemoryStore):
    """Raises `Crash` before the operation that `left` comes to, or after it when it is a write and `late`."""

    left: int | None = None
    late = False

    def arm(self, left: int, *, late: bool = False) -> None:
        self.left, self.late = left, late

    def disarm(self) -> None:
        self.left = None

    def _is_due(self) -> bool:
        if self.left is None:
            return False
        self.left -= 1
        return self.left < 0

    def compare_and_set(self, key: str, value: Plain, expected: int) -> int:
        due = self._is_due()
        if due and not self.late:
            raise Crash
        version = super().compare_and_set(key, value, expected)
        if due:
            raise Crash
        return version

    def compare_and_set_many(self, writes: Iterable[Write]) -> builtins.list[int | None]:
        return VersionedStore.compare_and_set_many(self, writes)  # no commits: each write may be the last one

    def delete_many(self, keys: Iterable[str]) -> None:
        if self._is_due():
            raise Crash
        super().delete_many(keys)

    def get_versioned(self, key: str) -> tuple[Plain, int] | None:
        if self._is_due():
            raise Crash
        return super().get_versioned(key)

    def list(self, prefix: str = "") -> builtins.list[str]:
        if self._is_due():
            raise Crash
        return super().list(prefix)

    def changes(self, cursor: int | None = None, prefix: str = "") -> tuple[int, builtins.list[Change]]:
        if self._is_due():
            raise Crash
        return super().changes(cursor, prefix)

    def put_if_absent(self, key: str, value: Plain) -> bool:
        due = self._is_due()
        if due and not self.late:
            raise Crash
        stored = super().put_if_absent(key, value)
        if due:
            raise Crash
        return stored
