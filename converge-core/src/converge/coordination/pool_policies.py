"""The policies of pools: built from names, stored as names, built again by whoever opens the pool."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import evolve, fields_dict, frozen, has

from converge.core.plain import pack, unpack
from converge.policy.admission import AdmissionPolicy
from converge.policy.governance import GovernanceModel
from converge.policy.trust import TrustModel
from converge.policy.unrestored import UnrestoredAdmission, UnrestoredGovernance

if TYPE_CHECKING:
    from converge.coordination.pool_record import PoolRecord
    from converge.core.store import Store
    from converge.plugins import PluginManager

__all__ = ["Policies", "PoolPolicies"]

_log = logging.getLogger(__name__)
_KINDS: dict[str, tuple[str, type]] = {
    "admission_policy": ("admission", AdmissionPolicy),
    "governance": ("governance", GovernanceModel),
    "trust_model": ("trust", TrustModel),
}


@frozen(eq=False)
class Policies:
    """The policies of one pool. None asks nobody; without a trust model nobody reaches a threshold."""

    admission_policy: AdmissionPolicy | None = None
    governance: GovernanceModel | None = None
    trust_model: TrustModel | None = None


class PoolPolicies:
    """The policies of the pools that this process has opened; `plugins` is where names are looked up. Thread-safe.

    Policies live as long as their tables in the store are those that they were made from. With a `store`, trust
    models keep their scores there, each under the name in its table.
    """

    def __init__(self, plugins: PluginManager, store: Store | None = None) -> None:
        self._plugins, self._store = plugins, store
        self._lock = threading.Lock()
        self._opened: dict[str, tuple[dict[str, Any], Policies]] = {}

    def build(self, given: Mapping[str, object]) -> Policies:
        """Policies from instances, names and tables; a `PluginError` or `ValueError` for what cannot be built."""
        return Policies(**{name: self._built(name, value) for name, value in given.items()})

    def described(self, record: PoolRecord, policies: Policies) -> PoolRecord:
        """`record` with the tables that the policies can be built from again, or that say that they cannot."""
        return evolve(
            record,
            admission_policy=self._table(policies.admission_policy),
            governance=self._table(policies.governance),
            trust_model=self._trust_table(record.id, policies.trust_model),
        )

    def check(self, policies: Policies) -> None:
        """`ValueError` for policies that are no good for a new pool here: a trust model kept in another store."""
        model = policies.trust_model
        if self._store is not None and model is not None and model.store not in (None, self._store):
            raise ValueError("trust_model: it keeps its scores in another store; give a model of its own")

    def keep(self, record: PoolRecord, policies: Policies) -> None:
        """Use these for a pool that was created with them just now."""
        self._bind(record, policies.trust_model)
        with self._lock:
            self._opened[record.id] = unpack(pack(record.policies)), policies  # as the store gives them back

    def of(self, record: PoolRecord) -> Policies:
        """The policies of a stored pool. One that cannot be restored is replaced by one that denies, and is logged."""
        tables = record.policies
        with self._lock:
            opened = self._opened.get(record.id)
        if opened is None or opened[0] != tables:
            restored = Policies(**{name: self._restored(record.id, name, table) for name, table in tables.items()})
            self._bind(record, restored.trust_model)
            with self._lock:
                opened = self._opened.get(record.id)
                if opened is None or opened[0] != tables:
                    opened = self._opened[record.id] = tables, restored
        return opened[1]

    def share(self, record: PoolRecord, policies: Policies) -> None:
        """Let a trust model that was given for a pool that exists know what that pool's own one does."""
        own = self.of(record).trust_model
        if policies.trust_model is not None and own is not None and policies.trust_model is not own:
            self._bind(record, policies.trust_model, like=own)

    def governance(self, pool_id: str, table: dict[str, Any]) -> GovernanceModel:
        """The model of this table: that of the open pool if it is the same, else built. It denies if it cannot be."""
        with self._lock:
            opened = self._opened.get(pool_id)
        if opened is not None and opened[0]["governance"] == table and opened[1].governance is not None:
            return opened[1].governance
        model: GovernanceModel = self._restored(pool_id, "governance", table)
        return model

    def _bind(self, record: PoolRecord, model: TrustModel | None, like: TrustModel | None = None) -> None:
        name = (record.trust_model or {}).get("name")
        if self._store is None or model is None or not isinstance(name, str) or not _keeps_scores(model):
            return
        if model.store is None and model.name in (None, name):
            model.bind(self._store, name, like=like)

    def _trust_table(self, pool_id: str, model: TrustModel | None) -> dict[str, object] | None:
        table = self._table(model)
        if table is not None and "use" in table and self._store is not None and _keeps_scores(model):
            table.setdefault("name", pool_id)
        return table

    def _built(self, name: str, value: object) -> Any:  # noqa: ANN401  # of the class that _KINDS names, checked
        if value is None:
            return None
        kind, base = _KINDS[name]
        if isinstance(value, str | Mapping):
            value = self._plugins.build(kind, value, where=name)
        if not isinstance(value, base):
            raise ValueError(f"{name}: {type(value).__qualname__} is no {base.__name__}")
        return value

    def _table(self, policy: object) -> dict[str, object] | None:
        if policy is None:
            return None
        table = self._plugins.describe(policy)
        return {"unregistered": f"{type(policy).__module__}.{type(policy).__qualname__}"} if table is None else table

    def _restored(self, pool_id: str, name: str, table: dict[str, Any] | None) -> Any:  # noqa: ANN401  # as _built
        if table is None:
            return None
        try:
            if "use" not in table:
                raise ValueError("it was given as an object whose class is no plugin, so no name of it is stored")
            return self._built(name, table)
        except Exception as error:  # noqa: BLE001  # whatever a plugin raises: a policy that is not there denies
            stored_as = str(table.get("use", table.get("unregistered")))
            _log.error(
                "pool %s: its %s %r cannot be restored and denies from now on: %s", pool_id, name, stored_as, error
            )
            denying = {"admission_policy": UnrestoredAdmission, "governance": UnrestoredGovernance}.get(name)
            return None if denying is None else denying(stored_as, str(error))


def _keeps_scores(model: object) -> bool:
    """Whether the model is restored with a name, so that its scores can be found again."""
    options = getattr(model, "converge_options", None)
    return isinstance(options, type) and has(options) and "name" in fields_dict(options)
