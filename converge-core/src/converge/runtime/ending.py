"""Being told to end, or having lost what one lives by."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["Ending"]


class Ending:
    """A flag that is raised once, as `asyncio.Event`, and waited for together with tasks, without a task for that."""

    __slots__ = ("_over", "_set")  # one an agent

    def __init__(self) -> None:
        self._set = False
        self._over: asyncio.Future[None] | None = None

    def is_set(self) -> bool:
        """Whether it is raised."""
        return self._set

    def set(self) -> None:
        """Raise it, in the event loop of who waits."""
        self._set = True
        self._wake()

    def clear(self) -> None:
        """Take it down. Not while somebody waits."""
        self._set = False

    async def or_end_of(self, tasks: Collection[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
        """Wait until it is raised or one of `tasks` has ended; those that have."""
        if not self._set and not any(task.done() for task in tasks):
            self._over = asyncio.get_running_loop().create_future()
            for task in tasks:
                task.add_done_callback(self._wake)
            try:
                await self._over
            finally:
                self._over = None
                for task in tasks:
                    task.remove_done_callback(self._wake)
        return [task for task in tasks if task.done()]

    def _wake(self, _task: object = None) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_result(None)
