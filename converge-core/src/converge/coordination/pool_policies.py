"""The policies of pools: built from names, stored as names, built again by whoever opens the pool."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from converge.core.plain import pack, unpack
from converge.policy.admission import AdmissionPolicy
from converge.policy.governance import GovernanceModel
from converge.policy.trust import TrustModel
from converge.policy.unrestored import UnrestoredAdmission, UnrestoredGovernance

if TYPE_CHECKING:
    from converge.coordination.pool_record import PoolRecord
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

    Policies live as long as their tables in the store are those that they were made from.
    """

    def __init__(self, plugins: PluginManager) -> None:
        self._plugins = plugins
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
            trust_model=self._table(policies.trust_model),
        )

    def keep(self, record: PoolRecord, policies: Policies) -> None:
        """Use these for a pool that was created with them just now."""
        with self._lock:
            self._opened[record.id] = unpack(pack(record.policies)), policies  # as the store gives them back

    def of(self, record: PoolRecord) -> Policies:
        """The policies of a stored pool. One that cannot be restored is replaced by one that denies, and is logged."""
        tables = record.policies
        with self._lock:
            opened = self._opened.get(record.id)
        if opened is None or opened[0] != tables:
            restored = Policies(**{name: self._restored(record.id, name, table) for name, table in tables.items()})
            with self._lock:
                opened = self._opened.get(record.id)
                if opened is None or opened[0] != tables:
                    opened = self._opened[record.id] = tables, restored
        return opened[1]

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
