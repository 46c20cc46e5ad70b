"""The Task objects that callers have submitted and still hold, kept like the stored records."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from attrs import define, field

from converge.coordination.task_record import TaskRecord
from converge.core.task import Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["TaskMirror"]


@define
class _Followed:
    version: int = 0
    objects: list[weakref.ref[Task]] = field(factory=list)
    submitting: int = 0  # how many submissions of this id are under way
    newest: TaskRecord | None = None  # what came while one was
    ended: bool = False

    @property
    def is_needed(self) -> bool:
        return bool(self.submitting or (self.objects and not self.ended))


class TaskMirror:
    """Writes each newer state of a task into the objects that follow it. Thread-safe.

    States may arrive in any order and from any thread: an older one never replaces a newer one. An object is followed
    from when its submission is accepted, while its caller holds it, and until its task has ended.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._followed: dict[str, _Followed] = {}
        self._gone: deque[str] = deque()  # a weakref callback may come at any moment, so it takes no lock

    @contextmanager
    def submitting(self, tasks: Sequence[Task]) -> Iterator[None]:
        """Miss no state of these tasks between the write and `accept`, which needs no further look at the store."""
        with self._lock:
            self._clean()
            for task in tasks:
                self._followed.setdefault(task.id, _Followed()).submitting += 1
        try:
            yield
        finally:
            with self._lock:
                for task in tasks:
                    followed = self._followed[task.id]
                    followed.submitting -= 1
                    if not followed.submitting:
                        followed.newest = None
                    self._drop_unneeded(task.id)

    def accept(self, task: Task, record: TaskRecord, version: int) -> None:
        """Let `task` follow. `record` is what the store held at `version`; within `submitting` only."""
        with self._lock:
            followed = self._followed[task.id]
            if not any(reference() is task for reference in followed.objects):
                followed.objects.append(weakref.ref(task, partial(_note, self._gone, task.id)))
            if version >= followed.version:
                self._update(followed, record, version)
            elif followed.newest is not None:
                followed.newest.mirror_into(task)

    def update(self, record: TaskRecord, version: int) -> None:
        """Take a state that the store has accepted."""
        with self._lock:
            self._clean()
            followed = self._followed.get(record.id)
            if followed is not None and version > followed.version:
                self._update(followed, record, version)
                self._drop_unneeded(record.id)

    def ids(self) -> list[str]:
        """The ids of the tasks that are followed."""
        with self._lock:
            self._clean()
            return [*self._followed]

    def _update(self, followed: _Followed, record: TaskRecord, version: int) -> None:
        followed.version, followed.ended = version, not record.is_open
        if followed.submitting:
            followed.newest = record
        for reference in followed.objects:
            if (task := reference()) is not None:
                record.mirror_into(task)

    def _clean(self) -> None:
        while self._gone:
            task_id = self._gone.popleft()
            if (followed := self._followed.get(task_id)) is not None:
                followed.objects = [reference for reference in followed.objects if reference() is not None]
                self._drop_unneeded(task_id)

    def _drop_unneeded(self, task_id: str) -> None:
        if (followed := self._followed.get(task_id)) is not None and not followed.is_needed:
            del self._followed[task_id]


def _note(gone: deque[str], task_id: str, _reference: object) -> None:
    gone.append(task_id)
