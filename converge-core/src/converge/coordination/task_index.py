"""The open tasks of a store in memory, found by pool and required capabilities; fed by the store's change feed."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from heapq import heappop, heappush, merge
from itertools import groupby, islice
from typing import TypeAlias, TypeVar

from attrs import field, frozen

from converge.coordination.task_record import TaskRecord
from converge.core.task import TaskState
from converge.core.topic import Topic

__all__ = ["ANYTHING", "Filter", "HeldTask", "TaskIndex", "TaskProgress"]

_Bucket: TypeAlias = "dict[int, dict[str, TaskRecord]]"  # priority -> id -> record, the longest waiting first
_K = TypeVar("_K")
_V = TypeVar("_V")
_MISSED = frozenset({TaskState.FAILED.value, TaskState.CANCELLED.value})
_WINDOW = 16  # candidates looked at for each one asked for, so that agents can start at different places


@frozen
class TaskProgress:
    """How far the work is: what is open now, and what has ended since this manager began to look.

    `claimed_by` and `done_by` count for each agent id; `failed` and `cancelled` are parts of `done`.
    """

    pending: int
    claimed: int
    done: int
    failed: int
    cancelled: int
    claimed_by: dict[str, int] = field(repr=False)
    done_by: dict[str, int] = field(repr=False)


def _names(names: Collection[str] | None) -> frozenset[str] | None:
    if isinstance(names, str):
        raise TypeError(f'a list of names is expected; write ["{names}"]')
    return None if names is None else frozenset(names)


@frozen
class Filter:
    """What an agent can take. None does not filter; an empty collection leaves tasks that ask for none."""

    pools: frozenset[str] | None = field(default=None, converter=_names)
    capabilities: frozenset[str] | None = field(default=None, converter=_names)
    topics: Collection[Topic] | None = None

    def takes(self, record: TaskRecord) -> bool:
        """Whether pool, capabilities and topic fit."""
        if self.pools is not None and record.pool_id is not None and record.pool_id not in self.pools:
            return False
        if self.capabilities is not None and not self.capabilities.issuperset(record.required_capabilities):
            return False
        return self._takes_topic(record)

    def _takes_topic(self, record: TaskRecord) -> bool:
        if self.topics is None or record.topic is None:
            return True
        wanted = Topic.from_dict(record.topic)
        return any(wanted.matches(topic) for topic in self.topics)

    def matching(self, records: Iterable[TaskRecord]) -> Iterator[TaskRecord]:
        """Those of `records`, already right in pool and capabilities, whose topic fits."""
        return iter(records) if self.topics is None else (record for record in records if self._takes_topic(record))


ANYTHING = Filter()
"""Takes every task."""


@frozen
class HeldTask:
    """An ASSIGNED task, and when this process first saw its lease as it is (a monotonic reading)."""

    record: TaskRecord
    observed_at: float

    def seconds_left(self, now: float, monotonic: float) -> float:
        """How long the lease lasts: by the wall clock, and at most a TTL after this process first saw it.

        So a wall clock that was set back, here or where the claim was made, cannot keep a dead claim alive.
        """
        by_wall_clock = (self.record.lease_expires_at or 0.0) - now
        return min(by_wall_clock, self.observed_at + self.record.claim_ttl_sec - monotonic)


class TaskIndex:
    """PENDING tasks in buckets, ASSIGNED ones by id and agent. Not thread-safe; its owner holds a lock.

    A PENDING task is *ready* when an agent could claim it, or waits: for tasks that it depends on, for the end of a
    pause after a failure, or for an award. The order among the ready ones is that in which they became ready here,
    which after a load is the order of their versions: no clock is asked, and a task that comes back is behind the
    others of its priority.
    """

    def __init__(self) -> None:
        self._ready: dict[str | None, dict[frozenset[str], _Bucket]] = {}  # by pool, then by what is required
        self._places: dict[str, int] = {}  # of the ready tasks, in their order
        self._next_place = 0
        self._pending: dict[str, TaskRecord] = {}
        self._unmet: dict[str, set[str]] = {}
        self._needed_by: dict[str, set[str]] = {}
        self._doomed: dict[str, tuple[str, str]] = {}
        self._delayed: list[tuple[float, int, str]] = []  # a heap of (time, version, id); an old entry is passed over
        self._with_deadline: dict[str, TaskRecord] = {}
        self._assigned: dict[str, HeldTask] = {}
        self._by_agent: dict[str, dict[str, HeldTask]] = {}
        self._versions: dict[str, int] = {}  # of the open tasks
        self._ended: Counter[str] = Counter()
        self._done_by: Counter[str] = Counter()

    def apply(self, record: TaskRecord, version: int, monotonic: float, needs: Mapping[str, str | None]) -> None:
        """Take a newer state of a task; versions only grow from call to call.

        `needs` has the state of each task that a PENDING one depends on, None for one that is not there.
        """
        self.forget(record.id)
        if record.is_open:
            self._versions[record.id] = version
        if record.is_pending:
            self._apply_pending(record, version, needs)
        elif record.is_assigned:
            held = self._assigned[record.id] = HeldTask(record, monotonic)
            self._by_agent.setdefault(record.assigned_to or "", {})[record.id] = held
        else:
            self._ended[record.state] += 1
            if record.assigned_to is not None:
                self._done_by[record.assigned_to] += 1
            self._met(record.id, record.state)

    def forget(self, task_id: str) -> None:
        """Drop what is known of a task; an unknown one is no error."""
        if self._versions.pop(task_id, None) is None:
            return
        held = self._assigned.pop(task_id, None)
        if held is not None:
            _remove(self._by_agent, held.record.assigned_to or "", task_id)
            return
        self._with_deadline.pop(task_id, None)
        self._doomed.pop(task_id, None)
        for dependency in self._unmet.pop(task_id, ()):
            self._needed_by[dependency].discard(task_id)
            if not self._needed_by[dependency]:
                del self._needed_by[dependency]
        old = self._pending.pop(task_id)
        if self._places.pop(task_id, None) is None:
            return
        of_pool = self._ready[old.pool_id]
        required = frozenset(old.required_capabilities)
        _remove(of_pool[required], old.priority, task_id)
        if not of_pool[required]:
            del of_pool[required]
            if not of_pool:
                del self._ready[old.pool_id]

    def _apply_pending(self, record: TaskRecord, version: int, needs: Mapping[str, str | None]) -> None:
        self._pending[record.id] = record
        if record.constraints.get("deadline") is not None:
            self._with_deadline[record.id] = record
        unmet = {name for name, state in needs.items() if state != TaskState.COMPLETED.value}
        if unmet:
            self._unmet[record.id] = unmet
            for name in unmet:
                self._needed_by.setdefault(name, set()).add(record.id)
                if (state := needs[name]) in _MISSED:
                    self._doomed[record.id] = name, str(state)
        elif record.not_before is not None:
            heappush(self._delayed, (record.not_before, version, record.id))
        else:
            self._make_ready(record)

    def _make_ready(self, record: TaskRecord) -> None:
        if record.is_award_only:
            return
        bucket = self._ready.setdefault(record.pool_id, {}).setdefault(frozenset(record.required_capabilities), {})
        bucket.setdefault(record.priority, {})[record.id] = record
        self._next_place += 1
        self._places[record.id] = self._next_place

    def _met(self, task_id: str, state: str) -> None:
        for waiting in sorted(self._needed_by.pop(task_id, ()), key=self._versions.__getitem__):
            unmet = self._unmet[waiting]
            if state != TaskState.COMPLETED.value:
                self._needed_by.setdefault(task_id, set()).add(waiting)
                self._doomed[waiting] = task_id, state
                continue
            unmet.discard(task_id)
            if not unmet:
                del self._unmet[waiting]
                self._make_ready(self._pending[waiting])

    def ripen(self, now: float) -> bool:
        """Make tasks ready whose pause is over; whether there were any."""
        found = False
        while self._delayed and self._delayed[0][0] <= now:
            _, version, task_id = heappop(self._delayed)
            if self._versions.get(task_id) == version:
                self._make_ready(self._pending[task_id])
                found = True
        return found

    def is_ripe(self, now: float) -> bool:
        """Whether `ripen` may have something to do."""
        return bool(self._delayed) and self._delayed[0][0] <= now

    def ripe_at(self) -> float | None:
        """The Unix time from which `ripen` has something to do, if nothing else changes. For any thread."""
        try:
            return self._delayed[0][0]
        except IndexError:  # there is none, or another thread has just taken the last one out
            return None

    def doomed(self) -> list[tuple[str, str, str]]:
        """(id, what it depends on, the state in which that ended) of tasks that can never become ready."""
        return [(task_id, *reason) for task_id, reason in self._doomed.items()]

    def clear_open(self) -> None:
        """Forget the open tasks, to be read anew; what has ended stays counted."""
        for task_id in [*self._versions]:
            self.forget(task_id)

    def is_open(self, task_id: str) -> bool:
        """Whether the task is PENDING or ASSIGNED."""
        return task_id in self._versions

    def state_of(self, task_id: str) -> str | None:
        """The state of an open task as last seen, None for one that is not open."""
        if task_id in self._pending:
            return TaskState.PENDING.value
        return TaskState.ASSIGNED.value if task_id in self._assigned else None

    def open_ids(self) -> list[str]:
        """The ids of the PENDING and ASSIGNED tasks."""
        return [*self._versions]

    def version_of(self, task_id: str) -> int | None:
        """The version of an open task's record as last seen."""
        return self._versions.get(task_id)

    def pending(self, wanted: Filter, agent_id: str = "", limit: int | None = None) -> list[TaskRecord]:
        """What is ready and fits, higher priority first, then the longest waiting.

        With a limit, tasks of one priority are shown to each agent from another starting point among the first ones,
        so that many agents do not race for the same task.
        """
        runs = [wanted.matching(_in_order(bucket)) for bucket in self._buckets(wanted)]
        ordered = merge(*runs, key=lambda record: (-record.priority, self._places[record.id]))
        if limit is None:
            return list(ordered)
        window = list(islice(ordered, limit * _WINDOW))
        if len(window) <= limit:
            return window
        return list(islice(_rotated(window, zlib.crc32(agent_id.encode())), limit))

    def _buckets(self, wanted: Filter) -> Iterator[_Bucket]:
        pools = self._ready if wanted.pools is None else [None, *wanted.pools]
        for pool_id in pools:
            for required, bucket in self._ready.get(pool_id, {}).items():
                if wanted.capabilities is None or required <= wanted.capabilities:
                    yield bucket

    def held_by(self, agent_id: str) -> list[HeldTask]:
        """The tasks an agent holds, the oldest claim first."""
        return sorted(self._by_agent.get(agent_id, {}).values(), key=lambda held: held.record.claimed_at or 0.0)

    def holders(self) -> set[str]:
        """The agents that hold a task."""
        return {agent_id for agent_id, held in self._by_agent.items() if held}

    def due(self, now: float, monotonic: float) -> list[str]:
        """Ids of leases that have run out and of tasks past their deadline."""
        leases = [task_id for task_id, held in self._assigned.items() if held.seconds_left(now, monotonic) <= 0]
        return leases + [task_id for task_id, record in self._with_deadline.items() if record.is_overdue(now)]

    def progress(self) -> TaskProgress:
        """Counts of what is open and what has ended."""
        return TaskProgress(
            pending=len(self._pending),
            claimed=len(self._assigned),
            done=self._ended.total(),
            failed=self._ended[TaskState.FAILED.value],
            cancelled=self._ended[TaskState.CANCELLED.value],
            claimed_by={agent_id: len(held) for agent_id, held in self._by_agent.items()},
            done_by=dict(self._done_by),
        )


def _remove(groups: dict[_K, dict[str, _V]], key: _K, task_id: str) -> None:
    del groups[key][task_id]
    if not groups[key]:
        del groups[key]


def _in_order(bucket: _Bucket) -> Iterator[TaskRecord]:
    return (record for priority in sorted(bucket, reverse=True) for record in bucket[priority].values())


def _rotated(records: list[TaskRecord], seed: int) -> Iterator[TaskRecord]:
    for _priority, group in groupby(records, key=lambda record: record.priority):
        level = list(group)
        start = seed % len(level)
        yield from level[start:]
        yield from level[:start]
