"""What one manager knows of the tasks in its store: a cache that the change feed keeps."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from converge.coordination.task_index import TaskIndex
from converge.core.errors import CursorExpired

if TYPE_CHECKING:
    from collections.abc import Iterator

    from converge.coordination.claims import ClaimBook
    from converge.coordination.task_mirror import TaskMirror
    from converge.coordination.task_record import TaskRecord
    from converge.coordination.task_store import TaskStore
    from converge.core.clock import Clock

__all__ = ["TaskView"]


class TaskView:
    """An index of the open tasks, read when it is first needed and followed from then on. Thread-safe."""

    def __init__(self, tasks: TaskStore, mirror: TaskMirror, claims: ClaimBook, clock: Clock) -> None:
        self._tasks, self._mirror, self._claims, self._clock = tasks, mirror, claims, clock
        self._lock = threading.RLock()
        self._index = TaskIndex()
        self._cursor: int | None = None
        self.generation = 0  # grows with each look that found something, whoever looked
        self._counted: dict[str, int] = {}  # ended tasks that the next look at the feed may bring once more

    @contextmanager
    def synced(self) -> Iterator[TaskIndex]:
        """The index as of now, for this thread alone while the block runs."""
        with self._lock:
            self.sync()
            yield self._index

    def sync(self) -> bool:
        """Read what changed in the store since the last look; whether anything did. When it raises, nothing is lost."""
        with self._lock:
            if not self.may_have_changed():
                return False
            changed = self._read_anew_or_on()
            changed |= self._index.ripen(self._clock.time())
            self.generation += changed
            return changed

    def may_have_changed(self) -> bool:
        """Whether `sync` would find anything: cheap, never a false no."""
        cursor = self._cursor
        if cursor is None or self._tasks.may_have_changed(cursor):
            return True
        return self._index.is_ripe(self._clock.time())

    def due_in(self) -> float | None:
        """Seconds until a task may be claimed that had to wait for its time; None: none has to."""
        at = self._index.ripe_at()
        return None if at is None else max(0.0, at - self._clock.time())

    def _read_anew_or_on(self) -> bool:
        if self._cursor is None:
            return self._load()
        try:
            return self._follow(self._cursor)
        except CursorExpired:
            return self._load()

    def _follow(self, cursor: int) -> bool:
        newer, changes = self._tasks.changes(cursor)
        for task_id, record, version in changes:
            if record is None:
                self._index.forget(task_id)
            elif self._counted.get(task_id) != version:
                self._apply(record, version)
        self._counted.clear()
        self._cursor = newer
        return bool(changes)

    def _load(self) -> bool:
        """Read what the hints lead to, and what this manager took for open, submitted or claimed.

        The cursor is taken first: a record that is written after its hint was looked for comes with the feed. Versions
        of several reads are put in order before they are applied.
        """
        cursor = self._tasks.cursor()
        hinted = self._tasks.open_ids()
        was_open = {*self._index.open_ids()}
        wanted = {*hinted, *was_open, *self._mirror.ids(), *self._claims.task_ids()}
        found = [entry for task_id in wanted if (entry := self._tasks.read_known(task_id)) is not None]
        self._index.clear_open()
        self._counted.clear()
        for record, version in sorted(found, key=lambda entry: entry[1]):
            if record.is_open:
                self._apply(record, version)
                continue
            self._tasks.note_ended(record.id)
            if record.id in was_open:
                self._apply(record, version)
                self._counted[record.id] = version
            else:
                self._spread(record, version)
        self._cursor = cursor
        return True

    def _apply(self, record: TaskRecord, version: int) -> None:
        needs = {name: self.state_of(name) for name in record.depends_on} if record.is_pending else {}
        self._index.apply(record, version, self._clock.monotonic(), needs)
        self._spread(record, version)

    def state_of(self, task_id: str) -> str | None:
        """The state of a task that another depends on; None when there is none.

        One that has ended stays so, and one that is open comes with the feed when it ends.
        """
        open_state = self._index.state_of(task_id)
        if open_state is not None:
            return open_state
        found = self._tasks.read_known(task_id)
        return None if found is None else found[0].state

    def _spread(self, record: TaskRecord, version: int) -> None:
        self._mirror.update(record, version)
        self._claims.see(record)
