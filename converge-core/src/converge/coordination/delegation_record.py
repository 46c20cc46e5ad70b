"""A delegation as a store holds it, and when a chain of them is in force, pure.

ACTIVE --revoke by its delegator--> REVOKED, which is final
ACTIVE --expires_at--> EXPIRED

A delegation whose parent is not in force is not in force either. That is computed along the chain whenever somebody
asks, and stored nowhere: one write revokes a delegation and all that was made of it, at one instant.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from attrs import asdict, evolve, frozen

from converge.coordination.delegation_scope import Scope, excess, read_scope
from converge.coordination.equality import same
from converge.coordination.errors import DelegationRefused
from converge.coordination.move_records import check_agent, is_time
from converge.core.limits import check_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from converge.core.plain import Plain

__all__ = ["MAX_DEPTH", "DelegationRecord", "why_not_in_force"]

MAX_DEPTH = 8
"""The most links of a chain, the first delegation included."""


@frozen(kw_only=True)
class DelegationRecord:
    """One link of a chain. Times are Unix seconds."""

    id: str
    delegator_id: str
    delegatee_id: str
    scope: Scope
    created_at: float
    parent_id: str | None = None
    expires_at: float | None = None
    revoked_at: float | None = None
    revoked_by: str | None = None

    @classmethod
    def made(
        cls,
        delegation_id: str,
        delegator_id: str,
        delegatee_id: str,
        scope: object,
        *,
        chain: Sequence[DelegationRecord],
        expires_at: float | None,
        now: float,
    ) -> DelegationRecord:
        """A new link at the end of `chain`, which goes from the parent to the first one and is empty for a first one.

        `ValueError` or `TypeError` for what makes no sense, `DelegationRefused` for what is not the delegator's to
        give.
        """
        check_agent(delegator_id)
        check_agent(delegatee_id)
        if expires_at is not None and not (is_time(expires_at) and expires_at > now):
            raise ValueError(f"expires_at is a Unix time to come, not {expires_at!r}")
        parent = chain[0] if chain else None
        if parent is not None and expires_at is None:
            expires_at = parent.expires_at
        record = cls(
            id=delegation_id,
            delegator_id=delegator_id,
            delegatee_id=delegatee_id,
            scope=read_scope(scope),
            created_at=now,
            parent_id=None if parent is None else parent.id,
            expires_at=expires_at,
        )
        agents = {delegator_id, *(link.delegator_id for link in chain)}
        if delegatee_id in agents:
            raise record._refused("an agent does not delegate to itself or back along the chain")
        if len(chain) >= MAX_DEPTH:
            raise record._refused(f"the chain has {MAX_DEPTH} links already, which is the most")
        reason = why_not_in_force([record, *chain], now)
        if reason is not None:
            raise record._refused(reason)
        return record

    @classmethod
    def from_plain(cls, data: object) -> DelegationRecord:
        """The record in a stored value; `ValueError` or `TypeError` when it is not one of this version."""
        if not isinstance(data, dict):
            raise ValueError(f"it is {type(data).__name__}, not a dict")
        record = cls(**data)
        check_agent(record.delegator_id)
        check_agent(record.delegatee_id)
        read_scope(record.scope)
        if record.parent_id is not None:
            check_text(record.parent_id, "the id of its parent")
        if not is_time(record.created_at) or not all(
            time is None or is_time(time) for time in (record.expires_at, record.revoked_at)
        ):
            raise ValueError("a time in it is no number of seconds")
        return record

    def to_plain(self) -> dict[str, Plain]:
        """The record as the store takes it."""
        return asdict(self, recurse=False)

    def same_delegation_as(self, other: DelegationRecord) -> bool:
        """Whether both were made alike, whatever has become of them."""
        fields = ("delegator_id", "delegatee_id", "scope", "parent_id", "expires_at")
        return all(same(getattr(self, name), getattr(other, name)) for name in fields)

    def revoked(self, agent_id: str | None, now: float) -> DelegationRecord:
        """The link after its revocation; itself when it had been revoked. None revokes as an administrator."""
        if agent_id is not None and agent_id != self.delegator_id:
            raise DelegationRefused(f"delegation {self.id!r} is revoked by its delegator, not by {agent_id!r}", self.id)
        return self if self.revoked_at is not None else evolve(self, revoked_at=now, revoked_by=agent_id)

    def _refused(self, reason: str) -> DelegationRefused:
        return DelegationRefused(
            f"the delegation of {self.delegator_id!r} to {self.delegatee_id!r} is refused: {reason}", self.id
        )


def why_not_in_force(chain: Sequence[DelegationRecord], now: float) -> str | None:
    """What is wrong with a chain, from the last link to the first; None when it is in force.

    Who made a link has to hold the one before it, whose scope and end it stays within.
    """
    for link in chain:
        if link.revoked_at is not None:
            return f"delegation {link.id!r} has been revoked"
        if link.expires_at is not None and now >= link.expires_at:
            return f"delegation {link.id!r} has expired"
    for child, parent in pairwise(chain):
        if child.delegator_id != parent.delegatee_id:
            return f"delegation {parent.id!r} is held by {parent.delegatee_id!r}, not by {child.delegator_id!r}"
        beyond = excess(parent.scope, child.scope)
        if beyond is not None:
            return f"the scope goes beyond that of delegation {parent.id!r}: {beyond}"
        if parent.expires_at is not None and (child.expires_at is None or child.expires_at > parent.expires_at):
            return f"it would outlive delegation {parent.id!r}, which ends at {parent.expires_at} (Unix time)"
    if len(chain) > MAX_DEPTH:
        return f"the chain has more than {MAX_DEPTH} links"
    if chain[-1].parent_id is not None:
        return f"delegation {chain[-1].parent_id!r} is gone"
    return None
