"""Where work that blocks is done: one thread for the store, and a thread of its own for each call that may hang."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from converge.runtime.calls import contained

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["StoreThread", "in_own_thread"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


class StoreThread:
    """Runs calls on blocking stores, one after the other, away from the event loop.

    All runtimes of a process share one thread; it ends when the last of them has stopped.
    """

    _lock = threading.Lock()
    _executor: ThreadPoolExecutor | None = None
    _users = 0

    def __init__(self) -> None:
        self._open = False

    def open(self) -> None:
        """Make `run` usable; the first user in the process starts the thread when it first has something to do."""
        with self._lock:
            if not self._open:
                self._open = True
                StoreThread._users += 1
                if StoreThread._executor is None:
                    StoreThread._executor = ThreadPoolExecutor(1, thread_name_prefix="converge-store")

    def close(self) -> None:
        """Give the thread up; the last user of the process ends it. What was queued is still done."""
        with self._lock:
            if not self._open:
                return
            self._open = False
            StoreThread._users -= 1
            if StoreThread._users == 0 and StoreThread._executor is not None:
                StoreThread._executor.shutdown(wait=False)
                StoreThread._executor = None

    async def run(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """What `call` returns or raises, as `in_own_thread`, context variables included.

        Cancelling stops the waiting, not the call.
        """
        executor = StoreThread._executor
        if not self._open or executor is None:
            raise RuntimeError("the store thread is closed: the runtime it belongs to has stopped")

        def work() -> _T:
            try:
                return call(*args, **kwargs)
            except BaseException as error:
                if (failure := contained(error)) is error:
                    raise
                raise failure from error  # a future would refuse StopIteration, and SystemExit end the loop

        return await asyncio.get_running_loop().run_in_executor(executor, contextvars.copy_context().run, work)


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
