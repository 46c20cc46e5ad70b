"""The steps that a task manager is made of: one compare-and-set each, the store first and memory after."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Literal

from converge.coordination.claims import Claim, ClaimBook, next_for_claim
from converge.coordination.errors import ClaimLost, InvalidTransition, TaskConflict, UnknownTask
from converge.coordination.task_mirror import TaskMirror
from converge.coordination.task_record import TaskRecord
from converge.coordination.task_store import TaskStore
from converge.coordination.task_view import TaskView
from converge.core.plain import Plain, pack, unpack_own
from converge.core.task import Task, TaskState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from converge.coordination.task_index import Filter
    from converge.core.clock import Clock
    from converge.core.store import Store

__all__ = ["TaskSteps", "check_agent", "check_same"]

_log = logging.getLogger(__name__)


class TaskSteps:
    """What the methods of one `TaskManager` share: the records, the view of them, the claims made here. Thread-safe."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.clock = clock
        self.counters: Counter[str] = Counter()
        self.claiming = threading.RLock()
        self.tasks = TaskStore(store, self.count)
        self.mirror = TaskMirror()
        self.claims = ClaimBook()
        self.view = TaskView(self.tasks, self.mirror, self.claims, clock)
        self._lock = threading.Lock()  # of counters and listeners
        self._listeners: dict[object, Callable[[], None]] = {}
        self._told: tuple[Callable[[], None], ...] = ()

    # -- telling

    def add_listener(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` at each `announce`; returns what removes it again."""
        key = object()

        def change(listener: Callable[[], None] | None) -> None:
            with self._lock:
                if listener is None:
                    self._listeners.pop(key, None)
                else:
                    self._listeners[key] = listener
                self._told = (*self._listeners.values(),)

        change(listener)
        return partial(change, None)

    def announce(self) -> None:
        """Tell the listeners that tasks may have changed."""
        for listener in self._told:
            try:
                listener()
            except Exception:  # noqa: BLE001  # the write is done; a listener must not make it look undone
                self.count("listener_failed")
                _log.exception("a listener of task changes failed")

    def count(self, name: str, count: int = 1) -> None:
        """Add to a counter."""
        with self._lock:
            self.counters[name] += count

    # -- reading

    def read(self, task_id: str) -> tuple[TaskRecord, int]:
        """The record and its version; `UnknownTask` when there is none."""
        found = self.tasks.read(task_id)
        if found is None:
            raise UnknownTask(task_id)
        return found

    def attempt(self, agent_id: str, task_id: str, claim: Claim | None) -> int | None:
        """The epoch of the claim given, or of the agent's claim made here; None when none is known."""
        check_agent(agent_id, task_id)
        claim = claim or self.claims.get(agent_id, task_id)
        if claim is not None and (claim.agent_id, claim.task_id) != (agent_id, task_id):
            raise ClaimLost(
                f"the claim given is on task {claim.task_id} by {claim.agent_id}, not on {task_id} by {agent_id}",
                task_id,
            )
        return None if claim is None else claim.attempt

    # -- submitting

    def submit(self, tasks: Sequence[Task], traceparent: str | None = None) -> list[str]:
        """See `TaskManager.submit_many`; `traceparent` is the trace of those that name none."""
        now = self.clock.time()
        records: dict[str, TaskRecord] = {}
        for task in tasks:
            record = TaskRecord.of(task, now, traceparent)
            if (known := records.setdefault(task.id, record)) is not record:
                check_same(known, record)
        with self.mirror.submitting(tasks):
            self._submit(tasks, records)
        if any(record.depends_on for record in records.values()):
            self.fail_dependents_or_leave_them()
        self.announce()
        return [task.id for task in tasks]

    def _submit(self, tasks: Sequence[Task], records: dict[str, TaskRecord]) -> None:
        """Store the records that are not there, and let the tasks follow theirs."""
        there: dict[str, tuple[TaskRecord, int]] = {}
        pending = all(task.state is TaskState.PENDING for task in tasks)
        if len(records) > 1 or not pending:  # a conflict must keep all of them out
            for task_id in self.tasks.present(records):
                if found := self._same_task(records[task_id]):
                    there[task_id] = found
        new = [record for task_id, record in records.items() if task_id not in there]
        for task in () if pending else tasks:
            if task.id not in there and task.state is not TaskState.PENDING:
                raise ValueError(f"task {task.id} is {task.state.value}; only a PENDING task can be submitted")
        if any(record.depends_on for record in new):
            self._check_dependencies(new, records)
        for record, version in zip(new, self.tasks.write_many([(each, 0) for each in new]) if new else (), strict=True):
            if version is not None:
                there[record.id] = record, version
        for task in tasks:
            if task.id not in there:  # somebody was faster: it is the same task, or a conflict
                there[task.id] = self._taken(records[task.id])
            self.mirror.accept(task, *there[task.id])

    def _taken(self, record: TaskRecord) -> tuple[TaskRecord, int]:
        found = self._same_task(record)
        if found is None:
            raise TaskConflict(f"task {record.id} was taken away while it was submitted; submit it again", record.id)
        return found

    def _same_task(self, record: TaskRecord) -> tuple[TaskRecord, int] | None:
        """What the store holds of this task; `TaskConflict` when it is another one."""
        found = self.tasks.read(record.id)
        if found is not None:
            check_same(found[0], record)
        return found

    def _check_dependencies(self, new: Sequence[TaskRecord], together: dict[str, TaskRecord]) -> None:
        """`UnknownTask` for a dependency that does not exist, `ValueError` for tasks that wait for each other."""
        for record in new:
            for name in record.depends_on:
                if name not in together:
                    self.read(name)
        ready: set[str] = set()
        left = {record.id: {name for name in record.depends_on if name in together} for record in new}
        left |= {task_id: set() for task_id in together if task_id not in left}
        while free := [task_id for task_id, names in left.items() if names <= ready]:
            ready.update(free)
            for task_id in free:
                del left[task_id]
        if left:
            raise ValueError(f"the tasks {', '.join(sorted(left))} wait for each other; nobody could ever start one")

    # -- moving

    def claim(self, agent_id: str, task_id: str, wanted: Filter) -> Claim | Literal[False]:
        """See `TaskManager.claim`."""
        with self.claiming:  # else a second thread of this agent could take over what the first is just claiming
            claim, wrote = self._claim(agent_id, task_id, wanted)
        if wrote:
            self.announce()
        return claim

    def _claim(self, agent_id: str, task_id: str, wanted: Filter) -> tuple[Claim | Literal[False], bool]:
        """The claim, or False; and whether anything was stored."""
        known = self.tasks.last_known(task_id)
        while True:
            found = known or self.tasks.read(task_id)
            if found is None:
                return False, False
            record, version = found
            mine = self.claims.get(agent_id, task_id)
            held = (
                mine is not None and record.is_open and (record.assigned_to, record.attempt) == (agent_id, mine.attempt)
            )
            next_record = None if held else self.next_for_claim(record, agent_id, wanted, self.clock.time())
            if next_record is not None and self.store(next_record, version):
                if next_record.is_open:
                    return self.claims.remember(next_record), True
                self.fail_dependents_or_leave_them()
                return False, True
            if known is None and next_record is None:
                return mine if held and mine is not None else False, False
            known = None  # what was remembered is good for a write, and for no answer

    def next_for_claim(self, record: TaskRecord, agent_id: str, wanted: Filter, now: float) -> TaskRecord | None:
        """The record to store when an agent asks for the task; None when there is nothing to store."""
        if record.is_pending and record.depends_on:
            needed = {name: found[0] for name in record.depends_on if (found := self.tasks.read_known(name))}
            for name, other in needed.items():
                if other.has_failed:
                    return record.miss_dependency(name, other.state, now)
            if len(needed) < len({*record.depends_on}) or any(other.is_open for other in needed.values()):
                return None
        return next_for_claim(record, agent_id, wanted, now)

    def report(self, agent_id: str, task_id: str, result: Plain, claim: Claim | None) -> None:
        """See `TaskManager.report`."""
        attempt = self.attempt(agent_id, task_id, claim)
        own: Plain = unpack_own(pack(result))
        self.update(task_id, lambda record, now: record.report(agent_id, attempt, own, now))

    def update(self, task_id: str, move: Callable[[TaskRecord, float], TaskRecord]) -> TaskRecord:
        """Store what `move` makes of the record and the present time, again when somebody else was faster."""
        known = self.tasks.last_known(task_id)
        while True:
            record, version = known or self.read(task_id)
            try:
                moved = move(record, self.clock.time())
            except ValueError:
                if known is None:
                    raise
                moved = record
            if moved is record and known is None:
                return record
            if moved is not record and self.store(moved, version):
                if moved.has_failed:
                    self.fail_dependents_or_leave_them()
                self.announce()
                return moved
            known = None  # what was remembered is good for a write, and for no answer

    def release(self, task_id: str, version: int | None) -> bool:
        """Whether the task was released; not when it has changed since it was found to be due."""
        found = self.tasks.read(task_id)
        if found is None or found[1] != version:
            return False
        record, now = found[0], self.clock.time()
        return self.store(record.miss_deadline(now) if record.is_pending else record.expire(now), version)

    def fail_dependents(self) -> list[str]:
        """Fail the tasks that depend on one that has failed or was cancelled, and so on; their ids."""
        failed: list[str] = []
        while True:
            with self.view.synced() as index:
                doomed = index.doomed()
            before = len(failed)
            for task_id, dependency, state in doomed:
                try:
                    self._miss_dependency(task_id, dependency, state)
                except (InvalidTransition, UnknownTask):
                    continue  # somebody else has ended it meanwhile
                failed.append(task_id)
            if len(failed) == before:
                return failed

    def fail_dependents_or_leave_them(self) -> None:
        """`fail_dependents` after a move that is stored and must not look undone: what fails is left for later."""
        try:
            self.fail_dependents()
        except Exception:  # noqa: BLE001  # the move is stored, whatever the store raises here
            self.count("dependents_left")
            _log.exception("could not fail the tasks that depend on a failed one; the next release of claims does")

    def _miss_dependency(self, task_id: str, dependency: str, state: str) -> None:
        while True:
            record, version = self.read(task_id)
            if not record.is_pending:
                raise InvalidTransition(f"task {task_id} is {record.state}", task_id)
            if self.store(record.miss_dependency(dependency, state, self.clock.time()), version):
                return

    def store(self, record: TaskRecord, version: int) -> bool:
        """Whether the record was stored in the place of `version`."""
        stored = self.tasks.write(record, version)
        if stored is None:
            return False
        self.note_stored(record, stored)
        return True

    def note_stored(self, record: TaskRecord, version: int) -> None:
        """Let memory follow what the store has accepted."""
        self.mirror.update(record, version)
        self.claims.see(record)


def check_same(known: TaskRecord, record: TaskRecord) -> None:
    """`TaskConflict` unless both are of one task."""
    if not known.same_task_as(record):
        raise TaskConflict(f"task {record.id} exists and is another one; choose a new id for this one", record.id)


def check_agent(agent_id: object, task_id: str) -> None:
    """`ClaimLost` for what is no agent id."""
    if not isinstance(agent_id, str) or not agent_id:
        raise ClaimLost(f"an agent id is a non-empty str, not {agent_id!r}; nobody else can hold a task", task_id)
