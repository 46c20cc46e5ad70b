"""Calling what users wrote, so that neither what it raises nor that it hangs ends the runtime."""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import TYPE_CHECKING, Any, ParamSpec

from converge.runtime.errors import CallFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = [
    "GRACE_SEC",
    "backoff",
    "contained",
    "described",
    "end_all",
    "settled",
    "undo_cancel",
    "why_it_ended",
    "within",
]

GRACE_SEC = 0.25
"""How long a call that was cancelled has for its own cleaning up before it is left behind."""

_FIRST_BACKOFF_SEC = 0.05
_P = ParamSpec("_P")
_log = logging.getLogger(__name__)


async def settled(call: Callable[_P, object], *args: _P.args, **kwargs: _P.kwargs) -> object:
    """What `call` returns, or what awaiting that gives.

    Only an `Exception` comes out, and the `CancelledError` of who cancels the caller: SystemExit, KeyboardInterrupt
    and a CancelledError that nobody asked for are a `CallFailed`.
    """
    try:
        value = call(*args, **kwargs)
        return await value if value is not None and inspect.isawaitable(value) else value
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise contained(error) from error
    except (Exception, GeneratorExit):
        raise
    except BaseException as error:
        raise contained(error) from error


async def within(
    seconds: float | None, what: str, call: Callable[_P, object], *args: _P.args, **kwargs: _P.kwargs
) -> object:
    """As `settled`; after `seconds` (None: no limit) the call is cancelled, and a `TimeoutError` names `what`.

    A call that ignores being cancelled is left behind after `GRACE_SEC`, with a line in the log.
    """
    task = asyncio.create_task(settled(call, *args, **kwargs))
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    finally:
        if not task.done():
            await _give_up(task)
    if not done:
        raise TimeoutError(f"{what} gave no answer within {seconds} s")
    return task.result()


async def _give_up(task: asyncio.Task[object]) -> None:
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=GRACE_SEC)
    if not done:
        _log.error("%r ignores that it was cancelled; it is left behind", task.get_coro())
    elif not task.cancelled():
        task.exception()  # too late to matter; asked for, so that asyncio does not report it as lost


async def end_all(tasks: Collection[asyncio.Task[Any]], seconds: float) -> None:
    """Cancel `tasks` and wait for their end; one that ignores that for so long is left behind, and logged."""
    for task in tasks:
        task.cancel()
    ended, left = await asyncio.wait(tasks, timeout=seconds)
    for task in left:
        _log.error("%r ignores that it was cancelled; it is left behind", task.get_coro())
    for task in ended:
        if not task.cancelled():
            task.exception()  # asked for, so that asyncio does not report it as lost


def why_it_ended(task: asyncio.Task[Any]) -> Exception | None:
    """What ended `task`, which is done, as an error that ordinary handlers take; None if it just returned."""
    if task.cancelled():
        return CallFailed(f"{task.get_coro()!r} was cancelled, and not by a stop")
    error = task.exception()
    return None if error is None else contained(error)


def undo_cancel() -> None:
    """Let the running task forget that it was cancelled, by what it called and not by who may end it."""
    task = asyncio.current_task()
    while task is not None and task.uncancel():
        pass


def contained(error: BaseException) -> Exception:
    """`error` itself if an ordinary handler can take it, else a `CallFailed` that says what it was."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    failed = CallFailed(f"it raised {described(error)}")
    failed.__cause__ = error
    return failed


def described(error: BaseException) -> str:
    """The type and the text of `error`, also when asking for its text raises."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  # an error that cannot be shown is still an error
        text = "an error without a text"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def backoff(failures: int, most: float) -> float:
    """Seconds to wait after so many failures in a row: doubling, at most `most`."""
    return min(_FIRST_BACKOFF_SEC * 2.0 ** min(failures, 30), most)
