"""Noticing what other processes do to tasks: one watcher for all the runtimes that share a task manager."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from converge.runtime.calls import backoff
from converge.runtime.threads import StoreThread

if TYPE_CHECKING:
    from converge.coordination.task_manager import TaskManager

__all__ = ["POLL_INTERVAL_SEC", "TaskWatch"]

POLL_INTERVAL_SEC = 0.005
_MAX_PAUSE_SEC = 5.0
_log = logging.getLogger(__name__)


class TaskWatch:
    """Asks a manager every 5 ms whether its store has changed, and lets it tell its listeners. Use `of`."""

    def __init__(self, tasks: TaskManager) -> None:
        self._tasks = tasks
        self._users = 0
        self._thread = StoreThread()
        self._job: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, tasks: TaskManager) -> TaskWatch:
        """The watch of `tasks` on the running event loop."""
        key = tasks, asyncio.get_running_loop()
        if (watch := _watches.get(key)) is None:
            watch = _watches[key] = cls(tasks)
        return watch

    def open(self) -> None:
        """Watch until `close` has been called as often."""
        self._users += 1
        if self._users == 1:
            self._thread.open()
            self._job = asyncio.create_task(self._watch(), name="converge-task-watch")

    async def close(self) -> None:
        """Undo one `open`; the last one ends the watching."""
        self._users -= 1
        if self._users == 0 and self._job is not None:
            job, self._job = self._job, None
            _watches.pop((self._tasks, asyncio.get_running_loop()), None)
            job.cancel()
            await asyncio.wait({job})
            self._thread.close()

    async def _watch(self) -> None:
        tasks, failures = self._tasks, 0
        while True:
            await asyncio.sleep(backoff(failures, _MAX_PAUSE_SEC) if failures else POLL_INTERVAL_SEC)
            try:
                if tasks.may_have_changed():
                    await (self._thread.run(tasks.poll) if tasks.blocking else _now(tasks))
                failures = 0
            except Exception:  # noqa: BLE001  # counted, logged, tried again more slowly
                failures += 1
                _log.exception("following the task store failed (%d in a row)", failures)


_watches: dict[tuple[TaskManager, asyncio.AbstractEventLoop], TaskWatch] = {}


async def _now(tasks: TaskManager) -> None:
    tasks.poll()
