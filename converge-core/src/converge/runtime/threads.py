"""Where work that blocks is done: one thread for the store, and a thread of its own for each call that may hang."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, ParamSpec, TypeAlias, TypeVar

from converge.runtime.calls import contained

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["StoreThread", "in_own_thread"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_HOLD_BACK_SEC = 0.001
"""While more calls wait, answers are held back for so long, to be told together."""


class _Job(NamedTuple):
    call: Callable[[], Any]
    answer: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


_Answer: TypeAlias = "tuple[asyncio.Future[Any], Any, BaseException | None]"


class _Line:
    """Calls that one thread makes in their order; those that queue up are answered with one wake of the event loop."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="converge-store")
        self._jobs: deque[_Job] = deque()
        self._lock = threading.Lock()
        self._busy = False

    def add(self, job: _Job) -> None:
        with self._lock:
            self._jobs.append(job)
            if self._busy:
                return
            self._busy = True
        self._thread.submit(self._work)

    def close(self) -> None:
        """What was added is still done."""
        self._thread.shutdown(wait=False)

    def _work(self) -> None:
        answers: dict[asyncio.AbstractEventLoop, list[_Answer]] = {}
        since = time.monotonic()
        while (job := self._next()) is not None:
            if not job.answer.cancelled():
                answers.setdefault(job.loop, []).append(_made(job))
            if time.monotonic() - since > _HOLD_BACK_SEC:
                _tell(answers)
                answers, since = {}, time.monotonic()
        _tell(answers)

    def _next(self) -> _Job | None:
        with self._lock:
            self._busy = bool(self._jobs)
            return self._jobs.popleft() if self._busy else None


def _made(job: _Job) -> _Answer:
    try:
        return job.answer, job.call(), None
    except BaseException as error:  # noqa: BLE001  # whatever it is, it is raised where the call is awaited
        return job.answer, None, error


def _tell(answers: dict[asyncio.AbstractEventLoop, list[_Answer]]) -> None:
    for loop, of_loop in answers.items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_settle, of_loop)


def _settle(answers: list[_Answer]) -> None:
    for future, value, error in answers:
        if future.done():
            continue
        if error is None:
            future.set_result(value)
            continue
        failure = contained(error)  # a future would refuse StopIteration, and SystemExit end the loop
        if failure is not error:
            failure.__cause__ = error
        future.set_exception(failure)


class StoreThread:
    """Runs calls on blocking stores, one after the other, away from the event loop.

    All runtimes of a process share one thread; it ends when the last of them has stopped. Calls that wait at the same
    time share the way there and back.
    """

    __slots__ = ("_open",)  # one an agent
    _lock = threading.Lock()
    _line: ClassVar[_Line | None] = None
    _users: ClassVar[int] = 0

    def __init__(self) -> None:
        self._open = False

    def open(self) -> None:
        """Make `run` usable; the first user in the process starts the thread when it first has something to do."""
        with self._lock:
            if not self._open:
                self._open = True
                StoreThread._users += 1
                if StoreThread._line is None:
                    StoreThread._line = _Line()

    def close(self) -> None:
        """Give the thread up; the last user of the process ends it. What was queued is still done."""
        with self._lock:
            if not self._open:
                return
            self._open = False
            StoreThread._users -= 1
            if StoreThread._users == 0 and StoreThread._line is not None:
                StoreThread._line.close()
                StoreThread._line = None

    async def run(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """What `call` returns or raises, as `in_own_thread`, context variables included.

        Cancelling stops the waiting; a call that has not begun then is left out, one that has goes on.
        """
        line = StoreThread._line
        if not self._open or line is None:
            raise RuntimeError("the store thread is closed: the runtime it belongs to has stopped")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_T] = loop.create_future()
        line.add(_Job(partial(contextvars.copy_context().run, call, *args, **kwargs), answer, loop))
        return await answer


async def in_own_thread(name: str, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """What `call` returns or raises, from a daemon thread of its own.

    A call that hangs costs one thread and nothing else: no pool fills up, and the process can exit. Cancelling stops
    the waiting only; Python cannot end a thread. SystemExit and the like come out as `CallFailed`. The call sees the
    context variables of the caller.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def settle(value: _T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(value)  # type: ignore[arg-type]  # without an error it is what the call returned
        else:
            done.set_exception(contained(error))

    def work() -> None:
        value: _T | None = None
        error: BaseException | None = None
        try:
            value = call(*args, **kwargs)
        except BaseException as raised:  # noqa: BLE001  # whatever user code raises is handed to who awaits it
            error = raised
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=contextvars.copy_context().run, args=(work,), name=name, daemon=True).start()
    return await done
