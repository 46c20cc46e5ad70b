"""Noticing what other processes do to tasks: one watcher for all the runtimes that share a task manager."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Hashable
from contextlib import suppress

from converge.coordination.task_manager import TaskManager
from converge.core.notices import POLL_INTERVAL_SEC, Pace
from converge.runtime.calls import backoff
from converge.runtime.shared.base import Shared

__all__ = ["TaskWatch"]

_MAX_PAUSE_SEC = 5.0
_log = logging.getLogger(__name__)


class TaskWatch(Shared[TaskManager, Hashable, Callable[[], None]]):
    """Asks a manager whether its store has changed, at the pace of `Pace`, and lets it tell its listeners. Use `of`.

    A member is called in the event loop when tasks may have changed, whoever did it: the manager has one listener for
    all that watch, and its thread one way to the event loop.
    """

    NAME = "converge-task-watch"

    def __init__(self, tasks: TaskManager) -> None:
        super().__init__(tasks)
        self._loop, self._thread_id = asyncio.get_running_loop(), threading.get_ident()
        self._remove: Callable[[], None] = lambda: None
        self._told = False  # the event loop will come to it
        self._failures = 0
        self._pace: Pace | None = None
        self._timer: asyncio.TimerHandle | None = None  # until the next question; `_job` reads what has changed

    def _begin(self) -> None:
        self._remove = self._subject.add_listener(self._changed)
        self._pace = Pace(self._loop, self._subject.notices(), self._ask_now)
        self._ask_later(self._pace, changed=True)

    async def _end(self) -> None:
        self._remove()
        if self._pace is not None:
            self._pace.close()
            self._pace = None
        if self._timer is not None:
            self._timer.cancel()
        await super()._end()

    def _changed(self) -> None:
        """Called by the manager, from any thread."""
        if self._thread_id == threading.get_ident():
            self._tell()
        elif not self._told:  # else the event loop has not come to it yet
            self._told = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._told = False
        for wake in [*self._members.values()]:
            try:
                wake()
            except Exception:  # noqa: BLE001  # a scheduler may be the user's own
                _log.exception("waking who follows tasks failed; the others are woken")

    def _ask_later(self, pace: Pace, *, changed: bool) -> None:
        # A bare timer: a task that sleeps would take twice as many turns of the event loop, 200 times a second.
        pause = pace.pause(changed=changed)
        if self._failures:
            pause = backoff(self._failures, _MAX_PAUSE_SEC)
        elif (due_in := self._subject.due_in()) is not None:
            pause = min(pause, max(due_in, POLL_INTERVAL_SEC))
        self._timer = self._loop.call_later(pause, self._ask, pace)

    def _ask_now(self) -> None:
        if self._timer is not None and self._pace is not None:  # else it is being asked
            self._timer.cancel()
            self._ask(self._pace)

    def _ask(self, pace: Pace) -> None:
        self._timer = None
        try:
            changed = self._subject.may_have_changed()
        except Exception:  # noqa: BLE001  # counted, logged, tried again more slowly
            self._failed()
            changed = False
        else:
            self._failures = 0 if not changed else self._failures
        if changed:
            super()._begin()
        else:
            self._ask_later(pace, changed=False)

    async def _work(self) -> None:
        """Read what has changed, once."""
        try:
            await self._on_store(self._subject.poll)
            self._failures = 0
        except Exception:  # noqa: BLE001  # counted, logged, tried again more slowly
            self._failed()
        self._job = None
        if self._pace is not None:
            self._ask_later(self._pace, changed=True)

    def _failed(self) -> None:
        self._failures += 1
        _log.exception("following the task store failed (%d in a row)", self._failures)
