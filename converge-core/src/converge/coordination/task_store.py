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
    from collections.abc import Callable, Iterable, Sequence

    from converge.core.notices import Notices
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

    def present(self, task_ids: Iterable[str]) -> list[str]:
        """Those of the ids that there is something under."""
        found = self._store.versions_of(_TASK + task_id for task_id in task_ids)
        return [key.removeprefix(_TASK) for key in found]

    def write(self, record: TaskRecord, version: int) -> int | None:
        """Store the next state of a task whose record has `version`, 0 for a new task; the new version.

        None when the version was another one.
        """
        if not version:
            return self.write_many([(record, 0)])[0]
        if record.is_dead:
            self._announce_dead([record])
        stored: int | None
        try:
            stored = self._store.compare_and_set(_TASK + record.id, record.to_plain(), version)
        except VersionConflict:
            self._count("contended", 1)
            stored = None
        with self._lock:
            self._keep(record, stored)
        if stored is None:
            return None
        if not record.is_open:
            self._note_ended([record.id])
        return stored

    def write_many(self, moves: Sequence[tuple[TaskRecord, int]]) -> list[int | None]:
        """`write` for each, in one commit where the store can."""
        if len(moves) == 1 and moves[0][1]:
            return [self.write(*moves[0])]
        self._announce_dead([record for record, _ in moves if record.is_dead])
        writes: list[Write] = []
        for record, version in moves:
            if not version:
                writes.append(Write(_OPEN + record.id, record.submitted_at, 0))
            writes.append(Write(_TASK + record.id, record.to_plain(), version))
        versions = self._store.compare_and_set_many(writes)
        stored = [given for write, given in zip(writes, versions, strict=True) if write.key.startswith(_TASK)]
        with self._lock:
            for (record, version), given in zip(moves, stored, strict=True):
                if given is None and version:
                    self._count("contended", 1)
                self._keep(record, given)
        ended = [move[0].id for move, given in zip(moves, stored, strict=True) if given and not move[0].is_open]
        if ended:
            self._note_ended(ended)
        return stored

    def _announce_dead(self, records: Sequence[TaskRecord]) -> None:
        if records:
            self._store.put_many({_DEAD + record.id: None for record in records})

    def dead_ids(self) -> list[str]:
        """The ids that have a hint: those of all tasks that have FAILED, and perhaps of others."""
        return [hint.removeprefix(_DEAD) for hint in self._store.list(_DEAD)]

    def bury(self, task_ids: Sequence[str]) -> None:
        """Remove the hints of tasks that are not dead any more: requeued, or ended otherwise.

        Never raises: what fails is left, and the next listing removes it.
        """
        if not task_ids:
            return
        try:
            self._store.delete_many([_DEAD + task_id for task_id in task_ids])
        except Exception:  # noqa: BLE001  # what was stored before, or read, is right without it
            self._count("hints_left", len(task_ids))
            _log.exception("could not remove %d hints of tasks that are not dead any more", len(task_ids))

    def open_ids(self) -> list[str]:
        """The ids that have a hint: those of all open tasks, and perhaps of others."""
        return [hint.removeprefix(_OPEN) for hint in self._store.list(_OPEN)]

    def note_ended(self, task_id: str) -> None:
        """Let the hint of a task that has ended be removed with the next ones."""
        with self._lock:
            self._ended.add(_OPEN + task_id)

    def _note_ended(self, task_ids: Iterable[str]) -> None:
        """As `note_ended`, after a write, and remove hints when there are enough of them."""
        with self._lock:
            self._ended.update(_OPEN + task_id for task_id in task_ids)
            enough = len(self._ended) >= _HINTS_PER_COMMIT
        if enough:
            self.drop_hints()

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

    def notices(self) -> Notices | None:
        """As `VersionedStore.notices`."""
        return self._store.notices()

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
        with self._lock:
            self._keep(record, version)
        return record

    def _keep(self, record: TaskRecord, version: int | None) -> None:
        """Remember the newest record of a task, of which there are not too many; None: what is remembered is old.

        To be called with the lock.
        """
        known = self._known.pop(record.id, None)
        if version is None:
            return
        self._known[record.id] = known if known is not None and known[1] > version else (record, version)
        if len(self._known) > _KNOWN:
            del self._known[next(iter(self._known))]

    def _note_foreign(self, error: ForeignRecord) -> None:
        self._count("foreign_records", 1)
        _log.warning("%s", error)
