"""Waiting for the end of a task, in a thread or in an event loop."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from converge.coordination.task_record import TaskRecord
    from converge.coordination.task_steps import TaskSteps

__all__ = ["wait_for_end", "wait_for_end_async"]

_LOOK_AGAIN_SEC = 0.005  # other processes tell nobody; asking whether anything has changed takes microseconds


def wait_for_end(steps: TaskSteps, task_id: str, timeout: float | None) -> TaskRecord:
    """The record of the task once it has ended; see `TaskManager.wait`."""
    changed = threading.Event()
    wait = _Wait(steps, task_id, timeout)
    remove = steps.add_listener(changed.set)
    try:
        while (record := wait.look()) is None:
            while not (changed.is_set() or wait.may_have_changed()):
                changed.wait(wait.pause())
            changed.clear()
        return record
    finally:
        remove()


async def wait_for_end_async(steps: TaskSteps, task_id: str, timeout: float | None) -> TaskRecord:
    """As `wait_for_end`; a store that is blocking is read in a thread."""
    loop, changed = asyncio.get_running_loop(), asyncio.Event()
    wait = _Wait(steps, task_id, timeout)

    def tell() -> None:
        loop.call_soon_threadsafe(changed.set)

    remove = steps.add_listener(tell)
    try:
        while (record := await (asyncio.to_thread(wait.look) if steps.tasks.blocking else _now(wait))) is None:
            while not (changed.is_set() or wait.may_have_changed()):
                pause = wait.pause()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await changed.wait()
            changed.clear()
        return record
    finally:
        remove()


class _Wait:
    def __init__(self, steps: TaskSteps, task_id: str, timeout: float | None) -> None:
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"a timeout is a number of seconds from 0 up, or None, not {timeout!r}")
        self._steps, self._task_id = steps, task_id
        self._timeout = timeout
        self._started = steps.clock.monotonic()
        self._cursor = 0

    def look(self) -> TaskRecord | None:
        """The record if the task has ended."""
        self._cursor = self._steps.tasks.cursor()
        record, _ = self._steps.read(self._task_id)
        return None if record.is_open else record

    def may_have_changed(self) -> bool:
        """Whether anything in the store has changed since the last look."""
        return self._steps.tasks.may_have_changed(self._cursor)

    def pause(self) -> float:
        """How long to sleep before asking again; `TimeoutError` when there is no time left."""
        if self._timeout is None:
            return _LOOK_AGAIN_SEC
        left = self._started + self._timeout - self._steps.clock.monotonic()
        if left <= 0:
            raise TimeoutError(f"task {self._task_id} has not ended within {self._timeout} s")
        return min(left, _LOOK_AGAIN_SEC)


async def _now(wait: _Wait) -> TaskRecord | None:
    return wait.look()
