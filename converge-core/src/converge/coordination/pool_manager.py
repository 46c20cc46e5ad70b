"""Pools that carry their own rules, in any store.

The record under `pool:<id>` holds the spec and the members; each join and leave is one compare-and-set on it, so no
member is lost. Policies are stored by plugin name and options, and built again by whoever opens the pool.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from converge.coordination.errors import PoolExists, UnknownPool
from converge.core.errors import VersionConflict
from converge.core.follower import Follower
from converge.core.pool import Pool
from converge.core.store import DELETED, Store, versioned
from converge.core.topic import Topic
from converge.extensions.storage.memory import MemoryStore
from converge.plugins import PluginError, PluginManager, default_manager
from converge.policy.admission import AdmissionPolicy
from converge.policy.decide import admits, is_trusted
from converge.policy.governance import GovernanceModel
from converge.policy.trust import TrustModel
from converge.policy.unrestored import UnrestoredAdmission, UnrestoredGovernance

if TYPE_CHECKING:
    from converge.core.plain import Plain

__all__ = ["PoolManager"]

_PREFIX = "pool:"
_SPEC_KEYS = ("id", "topics", "admission_policy", "governance", "trust_model", "trust_threshold")
_POLICIES = {"admission_policy": "admission", "governance": "governance", "trust_model": "trust"}
_BASES: dict[str, type] = {
    "admission_policy": AdmissionPolicy,
    "governance": GovernanceModel,
    "trust_model": TrustModel,
}
_log = logging.getLogger(__name__)
_Policies = dict[str, Any]


class PoolManager:
    """Creates, joins and leaves pools in `store`, or in memory when there is none.

    Safe between threads and, on a store that processes share, between processes. With a `blocking` store, calls may
    wait for it. `plugins` is where policies named in a spec or in the store are found.
    """

    def __init__(self, store: Store | None = None, *, plugins: PluginManager | None = None) -> None:
        self._store = versioned(MemoryStore() if store is None else store)
        self._plugins = default_manager() if plugins is None else plugins
        self._follower = Follower(self._store, _PREFIX)
        self._members: dict[str, frozenset[str]] = {}
        self._policies: dict[str, _Policies] = {}
        self._lock = threading.RLock()

    @property
    def blocking(self) -> bool:
        """Whether calls may wait for a disk or a network."""
        return self._store.blocking

    def create_pool(self, spec: Mapping[str, Any] | Pool) -> Pool:
        """The pool of `spec`, created unless one of the same id and settings exists.

        Keys of a spec: `id`, `topics`, `admission_policy`, `governance`, `trust_model` (each an instance, a plugin
        name, or a table `{"use": name, …}`), `trust_threshold` (0 to 1). Raises `PoolExists` when a pool of this id
        has other settings, `ValueError` for a spec that makes no sense, and a `PluginError` for a policy that cannot
        be built; nothing is stored then.
        """
        fields = _fields(spec)
        policies = {name: self._policy(name, fields.get(name)) for name in _POLICIES}
        record: dict[str, Plain] = {
            "id": fields["id"],
            "topics": [topic.to_dict() for topic in fields.get("topics") or ()],
            "trust_threshold": float(fields.get("trust_threshold") or 0.0),
            "members": sorted(fields.get("agents") or ()),
            **{name: self._table(policy) for name, policy in policies.items()},
        }
        try:
            self._store.compare_and_set(_PREFIX + fields["id"], record, 0)
        except VersionConflict:
            self._check_same(record)
        with self._lock:
            self._policies.setdefault(fields["id"], policies)
        pool = self.get_pool(fields["id"])
        if pool is None:
            raise UnknownPool(f"pool {fields['id']} was removed from the store while it was created; create it again")
        return pool

    def get_pool(self, pool_id: str) -> Pool | None:
        """The pool as the store holds it now, with its policies; None when there is none of this id.

        A policy that cannot be restored is replaced by one that denies, and the log says so.
        """
        record = self._store.get(_PREFIX + pool_id)
        if record is None:
            return None
        if not isinstance(record, dict):
            raise ValueError(f"the store holds no pool record under {_PREFIX + pool_id!r}")
        policies = self._restored(pool_id, record)
        return Pool(
            id=pool_id,
            topics=[Topic.from_dict(topic) for topic in _list(record["topics"])],
            agents=frozenset(_list(record["members"])),
            trust_threshold=float(record["trust_threshold"]),  # type: ignore[arg-type]  # written as a float above
            **policies,
        )

    def join_pool(self, agent_id: str, pool_id: str, *, token: str | None = None) -> bool:
        """Whether `agent_id` is a member now: the admission policy admits it and its trust reaches the threshold.

        A member stays one without being asked again. Raises `UnknownPool` when there is no such pool.
        """
        if not agent_id:
            raise ValueError(f"an agent id is a non-empty str, not {agent_id!r}")
        pool = self.get_pool(pool_id)
        if pool is None:
            raise UnknownPool(f"there is no pool {pool_id}; create it first")
        if agent_id in pool.agents:
            return True
        if not self._may_join(pool, agent_id, token):
            return False
        self._change_members(pool_id, lambda members: members | {agent_id})
        return True

    def leave_pool(self, agent_id: str, pool_id: str) -> bool:
        """Whether `agent_id` was a member and is none now. Raises `UnknownPool` when there is no such pool."""
        return self._change_members(pool_id, lambda members: members - {agent_id})

    def get_pools_for_agent(self, agent_id: str) -> list[str]:
        """The ids of the pools that `agent_id` is a member of, sorted."""
        with self._lock:
            emptied, changes = self._follower.poll()
            if emptied:
                self._members.clear()
            for key, value, _version in changes:
                pool_id = key.removeprefix(_PREFIX)
                if value is DELETED or not isinstance(value, dict):
                    self._members.pop(pool_id, None)
                else:
                    self._members[pool_id] = frozenset(str(agent) for agent in _list(value.get("members")))
            return sorted(pool_id for pool_id, members in self._members.items() if agent_id in members)

    @staticmethod
    def _may_join(pool: Pool, agent_id: str, token: str | None) -> bool:
        context = {"token": token, "pool_id": pool.id, "members": frozenset(pool.agents)}
        if pool.admission_policy is not None and not admits(pool.admission_policy, agent_id, context):
            return False
        return is_trusted(pool.trust_model, agent_id, pool.trust_threshold)

    def _change_members(self, pool_id: str, change: Callable[[frozenset[str]], frozenset[str]]) -> bool:
        while True:
            found = self._store.get_versioned(_PREFIX + pool_id)
            record, version = (None, 0) if found is None else found
            if not isinstance(record, dict):
                raise UnknownPool(f"there is no pool {pool_id}; create it first")
            members: frozenset[str] = frozenset(_list(record["members"]))
            changed = change(members)
            if changed == members:
                return False
            try:
                self._store.compare_and_set(_PREFIX + pool_id, {**record, "members": [*sorted(changed)]}, version)
            except VersionConflict:
                continue
            return True

    # -- policies: built from names, stored as names, built again

    def _policy(self, name: str, value: object) -> object:
        if value is None:
            return None
        if isinstance(value, (str, Mapping)):
            value = self._plugins.build(_POLICIES[name], value, where=name)
        if not isinstance(value, _BASES[name]):
            raise ValueError(f"{name}: {type(value).__qualname__} is no {_BASES[name].__name__}")
        return value

    def _table(self, policy: object) -> dict[str, Plain] | None:
        if policy is None:
            return None
        table: dict[str, Any] | None = self._plugins.describe(policy)
        if table is None:
            table = {"unregistered": f"{type(policy).__module__}.{type(policy).__qualname__}"}
        return table

    def _check_same(self, record: Mapping[str, Plain]) -> None:
        known = self._store.get(_PREFIX + str(record["id"]))
        if not isinstance(known, dict):
            return
        differing = [
            name for name in record if name != "members" and _comparable(known.get(name)) != _comparable(record[name])
        ]
        if differing:
            raise PoolExists(
                f"pool {record['id']!r} exists with another {', '.join(differing)}; "
                "choose another id, or give the settings it was created with"
            )

    def _restored(self, pool_id: str, record: Mapping[str, Plain]) -> _Policies:
        with self._lock:
            policies = self._policies.get(pool_id)
        if policies is None:
            policies = {name: self._restore(pool_id, name, record.get(name)) for name in _POLICIES}
            with self._lock:
                policies = self._policies.setdefault(pool_id, policies)
        return policies

    def _restore(self, pool_id: str, name: str, table: Plain) -> object:
        if table is None:
            return None
        try:
            if not isinstance(table, dict) or "use" not in table:
                raise ValueError(
                    f"{table!r} was given as an object whose class is no plugin, so no name of it is stored"
                )
            return self._policy(name, table)
        except (PluginError, ValueError, TypeError) as error:
            _log.error("pool %s: its %s cannot be restored and denies from now on: %s", pool_id, name, error)
            denying = _DENYING.get(name)
            return None if denying is None else denying(str(table), str(error))


_DENYING: dict[str, Callable[[str, str], object]] = {
    "admission_policy": UnrestoredAdmission,
    "governance": UnrestoredGovernance,
}
"""What stands for a policy that could not be restored. A trust model needs none: without one, a threshold denies."""


def _comparable(value: Plain) -> Plain:
    """A table without what differs from time to time: the salt of a token's verifier, and scores that were earned."""
    if not isinstance(value, dict):
        return value
    return {key: item for key, item in value.items() if key not in ("verifier", "scores")}


def _fields(spec: Mapping[str, Any] | Pool) -> dict[str, Any]:
    if isinstance(spec, Pool):
        return {name: getattr(spec, name) for name in (*_SPEC_KEYS, "agents")}
    unknown = sorted(set(spec) - set(_SPEC_KEYS))
    if unknown:
        raise ValueError(f"a pool spec has no key {unknown[0]!r}; it has {', '.join(_SPEC_KEYS)}")
    if not isinstance(spec.get("id"), str) or not spec["id"]:
        raise ValueError("a pool spec needs an id: a non-empty str")
    threshold = spec.get("trust_threshold") or 0.0
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
        raise ValueError(f"trust_threshold is a number from 0 to 1, not {threshold!r}")
    return dict(spec)


def _list(value: Plain) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"a list was expected in a pool record, not {type(value).__name__}")  # stored data
    return value
