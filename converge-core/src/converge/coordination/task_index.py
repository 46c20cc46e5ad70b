"""The open tasks of a store in memory, found by pool and required capabilities; fed by the store's change feed."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from itertools import groupby, islice
from typing import TypeAlias

from attrs import define, field, frozen

from converge.coordination.task_record import TaskRecord
from converge.core.task import TaskState
from converge.core.topic import Topic

__all__ = ["Filter", "TaskIndex", "TaskProgress"]

_Bucket: TypeAlias = "dict[int, dict[str, TaskRecord]]"  # priority -> id -> record, the longest waiting first
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


@frozen
class Filter:
    """What an agent can take. None does not filter; an empty collection leaves tasks that ask for none."""

    pools: Collection[str] | None = None
    capabilities: Collection[str] | None = None
    topics: Collection[Topic] | None = None

    def takes_bucket(self, pool_id: str | None, required: frozenset[str]) -> bool:
        """Whether pool and capabilities fit."""
        if self.pools is not None and pool_id is not None and pool_id not in self.pools:
            return False
        return self.capabilities is None or required.issubset(self.capabilities)

    def takes(self, record: TaskRecord) -> bool:
        """Whether pool, capabilities and topic fit."""
        return self.takes_bucket(record.pool_id, frozenset(record.required_capabilities)) and self._takes_topic(record)

    def _takes_topic(self, record: TaskRecord) -> bool:
        if self.topics is None or record.topic is None:
            return True
        wanted = Topic.from_dict(record.topic)
        return any(wanted.matches(topic) for topic in self.topics)

    def matching(self, records: Iterable[TaskRecord]) -> Iterator[TaskRecord]:
        """Those of `records`, already right in pool and capabilities, whose topic fits."""
        return iter(records) if self.topics is None else (record for record in records if self._takes_topic(record))


@define
class _Assigned:
    record: TaskRecord
    observed_at: float  # monotonic: when this process first saw this state of the lease


class TaskIndex:
    """PENDING tasks in buckets, ASSIGNED ones by id. Not thread-safe; its manager holds a lock."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[str | None, frozenset[str]], _Bucket] = {}
        self._pending: dict[str, TaskRecord] = {}
        self._assigned: dict[str, _Assigned] = {}
        self._versions: dict[str, int] = {}  # of the open tasks
        self._ended: Counter[str] = Counter()
        self._done_by: Counter[str] = Counter()

    def apply(self, record: TaskRecord, version: int, monotonic: float) -> None:
        """Take a newer state of a task."""
        self.forget(record.id)
        if record.is_open:
            self._versions[record.id] = version
        if record.state == TaskState.PENDING.value:
            self._pending[record.id] = record
            bucket = self._buckets.setdefault((record.pool_id, frozenset(record.required_capabilities)), {})
            bucket.setdefault(record.priority, {})[record.id] = record
        elif record.state == TaskState.ASSIGNED.value:
            self._assigned[record.id] = _Assigned(record, monotonic)
        else:
            self._ended[record.state] += 1
            if record.assigned_to is not None:
                self._done_by[record.assigned_to] += 1

    def forget(self, task_id: str) -> None:
        """Drop what is known of a task; an unknown one is no error."""
        self._versions.pop(task_id, None)
        self._assigned.pop(task_id, None)
        old = self._pending.pop(task_id, None)
        if old is None:
            return
        key = (old.pool_id, frozenset(old.required_capabilities))
        level = self._buckets[key][old.priority]
        del level[task_id]
        if not level:
            del self._buckets[key][old.priority]
            if not self._buckets[key]:
                del self._buckets[key]

    def clear_open(self) -> None:
        """Forget the open tasks, to be read anew; what has ended stays counted."""
        self._buckets.clear()
        self._pending.clear()
        self._assigned.clear()
        self._versions.clear()

    def is_open(self, task_id: str) -> bool:
        """Whether the task is PENDING or ASSIGNED."""
        return task_id in self._versions

    def version_of(self, task_id: str) -> int | None:
        """The version of an open task's record as last seen."""
        return self._versions.get(task_id)

    def pending(self, wanted: Filter, agent_id: str = "", limit: int | None = None) -> list[TaskRecord]:
        """What fits, higher priority first, then the longest waiting.

        With a limit, tasks of one priority are shown to each agent from another starting point among the first ones,
        so that many agents do not race for the same task.
        """
        reach = None if limit is None else limit * _WINDOW
        found: list[TaskRecord] = []
        for (pool_id, required), bucket in self._buckets.items():
            if wanted.takes_bucket(pool_id, required):
                levels = (bucket[priority].values() for priority in sorted(bucket, reverse=True))
                records = (record for level in levels for record in level)
                found += islice(wanted.matching(records), reach)
        found.sort(key=lambda record: (-record.priority, record.submitted_at))
        if limit is None or len(found) <= limit:
            return found
        return list(islice(_rotated(found[:reach], zlib.crc32(agent_id.encode())), limit))

    def assigned_to(self, agent_id: str) -> list[TaskRecord]:
        """The tasks an agent holds, the oldest claim first."""
        held = (entry.record for entry in self._assigned.values() if entry.record.assigned_to == agent_id)
        return sorted(held, key=lambda record: record.claimed_at or 0.0)

    def due(self, now: float, monotonic: float) -> list[str]:
        """Ids of leases that have run out and of tasks past their deadline.

        A lease has run out by the wall clock, or when this process has seen it unchanged for a whole TTL by its
        monotonic clock: a wall clock that was set back cannot keep a dead claim alive.
        """
        leases = [
            task_id
            for task_id, entry in self._assigned.items()
            if entry.record.is_expired(now) or monotonic - entry.observed_at >= entry.record.claim_ttl_sec
        ]
        return leases + [task_id for task_id, record in self._pending.items() if record.is_overdue(now)]

    def progress(self) -> TaskProgress:
        """Counts of what is open and what has ended."""
        claimed_by = Counter(entry.record.assigned_to or "" for entry in self._assigned.values())
        return TaskProgress(
            pending=len(self._pending),
            claimed=len(self._assigned),
            done=self._ended.total(),
            failed=self._ended[TaskState.FAILED.value],
            cancelled=self._ended[TaskState.CANCELLED.value],
            claimed_by=dict(claimed_by),
            done_by=dict(self._done_by),
        )


def _rotated(records: list[TaskRecord], seed: int) -> Iterator[TaskRecord]:
    for _priority, group in groupby(records, key=lambda record: record.priority):
        level = list(group)
        start = seed % len(level)
        yield from level[start:]
        yield from level[:start]
