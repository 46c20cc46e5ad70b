"""Pools that carry their own rules, in any store.

The record under `pool:<id>` holds the settings and the members; each join and leave is one compare-and-set on it, so
no member is lost. Policies are stored by plugin name and options, and built again by whoever opens the pool.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from attrs import evolve

from converge.coordination.errors import ForeignRecord, PoolExists, UnknownPool
from converge.coordination.pool_policies import PoolPolicies
from converge.coordination.pool_record import PoolRecord, read_spec
from converge.coordination.records import decoded
from converge.core.errors import VersionConflict
from converge.core.follower import Follower
from converge.core.pool import Pool
from converge.core.store import DELETED, Change, Store, versioned
from converge.core.topic import Topic
from converge.extensions.storage.memory import MemoryStore
from converge.plugins import PluginManager, default_manager
from converge.policy.decide import admits, is_trusted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from converge.core.store import VersionedStore
    from converge.core.task import Task
    from converge.policy.governance import GovernanceModel

__all__ = ["PoolManager"]

_PREFIX = "pool:"
_log = logging.getLogger(__name__)


class PoolManager:
    """Creates, joins and leaves pools in `store`, or in memory when there is none.

    Safe between threads and, on a store that processes share, between processes. With a `blocking` store, calls may
    wait for it. `plugins` is where policies named in a spec or in the store are found.

    `counters["contended"]` counts the writes that came second and were tried again.
    """

    def __init__(self, store: Store | None = None, *, plugins: PluginManager | None = None) -> None:
        self.counters: Counter[str] = Counter()
        self._store = versioned(MemoryStore() if store is None else store)
        self._policies = PoolPolicies(
            default_manager() if plugins is None else plugins, None if store is None else self._store
        )
        self._follower = Follower(self._store, _PREFIX)
        self._unchanged_at: float | None = None
        self._members: dict[str, frozenset[str]] = {}
        self._pools_of: dict[str, set[str]] = {}
        self._generation = 0
        self._lock = threading.Lock()

    @property
    def blocking(self) -> bool:
        """Whether calls may wait for a disk or a network."""
        return self._store.blocking

    def create_pool(self, spec: Mapping[str, Any] | Pool) -> Pool:
        """The pool of `spec`, created unless one of the same id and settings exists.

        Keys of a spec: `id`, `topics`, `admission_policy`, `governance`, `trust_model` (each an instance, a plugin
        name, or a table `{"use": name, …}`), `trust_threshold` (0 to 1), `allowed_task_types` (see `accepts`). A pool
        that exists keeps its own policies and members. Raises `PoolExists` when it has other settings, `ValueError`
        for a spec that makes no sense, and a `PluginError` for a policy that cannot be built; nothing is stored then.
        """
        bare, given = read_spec(spec)
        policies = self._policies.build(given)
        record = self._policies.described(bare, policies)
        while True:
            found = self._read(record.id)
            if found is not None:
                pool = self._existing(found[0], record)
                self._policies.share(found[0], policies)
                return pool
            self._policies.check(policies)
            try:
                self._store.compare_and_set(_PREFIX + record.id, record.to_plain(), 0)
            except VersionConflict:
                continue
            self._policies.keep(record, policies)
            return self._pool(record)

    def get_pool(self, pool_id: str) -> Pool | None:
        """The pool as the store holds it now, with its policies; None when there is none of this id.

        A policy that cannot be restored is replaced by one that denies, and the log says so.
        """
        found = self._read(pool_id)
        return None if found is None else self._pool(found[0])

    def join_pool(self, agent_id: str, pool_id: str, *, token: str | None = None) -> bool:
        """Whether `agent_id` is a member now: the admission policy admits it and its trust reaches the threshold.

        A member stays one without being asked again. Raises `UnknownPool` when there is no such pool.
        """
        _check_agent(agent_id)
        asked: PoolRecord | None = None

        def join(record: PoolRecord) -> frozenset[str] | None:
            nonlocal asked
            members = frozenset(record.members)
            if agent_id in members:
                return members
            if asked is None or asked.policies != record.policies or self._depends_on_members(record):
                asked = record
                if not _may_join(self._pool(record), agent_id, token):
                    return None
            return members | {agent_id}

        return self._change_members(pool_id, join) is not None

    def leave_pool(self, agent_id: str, pool_id: str) -> bool:
        """Whether `agent_id` was a member and is none now. Raises `UnknownPool` when there is no such pool."""
        return bool(self._change_members(pool_id, lambda record: frozenset(record.members) - {agent_id}))

    def get_pools_for_agent(self, agent_id: str) -> list[str]:
        """The ids of the pools that `agent_id` is a member of, sorted."""
        with self._lock:
            emptied, changes = self._follower.poll()
            if emptied:
                self._members.clear()
                self._pools_of.clear()
            for change in changes:
                self._note(change)
            self._generation += emptied or bool(changes)
            return sorted(self._pools_of.get(agent_id, ()))

    @property
    def generation(self) -> int:
        """Grows whenever `get_pools_for_agent` finds that a pool has changed, whoever it is called for."""
        return self._generation

    def may_have_changed(self, *, max_age_sec: float = 0.0) -> bool:
        """Whether `generation` would grow: cheap, never waits for a writer, never a false no.

        A no that is up to `max_age_sec` old will do, for many who ask at the same moment.
        """
        asked_at, now = self._unchanged_at, time.monotonic()
        if asked_at is not None and now - asked_at < max_age_sec:
            return False
        changed = self._follower.may_have_changed()
        self._unchanged_at = None if changed else now
        return changed

    def accepts(self, pool_id: str, task: Task) -> bool:
        """Whether the pool is for tasks of this type, which is the namespace of the task's topic.

        A pool with `allowed_task_types` takes those only, and no task without a topic; one that was made without them
        takes all. Raises `UnknownPool` when there is no such pool.
        """
        found = self._read(pool_id)
        if found is None:
            raise UnknownPool(pool_id)
        allowed = found[0].allowed_task_types
        return allowed is None or (task.topic is not None and task.topic.namespace in allowed)

    # -- what ballots need

    @property
    def store(self) -> VersionedStore:
        """Where the pools are."""
        return self._store

    def governance_table(self, pool_id: str) -> dict[str, Any] | None:
        """What the pool's governance is stored as; None for a pool without one. Raises `UnknownPool`."""
        found = self._read(pool_id)
        if found is None:
            raise UnknownPool(pool_id)
        self._policies.of(found[0])
        return found[0].governance

    def governance(self, pool_id: str, table: dict[str, Any]) -> GovernanceModel:
        """The model that a pool's governance was stored as; one that cannot be restored decides nothing."""
        return self._policies.governance(pool_id, table)

    def _note(self, change: Change) -> None:
        pool_id = change.key.removeprefix(_PREFIX)
        before, now = self._members.pop(pool_id, frozenset()), frozenset[str]()
        if change.value is not DELETED:
            try:
                now = frozenset(decoded(change.key, _PREFIX, change.value, PoolRecord.from_plain).members)
                self._members[pool_id] = now
            except ForeignRecord as error:
                _log.warning("%s", error)
        for agent_id in before - now:
            self._pools_of[agent_id].discard(pool_id)
            if not self._pools_of[agent_id]:
                del self._pools_of[agent_id]
        for agent_id in now - before:
            self._pools_of.setdefault(agent_id, set()).add(pool_id)

    def _read(self, pool_id: str) -> tuple[PoolRecord, int] | None:
        key = _PREFIX + pool_id
        found = self._store.get_versioned(key)
        return None if found is None else (decoded(key, _PREFIX, found[0], PoolRecord.from_plain), found[1])

    def _depends_on_members(self, record: PoolRecord) -> bool:
        policy = self._policies.of(record).admission_policy
        return policy is not None and policy.depends_on_members

    def _existing(self, known: PoolRecord, record: PoolRecord) -> Pool:
        differing = known.differing_settings(record)
        if differing:
            raise PoolExists(
                f"pool {known.id!r} exists with another {', '.join(differing)}; "
                "choose another id, or give the settings it was created with",
                known.id,
            )
        return self._pool(known)

    def _pool(self, record: PoolRecord) -> Pool:
        policies = self._policies.of(record)
        pool = Pool(record.id, trust_threshold=record.trust_threshold)
        pool.topics.extend(Topic.from_dict(topic) for topic in record.topics)
        pool.agents.update(record.members)
        pool.admission_policy, pool.governance = policies.admission_policy, policies.governance
        pool.trust_model = policies.trust_model
        return pool

    def _change_members(
        self, pool_id: str, change: Callable[[PoolRecord], frozenset[str] | None]
    ) -> frozenset[str] | None:
        """Store `change(record)` as the members; those who came or went with it, None when it refused."""
        while True:
            found = self._read(pool_id)
            if found is None:
                raise UnknownPool(pool_id)
            record, version = found
            members, changed = frozenset(record.members), change(record)
            if changed is None or changed == members:
                return None if changed is None else frozenset()
            stored = evolve(record, members=sorted(changed)).to_plain()
            try:
                self._store.compare_and_set(_PREFIX + pool_id, stored, version)
            except VersionConflict:
                with self._lock:
                    self.counters["contended"] += 1
                continue
            return members ^ changed


def _check_agent(agent_id: object) -> None:
    if not isinstance(agent_id, str) or not agent_id:
        raise ValueError(f"an agent id is a non-empty str, not {agent_id!r}")


def _may_join(pool: Pool, agent_id: str, token: str | None) -> bool:
    context = {"token": token, "pool_id": pool.id, "members": frozenset(pool.agents)}
    if pool.admission_policy is not None and not admits(pool.admission_policy, agent_id, context):
        return False
    return is_trusted(pool.trust_model, agent_id, pool.trust_threshold)
