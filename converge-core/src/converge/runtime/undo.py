"""What a start has to undo at the end, whatever happens in between."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["Undo"]


class Undo:
    """Calls, plain and async, that are made in reverse order when the `async with` block is left.

    One that raises does not keep the others from being made; the last error is raised then. `AsyncExitStack` does the
    same and more, at some 300 bytes for each call, which all agents would pay for as long as they run.
    """

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        self._calls: list[tuple[Any, ...]] = []

    def add(self, call: Callable[..., object], *args: object) -> None:
        """Call `call(*args)`, and await what that gives if it can be awaited, at the end."""
        self._calls.append((call, *args))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._calls:
            call, *args = self._calls.pop()
            try:
                made = call(*args)
                if inspect.isawaitable(made):
                    await made
            except BaseException:
                await self.__aexit__(kind, error, traceback)
                raise
