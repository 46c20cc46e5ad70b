"""A store whose next write fails, before or after it is done, as a process that is killed there would see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from converge.extensions.storage.memory import MemoryStore

if TYPE_CHECKING:
    from converge.core.plain import Plain

Crash = Literal["before", "after"] | None


class Crashed(Exception):
    """The process is gone; what it had in memory counts for nothing."""


class CrashingStore(MemoryStore):
    """Raises `Crashed` at the next conditional write when `crash` says so."""

    crash: Crash = None

    def compare_and_set(self, key: str, value: Plain, expected: int) -> int:
        crash, self.crash = self.crash, None
        if crash == "before":
            raise Crashed
        version = super().compare_and_set(key, value, expected)
        if crash == "after":
            raise Crashed
        return version
