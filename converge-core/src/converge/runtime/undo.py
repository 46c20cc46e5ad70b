"""What a start has to undo at the end, whatever happens in between."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Generic, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

__all__ = ["Undo"]

_T = TypeVar("_T")


class Undo(Generic[_T]):
    """Steps to be undone in reverse order when the `async with` block is left; `how` has a function for each.

    It is called with `owner`, and what it gives is awaited if that can be. One that raises does not keep the others
    from being called; its error is raised then. `AsyncExitStack` does the same and more, but keeps a closure and bound
    methods for each step, 1.5 kB that every idle agent would pay for.
    """

    __slots__ = ("_how", "_owner", "_steps")

    def __init__(self, owner: _T, how: Mapping[str, Callable[[_T], object]]) -> None:
        self._owner, self._how = owner, how
        self._steps: list[str] = []

    def add(self, step: str) -> None:
        """Undo `step` at the end, before those that were added earlier."""
        self._steps.append(step)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._steps:
            try:
                made = self._how[self._steps.pop()](self._owner)
                if inspect.isawaitable(made):
                    await made
            except BaseException:
                await self.__aexit__(kind, error, traceback)
                raise
