"""Trust from the outcomes of tasks: what each attempt came to is counted for the agent that made it, once.

`TaskTrust` follows the task records in the store, so nothing has to be told to it, and it misses nothing that happened
while no process was there.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

from attrs import frozen

from converge.coordination.task_record import MAX_HISTORY, TaskRecord
from converge.core.errors import CursorExpired, VersionConflict
from converge.core.store import DELETED, Store, VersionedStore, versioned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from converge.coordination.pool_manager import PoolManager
    from converge.core.plain import Plain
    from converge.core.store import Change
    from converge.policy.trust import TrustModel

__all__ = ["TaskOutcome", "TaskTrust", "outcomes_of"]

_TASK, _FEED = "task:", "trust-feed:"
_REMEMBER_EVERY = 100
_log = logging.getLogger(__name__)


@frozen
class TaskOutcome:
    """What one attempt at a task came to. `at` is in Unix seconds."""

    task_id: str
    attempt: int
    agent_id: str
    success: bool
    at: float

    @property
    def key(self) -> str:
        """Names the outcome, so that it is counted once."""
        return f"{self.task_id}#{self.attempt}"


def outcomes_of(record: TaskRecord) -> list[TaskOutcome]:
    """The outcomes in the history of a task, oldest first.

    A success is an attempt that was reported. A failure is one that its claimant failed, or whose lease ran out. No
    outcome is what somebody else decided: a cancelled task, one that an administrator failed or that missed its
    deadline, and an attempt that was given back.
    """
    found: list[TaskOutcome] = []
    failed: list[TaskOutcome] = []
    for event in record.history:
        outcome = _outcome(record.id, event)
        if outcome is not None:
            found.append(outcome)
            if _is_event(event, "failed"):
                failed.append(outcome)
    if failed and record.state == "failed" and _is_event(record.history[-1], "failed") and _is_in_doubt(record, failed):
        found.remove(failed[-1])
    return found


def _is_in_doubt(record: TaskRecord, failed: list[TaskOutcome]) -> bool:
    """Whether the last failure may be an administrator's, who writes the same event: then nobody is blamed.

    Claimants have failed the task `failures` times. A history that has lost events cannot tell.
    """
    return len(record.history) >= MAX_HISTORY or len(failed) > record.failures


def _is_event(event: Plain, name: str) -> bool:
    return isinstance(event, list) and len(event) == 5 and event[1] == name


def _outcome(task_id: str, event: Plain) -> TaskOutcome | None:
    if not isinstance(event, list) or len(event) != 5:
        return None
    at, name, agent_id, attempt, reason = event
    expired = name == "expired" and isinstance(reason, str) and reason.startswith("lease expired")
    if name not in ("completed", "failed") and not expired:
        return None
    if not isinstance(agent_id, str) or not agent_id or type(attempt) is not int or attempt < 1:
        return None
    if not isinstance(at, int | float) or isinstance(at, bool) or not 0 <= at < float("inf"):
        return None
    return TaskOutcome(task_id, attempt, agent_id, name == "completed", float(at))


class TaskTrust:
    """Counts the outcomes of the tasks in `store` in a trust model.

    `model` gets all outcomes; with `pools`, the trust model of a task's pool gets those of its tasks. Any number of
    these may follow one store: models that keep their scores in it count each outcome exactly once. Models in memory
    count it once for each object that follows, so give those one.

    Call `poll` from time to time, or let a task manager do that: `tasks.add_listener(trust)`. Safe between
    threads. `name` is under which the place in the feed is remembered, so that a restart does not read the history
    again; one that is new begins with the whole history. `counters["failed"]` counts outcomes that a model refused;
    they are logged, and lost.
    """

    def __init__(
        self,
        store: Store,
        model: TrustModel | None = None,
        *,
        pools: PoolManager | None = None,
        name: str = "default",
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._store = versioned(store)
        self._remembers = isinstance(store, VersionedStore)  # the versions of an adapter begin anew with each process
        self._model, self._pools, self._key = model, pools, _FEED + name
        self._lock = threading.Lock()
        self._cursor: int | None = None
        self._since = 0

    def poll(self) -> int:
        """Count what has happened since the last poll; how many outcomes were new.

        When the store raises, the next poll begins where this one did, and counts nothing twice.
        """
        with self._lock:
            if self._cursor is None:
                self._cursor = self._remembered()
            if self._cursor and not self._store.may_have_changed(self._cursor):
                return 0
            try:
                cursor, changes = self._store.changes(self._cursor, _TASK)
            except CursorExpired:
                cursor, changes = self._store.changes(0, _TASK)
            counted = sum(self._count(record) for record in _records(changes))
            self._cursor = cursor
            self._since += counted
            if self._since >= _REMEMBER_EVERY:
                self._remember()
            return counted

    def __call__(self) -> None:
        """`poll`, in the form of a listener."""
        self.poll()

    def close(self) -> None:
        """Remember the place in the feed. Without it, the next one reads a little again, and counts nothing twice."""
        with self._lock:
            self._remember()

    def _count(self, record: TaskRecord) -> int:
        outcomes = outcomes_of(record)
        models = self._models(record) if outcomes else []
        counted = 0
        for outcome in outcomes:
            new = [self._record(model, outcome) for model in models]
            counted += any(new)
        return counted

    def _models(self, record: TaskRecord) -> list[TrustModel]:
        models = [] if self._model is None else [self._model]
        pool = None if self._pools is None or record.pool_id is None else self._pool_model(record.pool_id)
        return models if pool is None or pool is self._model else [*models, pool]

    def _pool_model(self, pool_id: str) -> TrustModel | None:
        assert self._pools is not None  # asked only then
        try:
            pool = self._pools.get_pool(pool_id)
        except ValueError as error:
            _log.warning("no trust is counted for pool %s: %s", pool_id, error)
            return None
        return None if pool is None else pool.trust_model

    def _record(self, model: TrustModel, outcome: TaskOutcome) -> bool:
        try:
            return model.record_outcome(outcome.agent_id, outcome.success, at=outcome.at, key=outcome.key)
        except ValueError as error:
            self.counters["failed"] += 1
            _log.warning("the outcome %s of %r is not counted: %s", outcome.key, outcome.agent_id, error)
            return False

    def _remembered(self) -> int:
        """Where the last one was; 0 when nothing can be relied on.

        The record was written after its cursor was taken, so its version is the greater one, unless the store is a
        copy of another, in whose numbers the cursor means nothing.
        """
        found = self._store.get_versioned(self._key) if self._remembers else None
        if found is None or type(found[0]) is not int or not 0 <= found[0] < found[1]:
            return 0
        return found[0]

    def _remember(self) -> None:
        if not self._remembers or not self._cursor or not self._since:
            return
        found: tuple[Any, int] | None = self._store.get_versioned(self._key)
        try:
            if found is None or type(found[0]) is not int or found[0] < self._cursor:
                self._store.compare_and_set(self._key, self._cursor, 0 if found is None else found[1])
        except VersionConflict:
            _log.debug("%s was moved by another process", self._key)
        self._since = 0


def _records(changes: list[Change]) -> Iterator[TaskRecord]:
    for change in changes:
        if change.value is DELETED:
            continue
        try:
            yield TaskRecord.from_plain(change.value)
        except ValueError as error:
            _log.warning("%r holds no task that trust could be counted from: %s", change.key, error)
