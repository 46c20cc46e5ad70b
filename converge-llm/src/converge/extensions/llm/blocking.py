"""Async providers for callers without an event loop: one loop in a daemon thread serves them all."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Iterator

__all__ = ["blocking_loop", "iterate", "wait_for"]

_Result = TypeVar("_Result")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_END = object()
_closing: set[asyncio.Task[None]] = set()


def blocking_loop(*, start: bool = True) -> asyncio.AbstractEventLoop | None:
    """The loop that serves blocking calls in this process; None when there is none yet and it shall not `start`."""
    global _loop  # the thread is the process's
    with _lock:
        if _loop is None and start:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="converge-llm-chat", daemon=True).start()
        return _loop


def wait_for(work: Coroutine[object, object, _Result]) -> _Result:
    """The result of `work`, which is cancelled when the wait is interrupted. Blocks the calling thread."""
    loop = blocking_loop()
    assert loop is not None
    if _is_running(loop):
        work.close()
        raise RuntimeError("a blocking call within an asynchronous one of the same loop would wait for ever; await it")
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def iterate(pieces: AsyncGenerator[_Result, None]) -> Iterator[_Result]:
    """What `pieces` yields. Each step blocks the calling thread; leaving early closes `pieces`."""
    try:
        while True:
            piece = wait_for(_next(pieces))
            if piece is _END:
                return
            yield piece  # type: ignore[misc]  # all but the mark of the end are results
    finally:
        loop = blocking_loop()
        if loop is not None and _is_running(loop):  # garbage is collected in any thread, and so is a stream left early
            _closing.add(task := loop.create_task(_close(pieces)))
            task.add_done_callback(_closing.discard)
        else:
            wait_for(_close(pieces))


def _is_running(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


async def _close(pieces: AsyncGenerator[object, None]) -> None:
    await pieces.aclose()


async def _next(pieces: AsyncGenerator[_Result, None]) -> _Result | object:
    try:
        return await anext(pieces)
    except StopAsyncIteration:
        return _END


def _forget() -> None:
    global _loop, _lock  # a child has none of its parent's threads, and perhaps a lock that one of them held
    _loop, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
