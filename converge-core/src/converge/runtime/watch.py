"""Noticing what other processes do to tasks: one watcher for all the runtimes that share a task manager."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from converge.core.notices import POLL_INTERVAL_SEC, Pace
from converge.runtime.calls import backoff
from converge.runtime.threads import StoreThread

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.coordination.task_manager import TaskManager

__all__ = ["TaskWatch"]

_MAX_PAUSE_SEC = 5.0
_log = logging.getLogger(__name__)


class TaskWatch:
    """Asks a manager whether its store has changed, at the pace of `Pace`, and lets it tell its listeners. Use `of`."""

    def __init__(self, tasks: TaskManager) -> None:
        self._tasks = tasks
        self._users = 0
        self._wake: dict[Callable[[], None], None] = {}
        self._remove: Callable[[], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread_id: int | None = None
        self._told = False  # the event loop will come to it
        self._thread = StoreThread()
        self._failures = 0
        self._pace: Pace | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._job: asyncio.Task[None] | None = None  # reads what has changed

    @classmethod
    def of(cls, tasks: TaskManager) -> TaskWatch:
        """The watch of `tasks` on the running event loop."""
        key = tasks, asyncio.get_running_loop()
        if (watch := _watches.get(key)) is None:
            watch = _watches[key] = cls(tasks)
        return watch

    def open(self, wake: Callable[[], None] | None = None) -> None:
        """Watch until `close` has been called as often.

        `wake` is called in the event loop when tasks may have changed, whoever did it: the manager has one listener
        for all that watch, and its thread one way to the event loop.
        """
        self._users += 1
        if wake is not None:
            self._wake[wake] = None
        if self._users == 1:
            self._loop, self._thread_id = asyncio.get_running_loop(), threading.get_ident()
            self._remove = self._tasks.add_listener(self._changed)
            self._thread.open()
            self._failures = 0
            self._pace = Pace(self._loop, self._tasks.notices(), self._ask_now)
            self._ask_later(self._loop, changed=True)

    async def close(self, wake: Callable[[], None] | None = None) -> None:
        """Undo one `open`; the last one ends the watching."""
        self._users -= 1
        if wake is not None:
            self._wake.pop(wake, None)
        if self._users == 0 and self._remove is not None:
            self._remove()
            self._remove = None
            _watches.pop((self._tasks, asyncio.get_running_loop()), None)
            if self._pace is not None:
                self._pace.close()
            if self._timer is not None:
                self._timer.cancel()
            if self._job is not None:
                self._job.cancel()
                await asyncio.wait({self._job})
            self._thread.close()

    def _changed(self) -> None:
        """Called by the manager, from any thread."""
        if self._thread_id == threading.get_ident():
            self._tell()
        elif not self._told and self._loop is not None:  # else the event loop has not come to it yet
            self._told = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._told = False
        for wake in [*self._wake]:
            try:
                wake()
            except Exception:  # noqa: BLE001  # a scheduler may be the user's own
                _log.exception("waking who follows tasks failed; the others are woken")

    def _ask_later(self, loop: asyncio.AbstractEventLoop, *, changed: bool) -> None:
        # A bare timer: a task that sleeps would take twice as many turns of the event loop, 200 times a second.
        if self._pace is None:
            return
        pause = self._pace.pause(changed=changed)
        if self._failures:
            pause = backoff(self._failures, _MAX_PAUSE_SEC)
        elif (due_in := self._tasks.due_in()) is not None:
            pause = min(pause, max(due_in, POLL_INTERVAL_SEC))
        self._timer = loop.call_later(pause, self._ask, loop)

    def _ask_now(self) -> None:
        if self._timer is not None and self._loop is not None:  # else it is being asked
            self._timer.cancel()
            self._ask(self._loop)

    def _ask(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        try:
            changed = self._tasks.may_have_changed()
        except Exception:  # noqa: BLE001  # counted, logged, tried again more slowly
            self._failed()
            changed = False
        else:
            self._failures = 0 if not changed else self._failures
        if changed:
            self._job = loop.create_task(self._poll(loop), name="converge-task-watch")
        else:
            self._ask_later(loop, changed=False)

    async def _poll(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            await (self._thread.run(self._tasks.poll) if self._tasks.blocking else _now(self._tasks))
            self._failures = 0
        except Exception:  # noqa: BLE001  # counted, logged, tried again more slowly
            self._failed()
        self._job = None
        if self._users:
            self._ask_later(loop, changed=True)

    def _failed(self) -> None:
        self._failures += 1
        _log.exception("following the task store failed (%d in a row)", self._failures)


_watches: dict[tuple[TaskManager, asyncio.AbstractEventLoop], TaskWatch] = {}


async def _now(tasks: TaskManager) -> None:
    tasks.poll()
