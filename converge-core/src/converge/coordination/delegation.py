"""Delegations in any store: an agent lets another one act in its name, within a scope that only narrows.

Each record under `delegation:<id>` is one link. Whether it is in force follows from its chain, and is stored nowhere.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING
from uuid import uuid4

from attrs import frozen

from converge.coordination.delegation_record import MAX_DEPTH, DelegationRecord, why_not_in_force
from converge.coordination.delegation_scope import Scope, permits, read_scope
from converge.coordination.errors import DelegationRefused, ForeignRecord, UnknownDelegation
from converge.coordination.move_records import MoveRecords
from converge.core.clock import Clock, SystemClock
from converge.core.follower import Follower
from converge.core.store import DELETED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from converge.coordination.amounts import Amount
    from converge.core.store import Change, Store

__all__ = ["Delegation", "DelegationProtocol"]

_PREFIX = "delegation:"
_log = logging.getLogger(__name__)


@frozen(kw_only=True)
class Delegation:
    """A delegation as it was when it was looked at. Times are Unix seconds.

    `principal_id` is who the chain begins with, in whose name it is. `reason` says why it is not `active`, else None.
    """

    id: str
    principal_id: str
    delegator_id: str
    delegatee_id: str
    scope: Scope
    parent_id: str | None
    expires_at: float | None
    revoked: bool
    active: bool
    reason: str | None


class DelegationProtocol:
    """Delegations in `store`, or in memory when there is none.

    A first delegation is in the name of its delegator. Whoever holds one may delegate a part of it further, as a link
    of a chain: never more, never longer, never back to somebody who gave it, at most 8 links. The delegator of a link
    may revoke it, and nobody else, and with it all that was made of it is at an end. A refused move is
    `DelegationRefused`, one on a delegation that is not there `UnknownDelegation`.

    What a principal may do in the first place is not known here: `allows` says whether it was delegated. Safe between
    threads, and between processes on a store that they share. `clock` tells the time for expiry.
    """

    def __init__(self, store: Store | None = None, *, clock: Clock | None = None) -> None:
        self._clock: Clock = SystemClock() if clock is None else clock
        self._records = MoveRecords(store, _PREFIX, DelegationRecord, _unknown)
        self._follower = Follower(self._records.store, _PREFIX)
        self._holders: dict[str, str] = {}  # the delegatee of each id, and the ids of each delegatee:
        self._held: dict[str, set[str]] = {}  # where to look, never what to believe
        self._lock = threading.Lock()

    @property
    def blocking(self) -> bool:
        """Whether calls may wait for a disk or a network."""
        return self._records.blocking

    def delegate(
        self,
        delegator_id: str,
        delegatee_id: str,
        scope: Iterable[str] | Mapping[str, Amount | None],
        *,
        parent_id: str | None = None,
        expires_at: float | None = None,
        delegation_id: str | None = None,
    ) -> str:
        """The id of a new delegation, by `delegator_id`, which whoever calls this has made sure of.

        `scope` is a list of action names, or a dict of them with the most of each (None: no limit). With `parent_id`
        it is a part of that delegation, which the delegator holds, and ends with it at the latest. `expires_at` is a
        Unix time (None: with the parent, or when it is revoked). With a `delegation_id`, making the same delegation
        again returns it; `DelegationRefused` when it is another one. `ValueError` or `TypeError` for what makes no
        sense.
        """
        chain = [] if parent_id is None else self._chain(self._records.get(parent_id))
        record = DelegationRecord.made(
            str(uuid4()) if delegation_id is None else delegation_id,
            delegator_id,
            delegatee_id,
            scope,
            chain=chain,
            expires_at=expires_at,
            now=self._clock.time(),
        )
        known = self._records.create(record)
        if known is not None and not known.same_delegation_as(record):
            raise DelegationRefused(f"delegation {record.id!r} exists and is another one; choose another id", record.id)
        return record.id

    def revoke(self, delegation_id: str, *, agent_id: str | None = None) -> bool:
        """Whether this call has ended the delegation; False when it had been revoked before.

        `agent_id` has to be its delegator; None is an administrator. When this has returned, neither this delegation
        nor any that was made of it is active for anybody.
        """
        revoked: list[bool] = []

        def step(record: DelegationRecord) -> DelegationRecord:
            moved = record.revoked(agent_id, self._clock.time())
            revoked[:] = [moved is not record]
            return moved

        self._records.change(delegation_id, step)
        return revoked[0]

    def get(self, delegation_id: str) -> Delegation | None:
        """The delegation, and whether it is active now; None when there is none of this id."""
        record = self._records.find(delegation_id)
        return None if record is None else self._view(record)

    def held_by(self, agent_id: str) -> list[Delegation]:
        """The active delegations to `agent_id`, by id. Costs in proportion to those made to it and not revoked."""
        with self._lock:
            self._follow()
            ids = sorted(self._held.get(agent_id, ()))
        found = [self._readable(delegation_id) for delegation_id in ids]
        return [one for one in found if one is not None and one.active and one.delegatee_id == agent_id]

    def allows(self, agent_id: str, action: str, *, on_behalf_of: str, amount: Amount | None = None) -> bool:
        """Whether an active delegation lets `agent_id` do `action` in the name of the principal `on_behalf_of`.

        An action with a limit needs an `amount`, of this one time: what was used before is not counted. Everything
        that is unclear is False.
        """
        return any(
            one.principal_id == on_behalf_of and permits(one.scope, action, amount) for one in self.held_by(agent_id)
        )

    def _readable(self, delegation_id: str) -> Delegation | None:
        """The delegation; None, with a line in the log, when a link of its chain is no record of this version."""
        try:
            return self.get(delegation_id)
        except ForeignRecord as error:
            _log.warning("delegation %r counts for nothing: %s", delegation_id, error)
            return None

    def _follow(self) -> None:
        emptied, changes = self._follower.poll()
        if emptied:
            self._holders.clear()
            self._held.clear()
        for change in changes:
            self._note(change)

    def _note(self, change: Change) -> None:
        delegation_id = change.key.removeprefix(_PREFIX)
        self._forget(delegation_id)
        if change.value is not DELETED:
            try:
                record = self._records.decoded(change.key, change.value)
            except ForeignRecord as error:
                _log.warning("%s", error)
                return
            if record.revoked_at is None:
                self._holders[delegation_id] = record.delegatee_id
                self._held.setdefault(record.delegatee_id, set()).add(delegation_id)

    def _forget(self, delegation_id: str) -> None:
        holder = self._holders.pop(delegation_id, None)
        if holder is not None:
            self._held[holder].discard(delegation_id)
            if not self._held[holder]:
                del self._held[holder]

    def _chain(self, record: DelegationRecord) -> list[DelegationRecord]:
        """The record, its parent and so on; one link more than a chain may have ends the search.

        A revocation is final and a parent older than its child: so a chain of which no link was revoked when it was
        read was whole at the moment when the first of them was.
        """
        chain = [record]
        while chain[-1].parent_id is not None and len(chain) <= MAX_DEPTH:
            parent = self._records.find(chain[-1].parent_id)
            if parent is None:
                break
            chain.append(parent)
        return chain

    def _view(self, record: DelegationRecord) -> Delegation:
        chain = self._chain(record)
        reason = why_not_in_force(chain, self._clock.time())
        return Delegation(
            id=record.id,
            principal_id=chain[-1].delegator_id,
            delegator_id=record.delegator_id,
            delegatee_id=record.delegatee_id,
            scope=read_scope(record.scope),
            parent_id=record.parent_id,
            expires_at=record.expires_at,
            revoked=record.revoked_at is not None,
            active=reason is None,
            reason=reason,
        )


def _unknown(delegation_id: str) -> UnknownDelegation:
    return UnknownDelegation(f"there is no delegation {delegation_id!r}", delegation_id)
