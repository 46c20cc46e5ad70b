"""What works for all runtimes of an event loop that have the same manager or service."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar

from converge.runtime.threads import StoreThread

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

__all__ = ["Shared"]


class _Subject(Protocol):
    @property
    def blocking(self) -> bool:
        """Whether its calls may wait for a disk or a network."""


_S = TypeVar("_S", bound=_Subject)
_K = TypeVar("_K", bound="Hashable")
_M = TypeVar("_M")
_T = TypeVar("_T")


class Shared(ABC, Generic[_S, _K, _M]):
    """Works on `subject` for its members, from the `open` of the first to the `close` of the last. Use `of`.

    A member is what a subclass needs to know of an agent, under a key of its own. What works is one task, which is
    cancelled at the end.
    """

    NAME: ClassVar[str]
    """Of the task."""

    _living: ClassVar[dict[tuple[type, object, asyncio.AbstractEventLoop], Any]] = {}

    def __init__(self, subject: _S) -> None:
        self._subject = subject
        self._members: dict[_K, _M] = {}
        self._thread = StoreThread()
        self._job: asyncio.Task[None] | None = None
        self._works = False

    @classmethod
    def of(cls, subject: _S) -> Self:
        """The one for `subject` on the running event loop."""
        key = cls, subject, asyncio.get_running_loop()
        found: Self | None = cls._living.get(key)
        if found is None:
            found = cls._living[key] = cls(subject)
        return found

    def open(self, key: _K, member: _M) -> None:
        """Work for a member until `close`."""
        self._members[key] = member
        if not self._works:
            self._works = True
            self._thread.open()
            self._begin()

    async def close(self, key: _K) -> None:
        """Undo one `open`; a key of no member is no error."""
        self._members.pop(key, None)
        if self._members:
            return
        self._living.pop((type(self), self._subject, asyncio.get_running_loop()), None)
        if self._works:
            self._works = False
            await self._end()
            self._thread.close()

    def _begin(self) -> None:
        self._job = asyncio.create_task(self._work(), name=self.NAME)

    async def _end(self) -> None:
        job, self._job = self._job, None
        if job is not None:
            job.cancel()
            await asyncio.wait({job})

    @abstractmethod
    async def _work(self) -> None:
        """Go on until it is cancelled."""

    async def _on_store(self, call: Callable[..., _T], *args: object) -> _T:
        """What `call` returns, from the store thread if the subject blocks."""
        return await self._thread.run(call, *args) if self._subject.blocking else call(*args)
