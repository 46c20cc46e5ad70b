"""Tasks that any agent can claim and only one can hold, on any store.

The record under `task:<id>` is the truth and every transition is one compare-and-set on it. A key `open:<id>` is
written before the record and removed some time after the task has ended: it is a hint, which makes the first listing
cost the open tasks and not the history. Everything else here is a cache that the store's change feed keeps.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Literal

from attrs import frozen

from converge.coordination.errors import ClaimLost, InvalidTransition, TaskConflict, UnknownTask
from converge.coordination.task_index import Filter, TaskIndex, TaskProgress
from converge.coordination.task_record import TaskRecord
from converge.core.clock import Clock, SystemClock
from converge.core.errors import CursorExpired, VersionConflict
from converge.core.plain import Plain, pack
from converge.core.store import DELETED, Change, Store, Write, versioned
from converge.core.task import Task, TaskState
from converge.extensions.storage.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from converge.core.topic import Topic

__all__ = ["Claim", "TaskManager"]

_TASK, _OPEN = "task:", "open:"
_MAX_REMEMBERED_CLAIMS = 100_000
_ENDED_HINTS_PER_COMMIT = 100
_log = logging.getLogger(__name__)


@frozen
class Claim:
    """A lease on a task. `token` grows with every claim of the task: hand it to what the work changes, so that it can
    refuse an older one (fencing). `expires_at` is in Unix seconds, as of the last claim or renewal.
    """

    task_id: str
    agent_id: str
    attempt: int
    expires_at: float

    @property
    def token(self) -> int:
        """The fencing token: the attempt number."""
        return self.attempt


class TaskManager:
    """Submits, lists, claims and ends tasks in `store`, or in memory when there is none.

    Any number of managers, in any number of processes, may work on one store. Methods are synchronous and safe to
    call from several threads; with a store that is `blocking` they may wait for it. A method that raised has changed
    nothing. Task objects given to `submit` are kept up to date while the caller holds them.
    """

    def __init__(self, store: Store | None = None, *, clock: Clock | None = None) -> None:
        self._store = versioned(MemoryStore() if store is None else store)
        self._clock: Clock = SystemClock() if clock is None else clock
        self._lock = threading.RLock()
        self._index = TaskIndex()
        self._cursor: int | None = None
        self._claims: OrderedDict[tuple[str, str], Claim] = OrderedDict()
        self._submitted: weakref.WeakValueDictionary[str, Task] = weakref.WeakValueDictionary()
        self._ended_hints: list[str] = []
        self._listeners: list[Callable[[], None]] = []
        self.counters: Counter[str] = Counter()

    @property
    def blocking(self) -> bool:
        """Whether calls may wait for a disk or a network."""
        return self._store.blocking

    # -- submitting and reading

    def submit(self, task: Task) -> str:
        """Store `task`; its id. See `submit_many`."""
        return self.submit_many([task])[0]

    def submit_many(self, tasks: Iterable[Task]) -> list[str]:
        """Store tasks, in one commit where the store can; their ids.

        An id that exists with the same fields is left as it is, whatever has become of it: submitting again is safe.
        Raises `TaskConflict` when it exists with other fields, `ValueError` for constraints that make no sense and
        `TypeError` for what is not plain data, each before anything is stored.
        """
        tasks = list(tasks)
        now = self._clock.time()
        records: dict[str, TaskRecord] = {}
        for task in tasks:
            record = TaskRecord.of(task, now)
            pack(record.to_plain())
            self._same_or_conflict(records.setdefault(task.id, record), record)
        new = [record for record in records.values() if not self._exists(record)]
        if new:
            self._store.put_many({_OPEN + record.id: now for record in new})
            writes = [Write(_TASK + record.id, record.to_plain(), 0) for record in new]
            for record, version in zip(new, self._store.compare_and_set_many(writes), strict=True):
                if version is None and not self._exists(record):
                    raise TaskConflict(f"task {record.id} was taken away while it was submitted; submit it again")
        with self._lock:
            self._submitted.update({task.id: task for task in tasks})
        for task in tasks:
            if (found := self._read(task.id)) is not None and found[0].state != TaskState.PENDING.value:
                found[0].mirror_into(task)
        self._announce()
        return [task.id for task in tasks]

    def get_task(self, task_id: str) -> Task | None:
        """The task as the store holds it now, or None when there is none of this id."""
        found = self._read(task_id)
        return None if found is None else found[0].to_task()

    def list_pending_tasks(self) -> list[Task]:
        """Every PENDING task, higher priority first, then the longest waiting."""
        return self.list_pending_tasks_for_agent("")

    def list_pending_tasks_for_agent(
        self,
        agent_id: str,
        pool_ids: Collection[str] | None = None,
        capabilities: Collection[str] | None = None,
        topics: Collection[Topic] | None = None,
        limit: int | None = None,
    ) -> list[Task]:
        """The PENDING tasks an agent could claim, higher priority first, then the longest waiting.

        None does not filter; an empty collection leaves the tasks that ask for none. A task's topic fits when it
        `matches` one of `topics`. With `limit`, agents see tasks of one priority from different starting points.
        """
        self.sync()
        with self._lock:
            found = self._index.pending(Filter(pool_ids, capabilities, topics), agent_id, limit)
        return [record.to_task() for record in found]

    def list_held_tasks(self, agent_id: str) -> list[Task]:
        """The tasks ASSIGNED to an agent, the oldest claim first."""
        self.sync()
        with self._lock:
            return [record.to_task() for record in self._index.assigned_to(agent_id)]

    def open_among(self, task_ids: Collection[str]) -> set[str]:
        """Those of `task_ids` that have not ended."""
        self.sync()
        with self._lock:
            return {task_id for task_id in task_ids if self._index.is_open(task_id)}

    def progress(self) -> TaskProgress:
        """How many tasks are open, and how many have ended since this manager first looked."""
        self.sync()
        with self._lock:
            return self._index.progress()

    # -- the life of a claim

    def claim(
        self,
        agent_id: str,
        task_id: str,
        *,
        pool_ids: Collection[str] | None = None,
        capabilities: Collection[str] | None = None,
    ) -> Claim | Literal[False]:
        """A lease on the task, or False when somebody else holds it, it has ended, does not exist or does not fit.

        `pool_ids` and `capabilities` are what the agent has; None does not check. Claiming what I hold returns the
        same claim. A task that the same identity holds through another manager, such as a process that died, is taken
        over under a new attempt, and so is one whose lease has run out.
        """
        _check_agent(agent_id)
        wanted = Filter(pool_ids, capabilities)
        while True:
            found = self._read(task_id)
            if found is None:
                return False
            record, version = found
            now = self._clock.time()
            mine = self._claim_of(agent_id, task_id)
            if record.state == TaskState.ASSIGNED.value:
                if record.assigned_to == agent_id and mine is not None and mine.attempt == record.attempt:
                    return mine
                if record.assigned_to != agent_id and not record.is_expired(now):
                    return False
                record = record.expire(now, "lease expired" if record.is_expired(now) else "taken over by its agent")
            elif record.is_overdue(now):
                record = record.end(TaskState.FAILED, "the deadline passed before anybody started", now)
            if not record.is_open:
                if record is not found[0]:
                    self._try_store(record, version)
                return False
            if not wanted.takes(record):
                return False
            claimed = record.claim(agent_id, now)
            if self._try_store(claimed, version):
                return self._remember(claimed)

    def renew_claim(self, agent_id: str, task_id: str, *, claim: Claim | None = None) -> Claim:
        """The claim, extended by its TTL from now, at most to `timeout_sec` after it was made.

        Raises `ClaimLost` when the agent does not hold the task (any more) or `timeout_sec` is over.
        """
        attempt = self._attempt(agent_id, task_id, claim)
        return self._remember(self._update(task_id, lambda record, now: record.renew(agent_id, attempt, now)))

    def report(self, agent_id: str, task_id: str, result: Plain, *, claim: Claim | None = None) -> None:
        """Store the result: when this returns, the task is COMPLETED whatever happens to any process.

        Raises `ClaimLost` when the agent does not hold the task under the attempt it claimed, `UnknownTask` when there
        is none, `TypeError` when `result` is not plain data. The same report repeated by the same claim returns.
        """
        attempt = self._attempt(agent_id, task_id, claim)
        packed = pack(result)

        def move(record: TaskRecord, now: float) -> TaskRecord:
            again = record.state == TaskState.COMPLETED.value and record.assigned_to == agent_id
            if again and attempt in (None, record.attempt) and pack(record.result) == packed:
                return record
            return record.report(agent_id, attempt, result, now)

        self._update(task_id, move)

    def fail_task(self, task_id: str, reason: str, *, agent_id: str | None = None, claim: Claim | None = None) -> None:
        """Say that the task failed.

        By its claimant (`agent_id`): it is PENDING again while `max_retries` allows, else FAILED; `ClaimLost` when the
        agent does not hold it. Without an agent it is administrative and final; `InvalidTransition` when it had ended.
        """
        if agent_id is None:
            self._update(task_id, lambda record, now: record.end(TaskState.FAILED, reason, now))
            return
        attempt, claimant = self._attempt(agent_id, task_id, claim), agent_id
        self._update(task_id, lambda record, now: record.fail(claimant, attempt, reason, now))

    def cancel_task(self, task_id: str) -> bool:
        """Whether the task is CANCELLED by this call; False when it had ended or does not exist."""
        try:
            self._update(task_id, lambda record, now: record.end(TaskState.CANCELLED, "cancelled", now))
        except (InvalidTransition, UnknownTask):
            return False
        return True

    def renew_claims(self, agent_id: str) -> float | None:
        """Renew the claims that this manager holds for the agent, where a third of the TTL is over.

        Seconds until the next one is due, None when there is none. A claim that turns out to be lost is logged and
        counted in `counters["claims_lost"]`.
        """
        self.sync()
        with self._lock:
            held = [record for record in self._index.assigned_to(agent_id) if self._holds(agent_id, record)]
        pauses = []
        for record in held:
            now, ttl = self._clock.time(), record.claim_ttl_sec
            due = (record.lease_expires_at or now) - ttl * 2 / 3
            if due <= now:
                try:
                    self.renew_claim(agent_id, record.id)
                except (ClaimLost, UnknownTask) as lost:
                    self.counters["claims_lost"] += 1
                    _log.warning("%s", lost)
                due = now + ttl / 3
            pauses.append(due - now)
        return min(pauses, default=None)

    def release_claims(self, agent_id: str) -> list[str]:
        """Give back, PENDING, what this manager holds for the agent; the ids. An agent that stops does this."""
        self.sync()
        with self._lock:
            held = [record for record in self._index.assigned_to(agent_id) if self._holds(agent_id, record)]
        released = []
        for record in held:
            attempt = record.attempt
            try:
                self._update(record.id, lambda record, now, attempt=attempt: record.release(agent_id, attempt, now))  # type: ignore[misc]  # a default binds the loop's value
            except (ClaimLost, UnknownTask) as lost:
                _log.info("%s", lost)
            else:
                released.append(record.id)
        return released

    def _holds(self, agent_id: str, record: TaskRecord) -> bool:
        claim = self._claims.get((agent_id, record.id))
        return claim is not None and claim.attempt == record.attempt

    def release_expired_claims(self, now_ts: float | None = None) -> list[str]:
        """Re-queue, or fail for good, tasks whose lease has run out; fail those past their deadline. Their ids.

        `now_ts` is a `time.monotonic()` reading, by default the present one. Leases are stored in wall-clock time;
        the reading is converted by today's offset between the two clocks.
        """
        monotonic = self._clock.monotonic() if now_ts is None else now_ts
        now = self._clock.time() + (monotonic - self._clock.monotonic())
        self.sync()
        with self._lock:
            due = {task_id: self._index.version_of(task_id) for task_id in self._index.due(now, monotonic)}
        return [task_id for task_id, version in due.items() if self._release(task_id, version, now)]

    def take_over(self, agent_id: str) -> list[Claim]:
        """Claim anew what an earlier process of this agent held, so that work goes on without waiting for the leases.

        For one agent in one process at a time: the earlier process, should it still live, loses its claims.
        """
        orphaned = [task.id for task in self.list_held_tasks(agent_id) if self._claim_of(agent_id, task.id) is None]
        return [claim for task_id in orphaned if (claim := self.claim(agent_id, task_id))]

    # -- following the store

    def sync(self) -> bool:
        """Read what changed in the store since the last look; whether anything did. Costs little when nothing did."""
        with self._lock:
            if self._cursor is not None and not self._store.may_have_changed(self._cursor):
                return False
            try:
                changes = self._open_tasks() if self._cursor is None else self._feed(self._cursor)
            except CursorExpired:
                self._index.clear_open()
                changes = self._open_tasks()
            for change in changes:
                self._apply(change)
        return bool(changes)

    def poll(self) -> bool:
        """`sync`, and tell the listeners when something changed; whether it did."""
        changed = self.sync()
        if changed:
            self._announce()
        return changed

    def may_have_changed(self) -> bool:
        """Whether `sync` would find anything: cheap, never waits for a writer, never a false no."""
        return self._cursor is None or self._store.may_have_changed(self._cursor)

    def add_listener(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` whenever tasks may have changed, from whichever thread did it.

        Returns what removes it again.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def close(self) -> None:
        """Write what is only kept to save commits. The store stays open: who made it closes it."""
        self._drop_hints()

    def _feed(self, cursor: int) -> list[Change]:
        self._cursor, changes = self._store.changes(cursor, _TASK)
        return changes

    def _open_tasks(self) -> list[Change]:
        """What the hints lead to; a hint to a task that has ended is removed, one without a record is left: the
        record may be on its way.
        """
        self._cursor = self._store.changes()[0]
        opened: list[Change] = []
        for hint in self._store.list(_OPEN):
            key = _TASK + hint.removeprefix(_OPEN)
            found = self._store.get_versioned(key)
            if found is None:
                continue
            if isinstance(found[0], dict) and TaskRecord.from_plain(found[0]).is_open:
                opened.append(Change(key, *found))
            else:
                self._ended_hints.append(hint)
        return opened

    def _apply(self, change: Change) -> None:
        if change.value is DELETED:
            self._index.forget(change.key.removeprefix(_TASK))
            return
        if not isinstance(change.value, dict):
            self.counters["foreign_record"] += 1
            _log.warning("%s is no task record; it is left alone", change.key)
            return
        record = TaskRecord.from_plain(change.value)
        self._index.apply(record, change.version, self._clock.monotonic())
        if not record.is_open:
            self._ended_hints.append(_OPEN + record.id)
        if (task := self._submitted.get(record.id)) is not None:
            record.mirror_into(task)

    # -- single steps

    def _read(self, task_id: str) -> tuple[TaskRecord, int] | None:
        found = self._store.get_versioned(_TASK + task_id)
        if found is None:
            return None
        value, version = found
        if not isinstance(value, dict):
            raise ValueError(f"the store holds no task record under {_TASK + task_id!r}")
        return TaskRecord.from_plain(value), version

    def _exists(self, record: TaskRecord) -> bool:
        found = self._read(record.id)
        if found is not None:
            self._same_or_conflict(found[0], record)
        return found is not None

    @staticmethod
    def _same_or_conflict(known: TaskRecord, record: TaskRecord) -> None:
        if not known.same_task_as(record):
            raise TaskConflict(f"task {record.id} exists and is another one; choose a new id for this one")

    def _try_store(self, record: TaskRecord, version: int) -> bool:
        try:
            self._store.compare_and_set(_TASK + record.id, record.to_plain(), version)
        except VersionConflict:
            self.counters["contended"] += 1
            return False
        self._stored(record)
        return True

    def _stored(self, record: TaskRecord) -> None:
        if (task := self._submitted.get(record.id)) is not None:
            record.mirror_into(task)
        self._announce()
        if not record.is_open and len(self._ended_hints) >= _ENDED_HINTS_PER_COMMIT:
            self._drop_hints()

    def _update(self, task_id: str, move: Callable[[TaskRecord, float], TaskRecord]) -> TaskRecord:
        while True:
            found = self._read(task_id)
            if found is None:
                raise UnknownTask(f"there is no task {task_id}")
            record, version = found
            moved = move(record, self._clock.time())
            if moved is record or self._try_store(moved, version):
                return moved

    def _release(self, task_id: str, version: int | None, now: float) -> bool:
        found = self._read(task_id)
        if found is None or found[1] != version:
            return False
        record = found[0]
        if record.state == TaskState.ASSIGNED.value:
            return self._try_store(record.expire(now), found[1])
        return self._try_store(
            record.end(TaskState.FAILED, "the deadline passed before anybody started", now), found[1]
        )

    def _drop_hints(self) -> None:
        with self._lock:
            hints, self._ended_hints = self._ended_hints, []
        try:
            self._store.delete_many(hints)
        except Exception:  # noqa: BLE001  # whatever the store raises
            # The transitions are stored; a hint that stays costs one read at the next opening, which removes it.
            self.counters["hints_left"] += len(hints)
            _log.exception("could not remove %d hints of ended tasks; they are removed later", len(hints))

    def _remember(self, record: TaskRecord) -> Claim:
        assert record.assigned_to is not None  # tells the type checker what a claim means
        claim = Claim(record.id, record.assigned_to, record.attempt, record.lease_expires_at or 0.0)
        with self._lock:
            self._claims[record.assigned_to, record.id] = claim
            self._claims.move_to_end((record.assigned_to, record.id))
            while len(self._claims) > _MAX_REMEMBERED_CLAIMS:
                self._claims.popitem(last=False)
        return claim

    def _claim_of(self, agent_id: str, task_id: str) -> Claim | None:
        with self._lock:
            return self._claims.get((agent_id, task_id))

    def _attempt(self, agent_id: str, task_id: str, claim: Claim | None) -> int | None:
        _check_agent(agent_id)
        claim = claim or self._claim_of(agent_id, task_id)
        if claim is not None and (claim.agent_id, claim.task_id) != (agent_id, task_id):
            raise ClaimLost(
                f"the claim given is on task {claim.task_id} by {claim.agent_id}, not on {task_id} by {agent_id}"
            )
        return None if claim is None else claim.attempt

    def _announce(self) -> None:
        for listener in tuple(self._listeners):
            try:
                listener()
            except Exception:  # noqa: BLE001  # the write is done; a listener must not make it look undone
                self.counters["listener_failed"] += 1
                _log.exception("a listener of task changes failed")


def _check_agent(agent_id: str) -> None:
    if not agent_id:
        raise ClaimLost(f"an agent id is a non-empty str, not {agent_id!r}; nobody else can hold a task")
