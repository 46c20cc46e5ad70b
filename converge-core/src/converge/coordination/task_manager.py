"""Tasks that any agent can claim and only one can hold, on any store.

The record in the store is the truth and every transition is one compare-and-set on it (`task_store`, `task_record`).
Everything else here is a cache: what is open (`task_view`), which claims were made here (`claims`), and the objects
that callers submitted (`task_mirror`). The store comes first and memory after.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from typing import TYPE_CHECKING, Literal

from converge.coordination.claims import Claim, ClaimBook, next_for_claim
from converge.coordination.errors import ClaimLost, InvalidTransition, TaskConflict, UnknownTask
from converge.coordination.task_index import Filter, HeldTask, TaskProgress
from converge.coordination.task_mirror import TaskMirror
from converge.coordination.task_record import TaskRecord
from converge.coordination.task_store import TaskStore
from converge.coordination.task_view import TaskView
from converge.core.clock import Clock, SystemClock
from converge.core.plain import Plain, pack, unpack
from converge.core.task import Task, TaskState
from converge.extensions.storage.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from converge.core.store import Store
    from converge.core.topic import Topic

__all__ = ["Claim", "TaskManager"]

_log = logging.getLogger(__name__)


class TaskManager:
    """Submits, lists, claims and ends tasks in `store`, or in memory when there is none.

    Any number of managers, in any number of processes, may work on one store. Methods are synchronous and safe to
    call from several threads; with a store that is `blocking` they may wait for it. A method that moves one task and
    raised has changed nothing. Task objects given to `submit` are kept up to date while the caller holds them.

    `counters` counts what nobody else is told: `contended` writes, `claims_lost` at renewals, failures of listeners,
    `foreign_records`, and `hints_left`.
    """

    def __init__(self, store: Store | None = None, *, clock: Clock | None = None) -> None:
        self._clock: Clock = SystemClock() if clock is None else clock
        self.counters: Counter[str] = Counter()
        self._lock = threading.Lock()  # of counters and listeners
        self._claiming = threading.RLock()
        self._listeners: dict[object, Callable[[], None]] = {}
        self._tasks = TaskStore(MemoryStore() if store is None else store, self._count)
        self._mirror = TaskMirror()
        self._claims = ClaimBook()
        self._told = 0  # the generation of the view that the listeners know of
        self._view = TaskView(self._tasks, self._mirror, self._claims, self._clock)

    @property
    def blocking(self) -> bool:
        """Whether calls may wait for a disk or a network."""
        return self._tasks.blocking

    # -- submitting and reading

    def submit(self, task: Task) -> str:
        """Store `task`; its id. See `submit_many`."""
        return self.submit_many([task])[0]

    def submit_many(self, tasks: Iterable[Task]) -> list[str]:
        """Store tasks, in one commit where the store can; their ids.

        An id that exists with the same fields is left as it is, whatever has become of it: submitting again is safe.
        Raises `TaskConflict` when it exists with other fields, `ValueError` for fields that make no sense and
        `TypeError` for what is not plain data, each before anything is stored. Only when somebody else takes one of
        the ids at the same instant, or a store without commits fails half-way, may other tasks have been stored.
        """
        tasks = list(tasks)
        now = self._clock.time()
        records: dict[str, TaskRecord] = {}
        for task in tasks:
            record = TaskRecord.of(task, now)
            _check_same(records.setdefault(task.id, record), record)
        with self._mirror.submitting(tasks):
            self._submit(tasks, records)
        self._announce()
        return [task.id for task in tasks]

    def get_task(self, task_id: str) -> Task | None:
        """The task as the store holds it now, or None when there is none of this id."""
        found = self._tasks.read(task_id)
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
        if limit is not None and limit < 0:
            raise ValueError(f"a limit is 0 or more, not {limit}")
        wanted = Filter(pool_ids, capabilities, topics)
        with self._view.synced() as index:
            found = index.pending(wanted, agent_id, limit)
        return [record.to_task() for record in found]

    def list_held_tasks(self, agent_id: str) -> list[Task]:
        """The tasks ASSIGNED to an agent, the oldest claim first."""
        return [held.record.to_task() for held in self._held(agent_id)]

    def open_among(self, task_ids: Collection[str]) -> set[str]:
        """Those of `task_ids` that have not ended."""
        with self._view.synced() as index:
            return {task_id for task_id in task_ids if index.is_open(task_id)}

    def progress(self) -> TaskProgress:
        """How many tasks are open, and how many have ended since this manager first looked."""
        with self._view.synced() as index:
            return index.progress()

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
        _check_agent(agent_id, task_id)
        wanted = Filter(pool_ids, capabilities)
        with self._claiming:  # else a second thread of this agent could take over what the first is just claiming
            claim, wrote = self._claim(agent_id, task_id, wanted)
        if wrote:
            self._announce()
        return claim

    def claim_many(
        self,
        agent_id: str,
        task_ids: Iterable[str],
        *,
        pool_ids: Collection[str] | None = None,
        capabilities: Collection[str] | None = None,
    ) -> list[Claim | Literal[False]]:
        """`claim` for each task, in one commit where the store can."""
        ids = list(task_ids)
        for task_id in ids:
            _check_agent(agent_id, task_id)
        wanted, now = Filter(pool_ids, capabilities), self._clock.time()
        with self._claiming:
            moves: dict[str, tuple[TaskRecord, int]] = {}
            for task_id in ids:
                found = self._tasks.read(task_id)
                if found is None or self._claims.holds(found[0]):
                    continue
                claimed = next_for_claim(found[0], agent_id, wanted, now)
                if claimed is not None:
                    moves[task_id] = claimed, found[1]
            stored = [moves[task_id][0] for task_id in self._store_many([*moves.values()])]
            claims = {record.id: self._claims.remember(record) for record in stored if record.is_open}
            alone = {task_id: self._claim(agent_id, task_id, wanted) for task_id in ids if task_id not in claims}
        if stored or any(wrote for _, wrote in alone.values()):
            self._announce()
        return [claims[task_id] if task_id in claims else alone[task_id][0] for task_id in ids]

    def renew_claim(self, agent_id: str, task_id: str, *, claim: Claim | None = None) -> Claim:
        """The claim, extended by its TTL from now, at most to `timeout_sec` after it was made.

        Raises `ClaimLost` when the agent does not hold the task (any more) or `timeout_sec` is over.
        """
        attempt = self._attempt(agent_id, task_id, claim)
        return self._claims.remember(self._update(task_id, lambda record, now: record.renew(agent_id, attempt, now)))

    def report(self, agent_id: str, task_id: str, result: Plain, *, claim: Claim | None = None) -> None:
        """Store the result: when this returns, the task is COMPLETED whatever happens to any process.

        Raises `ClaimLost` when the agent does not hold the task under the attempt it claimed, `UnknownTask` when there
        is none, `TypeError` when `result` is not plain data. The same report repeated by the same claim returns.
        """
        attempt = self._attempt(agent_id, task_id, claim)
        own: Plain = unpack(pack(result))
        self._update(task_id, lambda record, now: record.report(agent_id, attempt, own, now))

    def report_many(self, agent_id: str, results: Mapping[str, Plain]) -> dict[str, Exception]:
        """`report` for each task (id → result), in one commit where the store can.

        What was not stored, by id, with the error that `report` has for it; empty when all was.
        """
        moves: list[tuple[TaskRecord, int]] = []
        refused: dict[str, Exception] = {}
        for task_id, result in results.items():
            try:
                attempt, own = self._attempt(agent_id, task_id, None), unpack(pack(result))
                record, version = self._read(task_id)
                moved = record.report(agent_id, attempt, own, self._clock.time())
                if moved is not record:
                    moves.append((moved, version))
            except (ValueError, TypeError) as error:
                refused[task_id] = error
        stored = self._store_many(moves)
        if stored:
            self._announce()
        for task_id in [record.id for record, _ in moves if record.id not in stored]:
            try:
                self.report(agent_id, task_id, results[task_id])  # somebody changed the task just now: look again
            except (ValueError, TypeError) as error:
                refused[task_id] = error
        return refused

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
        counted in `counters["claims_lost"]`; one that has reached its `timeout_sec` is left to run out.
        """
        pauses = []
        for held in self._held_here(agent_id):
            record, ttl = held.record, held.record.claim_ttl_sec
            if (record.lease_expires_at or 0.0) >= record.timeout_at:
                continue
            pause = held.seconds_left(self._clock.time(), self._clock.monotonic()) - ttl * 2 / 3
            if pause <= 0:
                try:
                    self.renew_claim(agent_id, record.id)
                except (ClaimLost, UnknownTask) as lost:
                    self._count("claims_lost")
                    _log.warning("%s", lost)
                    continue
                pause = ttl / 3
            pauses.append(pause)
        return min(pauses, default=None)

    def release_claims(self, agent_id: str) -> list[str]:
        """Give back, PENDING, what this manager holds for the agent; the ids. An agent that stops does this."""
        released = []
        for held in self._held_here(agent_id):
            task_id, attempt = held.record.id, held.record.attempt
            try:
                self._update(task_id, lambda record, now, epoch=attempt: record.release(agent_id, epoch, now))  # type: ignore[misc]  # a default binds the loop's value
            except (ClaimLost, UnknownTask) as lost:
                _log.info("%s", lost)
            else:
                released.append(task_id)
        return released

    def release_expired_claims(self, now_ts: float | None = None) -> list[str]:
        """Re-queue, or fail for good, tasks whose lease has run out; fail those past their deadline. Their ids.

        `now_ts` is a `time.monotonic()` reading, by default the present one. Leases are stored in wall-clock time;
        the reading is converted by today's offset between the two clocks. Each task is a step of its own: when the
        store fails, those before it are done.
        """
        monotonic = self._clock.monotonic() if now_ts is None else now_ts
        now = self._clock.time() + (monotonic - self._clock.monotonic())
        with self._view.synced() as index:
            due = {task_id: index.version_of(task_id) for task_id in index.due(now, monotonic)}
        released: list[str] = []
        try:
            released += (task_id for task_id, version in due.items() if self._release(task_id, version))
        finally:
            if due:
                self._announce()
        return released

    def take_over(self, agent_id: str) -> list[Claim]:
        """Claim anew what an earlier process of this agent held, so that work goes on without waiting for the leases.

        For one agent in one process at a time: the earlier process, should it still live, loses its claims.
        """
        orphaned = [held.record.id for held in self._held(agent_id) if not self._claims.holds(held.record)]
        return [claim for task_id in orphaned if (claim := self.claim(agent_id, task_id))]

    # -- following the store

    def sync(self) -> bool:
        """Read what changed in the store since the last look; whether anything did. Costs little when nothing did."""
        return self._view.sync()

    def poll(self) -> bool:
        """`sync`, and tell the listeners when something has changed since the last `poll`; whether it has.

        What a listing in another thread read in between counts too: it told nobody.
        """
        self.sync()
        generation = self._view.generation
        if generation == self._told:
            return False
        self._told = generation
        self._announce()
        return True

    def may_have_changed(self) -> bool:
        """Whether `poll` would tell anything: cheap, never waits for a writer, never a false no."""
        return self._view.generation != self._told or self._view.may_have_changed()

    def add_listener(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` whenever tasks may have changed, from whichever thread did it.

        Returns what removes it again; removing twice is no error.
        """
        key = object()
        with self._lock:
            self._listeners[key] = listener

        def remove() -> None:
            with self._lock:
                self._listeners.pop(key, None)

        return remove

    def close(self) -> None:
        """Write what is only kept to save commits. The store stays open: who made it closes it."""
        self._tasks.drop_hints()

    # -- single steps

    def _submit(self, tasks: list[Task], records: dict[str, TaskRecord]) -> None:
        there = {task_id: found for task_id, record in records.items() if (found := self._same_task(record))}
        new = [record for task_id, record in records.items() if task_id not in there]
        for task in tasks:
            if task.id not in there and task.state is not TaskState.PENDING:
                raise ValueError(f"task {task.id} is {task.state.value}; only a PENDING task can be submitted")
        taken = []
        for record, version in zip(new, self._tasks.create(new) if new else (), strict=True):
            if version is None:
                taken.append(record)
            else:
                there[record.id] = record, version
        for task in tasks:
            if task.id in there:
                self._mirror.accept(task, *there[task.id])
        for record in taken:  # somebody was faster: it is the same task, or a conflict
            found = self._same_task(record)
            if found is None:
                text = f"task {record.id} was taken away while it was submitted; submit it again"
                raise TaskConflict(text, record.id)
            for task in tasks:
                if task.id == record.id:
                    self._mirror.accept(task, *found)

    def _same_task(self, record: TaskRecord) -> tuple[TaskRecord, int] | None:
        """What the store holds of this task; `TaskConflict` when it is another one."""
        found = self._tasks.read(record.id)
        if found is not None:
            _check_same(found[0], record)
        return found

    def _claim(self, agent_id: str, task_id: str, wanted: Filter) -> tuple[Claim | Literal[False], bool]:
        """The claim, or False; and whether anything was stored."""
        while True:
            found = self._tasks.read(task_id)
            if found is None:
                return False, False
            record, version = found
            mine = self._claims.get(agent_id, task_id)
            if (
                mine is not None
                and record.assigned_to == agent_id
                and record.attempt == mine.attempt
                and record.is_open
            ):
                return mine, False
            next_record = next_for_claim(record, agent_id, wanted, self._clock.time())
            if next_record is None:
                return False, False
            if self._store(next_record, version):
                return self._claims.remember(next_record) if next_record.is_open else False, True

    def _read(self, task_id: str) -> tuple[TaskRecord, int]:
        found = self._tasks.read(task_id)
        if found is None:
            raise UnknownTask(task_id)
        return found

    def _update(self, task_id: str, move: Callable[[TaskRecord, float], TaskRecord]) -> TaskRecord:
        while True:
            record, version = self._read(task_id)
            moved = move(record, self._clock.time())
            if moved is record:
                return record
            if self._store(moved, version):
                self._announce()
                return moved

    def _release(self, task_id: str, version: int | None) -> bool:
        """Whether the task was released; not when it has changed since it was found to be due."""
        found = self._tasks.read(task_id)
        if found is None or found[1] != version:
            return False
        record, now = found[0], self._clock.time()
        released = record.miss_deadline(now) if record.state == TaskState.PENDING.value else record.expire(now)
        return self._store(released, version)

    def _store(self, record: TaskRecord, version: int) -> bool:
        stored = self._tasks.replace(record, version)
        if stored is None:
            return False
        self._note_stored(record, stored)
        return True

    def _note_stored(self, record: TaskRecord, version: int) -> None:
        self._mirror.update(record, version)
        if not record.is_open:
            self._claims.forget(record.id)

    def _store_many(self, moves: Sequence[tuple[TaskRecord, int]]) -> set[str]:
        """The ids of those that were stored; the others had changed meanwhile."""
        stored: set[str] = set()
        if not moves:
            return stored
        for (record, _), version in zip(moves, self._tasks.replace_many(moves), strict=True):
            if version is not None:
                stored.add(record.id)
                self._note_stored(record, version)
        return stored

    def _held(self, agent_id: str) -> list[HeldTask]:
        with self._view.synced() as index:
            return index.held_by(agent_id)

    def _held_here(self, agent_id: str) -> list[HeldTask]:
        return [held for held in self._held(agent_id) if self._claims.holds(held.record)]

    def _attempt(self, agent_id: str, task_id: str, claim: Claim | None) -> int | None:
        _check_agent(agent_id, task_id)
        claim = claim or self._claims.get(agent_id, task_id)
        if claim is not None and (claim.agent_id, claim.task_id) != (agent_id, task_id):
            raise ClaimLost(
                f"the claim given is on task {claim.task_id} by {claim.agent_id}, not on {task_id} by {agent_id}",
                task_id,
            )
        return None if claim is None else claim.attempt

    def _announce(self) -> None:
        with self._lock:
            listeners = [*self._listeners.values()]
        for listener in listeners:
            try:
                listener()
            except Exception:  # noqa: BLE001  # the write is done; a listener must not make it look undone
                self._count("listener_failed")
                _log.exception("a listener of task changes failed")

    def _count(self, name: str, count: int = 1) -> None:
        with self._lock:
            self.counters[name] += count


def _check_same(known: TaskRecord, record: TaskRecord) -> None:
    if not known.same_task_as(record):
        raise TaskConflict(f"task {record.id} exists and is another one; choose a new id for this one", record.id)


def _check_agent(agent_id: object, task_id: str) -> None:
    if not isinstance(agent_id, str) or not agent_id:
        raise ClaimLost(f"an agent id is a non-empty str, not {agent_id!r}; nobody else can hold a task", task_id)
