"""How tasks lie in a store.

The record under `task:<id>` is the truth. A key `open:<id>` is a hint: it is written before the record, in the same
commit where the store has commits, and removed some time after the task has ended. So each task that is open has a
hint at every moment, whoever crashes when; and the first listing costs the open tasks, not the history. A hint may
outlive its task or never get one, which costs a read. Removing hints late is safe because a task that has ended is
never opened again. A key `dead:<id>` is a hint of the same kind, written before a record that says FAILED.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from converge.coordination.errors import ForeignRecord
from converge.coordination.records import decoded
from converge.coordination.task_record import TaskRecord
from converge.core.errors import VersionConflict
from converge.core.store import DELETED, Store, Write, versioned

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from converge.core.plain import Plain
    from converge.core.store import Change

__all__ = ["TaskStore"]

_TASK, _OPEN, _DEAD = "task:", "open:", "dead:"
_HINTS_PER_COMMIT = 100
_KNOWN = 10_000
_log = logging.getLogger(__name__)


class TaskStore:
    """Task records and their hints in `store`. Safe between threads.

    It keeps hints that are to be removed, and up to 10,000 records with their versions, so that a record is decoded
    once and a write can be tried without reading first.

    `count` is called with the name of what went unnoticed by the caller and how often it did.
    """

    def __init__(self, store: Store, count: Callable[[str, int], None]) -> None:
        self._store = versioned(store)
        self._count = count
        self._lock = threading.Lock()
        self._ended: set[str] = set()
        self._known: dict[str, tuple[TaskRecord, int]] = {}

    @property
    def blocking(self) -> bool:
        """Whether calls may wait for a disk or a network."""
        return self._store.blocking

    def read(self, task_id: str) -> tuple[TaskRecord, int] | None:
        """The record and its version, or None; `ForeignRecord` when something else is there."""
        found = self._store.get_versioned(_TASK + task_id)
        return None if found is None else (self._decoded(_TASK + task_id, *found), found[1])

    def last_known(self, task_id: str) -> tuple[TaskRecord, int] | None:
        """What `read` gave when the task was last met here; good for trying a write at that version, no more."""
        return self._known.get(task_id)

    def create(self, records: Sequence[TaskRecord]) -> list[int | None]:
        """Store new records, in one commit where the store can; the version of each, None where the id is taken."""
        writes: list[Write] = []
        for record in records:
            writes.append(Write(_OPEN + record.id, record.submitted_at, 0))
            writes.append(Write(_TASK + record.id, record.to_plain(), 0))
        versions = self._store.compare_and_set_many(writes)[1::2]
        for record, version in zip(records, versions, strict=True):
            self._keep(record, version)
        return versions

    def replace(self, record: TaskRecord, version: int) -> int | None:
        """Store the next state of a task whose record has `version`; the new version, None when it was another."""
        self._announce_dead([record])
        try:
            stored = self._store.compare_and_set(_TASK + record.id, record.to_plain(), version)
        except VersionConflict:
            self._count("contended", 1)
            self._keep(record, None)
            return None
        self._keep(record, stored)
        self._note_stored([record])
        return stored

    def replace_many(self, moves: Sequence[tuple[TaskRecord, int]]) -> list[int | None]:
        """`replace` for each move, in one commit where the store can."""
        self._announce_dead([record for record, _ in moves])
        writes = [Write(_TASK + record.id, record.to_plain(), version) for record, version in moves]
        stored = self._store.compare_and_set_many(writes)
        self._count("contended", stored.count(None))
        for (record, _), version in zip(moves, stored, strict=True):
            self._keep(record, version)
        self._note_stored([move[0] for move, version in zip(moves, stored, strict=True) if version is not None])
        return stored

    def _note_stored(self, records: Sequence[TaskRecord]) -> None:
        for record in records:
            if not record.is_open:
                self.note_ended(record.id)
        if len(self._ended) >= _HINTS_PER_COMMIT:
            self.drop_hints()

    def _announce_dead(self, records: Sequence[TaskRecord]) -> None:
        dead: dict[str, Plain] = {_DEAD + record.id: None for record in records if record.is_dead}
        if dead:
            self._store.put_many(dead)

    def dead_ids(self) -> list[str]:
        """The ids that have a hint: those of all tasks that have FAILED, and perhaps of others."""
        return [hint.removeprefix(_DEAD) for hint in self._store.list(_DEAD)]

    def bury(self, task_ids: Sequence[str]) -> None:
        """Remove the hints of tasks that are not dead any more: requeued, or ended otherwise."""
        if task_ids:
            self._store.delete_many([_DEAD + task_id for task_id in task_ids])

    def open_ids(self) -> list[str]:
        """The ids that have a hint: those of all open tasks, and perhaps of others."""
        return [hint.removeprefix(_OPEN) for hint in self._store.list(_OPEN)]

    def note_ended(self, task_id: str) -> None:
        """Let the hint of a task that has ended be removed with the next ones."""
        with self._lock:
            self._ended.add(_OPEN + task_id)

    def drop_hints(self) -> None:
        """Remove the hints of tasks that are known to have ended. Never raises: what fails is left for later."""
        with self._lock:
            hints, self._ended = self._ended, set()
        if not hints:
            return
        try:
            self._store.delete_many(hints)
        except Exception:  # noqa: BLE001  # the transitions are stored, whatever the store raises here
            self._count("hints_left", len(hints))
            _log.exception("could not remove %d hints of ended tasks; the next opening does", len(hints))

    def cursor(self) -> int:
        """The present end of the change feed."""
        return self._store.changes()[0]

    def may_have_changed(self, cursor: int) -> bool:
        """Whether `changes` could return anything: never a false no."""
        return self._store.may_have_changed(cursor)

    def changes(self, cursor: int) -> tuple[int, list[tuple[str, TaskRecord | None, int]]]:
        """The new cursor, and (id, record or None for a deleted one, version) of each task that changed since."""
        newer, changes = self._store.changes(cursor, _TASK)
        return newer, [entry for change in changes if (entry := self._entry(change)) is not None]

    def read_known(self, task_id: str) -> tuple[TaskRecord, int] | None:
        """As `read`, and None for what is no record, which is counted and logged."""
        try:
            return self.read(task_id)
        except ForeignRecord as error:
            self._note_foreign(error)
            return None

    def _entry(self, change: Change) -> tuple[str, TaskRecord | None, int] | None:
        task_id = change.key.removeprefix(_TASK)
        if change.value is DELETED:
            with self._lock:
                self._known.pop(task_id, None)
            return task_id, None, change.version
        try:
            return task_id, self._decoded(change.key, change.value, change.version), change.version
        except ForeignRecord as error:
            self._note_foreign(error)
            return None

    def _decoded(self, key: str, value: Plain, version: int) -> TaskRecord:
        known = self._known.get(key.removeprefix(_TASK))
        if known is not None and known[1] == version:
            return known[0]
        record = decoded(key, _TASK, value, TaskRecord.from_plain)
        self._keep(record, version)
        return record

    def _keep(self, record: TaskRecord, version: int | None) -> None:
        """Remember the newest record of a task, of which there are not too many; None: what is remembered is old."""
        with self._lock:
            known = self._known.pop(record.id, None)
            if version is None:
                return
            self._known[record.id] = known if known is not None and known[1] > version else (record, version)
            if len(self._known) > _KNOWN:
                del self._known[next(iter(self._known))]

    def _note_foreign(self, error: ForeignRecord) -> None:
        self._count("foreign_records", 1)
        _log.warning("%s", error)
