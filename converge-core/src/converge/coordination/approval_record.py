"""A decision that waits for a person, as a store holds it: what may become of it, pure.

WAITING --approve--> APPROVED --the agent starts it--> STARTED --it is over--> DONE
WAITING --deny--> DENIED
WAITING --nobody answered in time--> EXPIRED

DENIED, EXPIRED and DONE are final; the agent is told of each, once (`told`). STARTED is stored before the decision is
carried out, so a decision is carried out at most once: one that is found STARTED by a later process of its agent was
cut off, and nobody knows how far it came.
"""

from __future__ import annotations

from enum import Enum

from attrs import asdict, evolve, frozen

from converge.coordination.errors import ApprovalRefused
from converge.coordination.move_records import check_agent, is_time
from converge.core.limits import check_text
from converge.core.plain import Plain

__all__ = ["ApprovalRecord", "ApprovalState"]

_MAX_TEXT = 1_000


class ApprovalState(Enum):
    """Where a decision that needs approval stands."""

    WAITING = "waiting"
    APPROVED = "approved"
    STARTED = "started"
    DONE = "done"
    DENIED = "denied"
    EXPIRED = "expired"


@frozen(kw_only=True)
class ApprovalRecord:
    """One decision of one agent. Times are Unix seconds; nobody may approve it from `deadline` on.

    `about` says in a line what it is; `decided_by` and `reason` are the words of who answered. `outcome` is the status
    of the outcome when it is DONE, `error` its error.
    """

    id: str
    agent_id: str
    decision: dict[str, Plain]
    about: str
    asked_at: float
    deadline: float
    state: str = ApprovalState.WAITING.value
    decided_by: str | None = None
    decided_at: float | None = None
    reason: str | None = None
    outcome: str | None = None
    error: str | None = None
    ended_at: float | None = None
    told: bool = False

    @classmethod
    def from_plain(cls, data: object) -> ApprovalRecord:
        """The record in a stored value; `ValueError` or `TypeError` when it is not one of this version."""
        if not isinstance(data, dict):
            raise ValueError(f"it is {type(data).__name__}, not a dict")
        record = cls(**data)
        check_agent(record.agent_id)
        ApprovalState(record.state)
        if not isinstance(record.decision, dict):
            raise ValueError("the decision in it is no dict")
        times = (record.asked_at, record.deadline, record.decided_at or 0.0, record.ended_at or 0.0)
        if not all(is_time(time) for time in times):
            raise ValueError("a time in it is no number of seconds")
        return record

    def to_plain(self) -> dict[str, Plain]:
        """The record as the store takes it."""
        return asdict(self, recurse=False)

    @property
    def standing(self) -> ApprovalState:
        """The state that was stored last: a WAITING one may be past its deadline."""
        return ApprovalState(self.state)

    def is_due(self, now: float) -> bool:
        """Whether its agent has something to do about it now."""
        return not self.told and (self.standing is not ApprovalState.WAITING or self.is_overdue(now))

    def is_overdue(self, now: float) -> bool:
        """Whether nobody has answered in time."""
        return self.standing is ApprovalState.WAITING and now >= self.deadline

    def answered(self, *, approve: bool, by: str, reason: str | None, now: float) -> ApprovalRecord:
        """The record after a person's answer; the same answer given again changes nothing."""
        check_text(by, "who answers")
        if reason is not None:
            check_text(reason, "the reason", empty=True)
        state = ApprovalState.APPROVED if approve else ApprovalState.DENIED
        if self.standing is not ApprovalState.WAITING:
            was_approved = self.standing in (ApprovalState.APPROVED, ApprovalState.STARTED, ApprovalState.DONE)
            if self.decided_by == by and was_approved is approve:
                return self
            raise self._refused(f"it is {self.state}" + (f" by {self.decided_by}" if self.decided_by else ""))
        if self.is_overdue(now):
            raise self._refused("nobody answered in time, and it has expired")
        ended = None if approve else now
        return evolve(self, state=state.value, decided_by=by, decided_at=now, reason=reason, ended_at=ended)

    def expired(self, now: float) -> ApprovalRecord:
        """The record after its deadline; itself when somebody has answered, or there is time left."""
        return evolve(self, state=ApprovalState.EXPIRED.value, ended_at=now) if self.is_overdue(now) else self

    def started(self, agent_id: str) -> ApprovalRecord:
        """The record when its agent is about to carry the decision out."""
        self._check_owner(agent_id)
        if self.standing is not ApprovalState.APPROVED:
            raise self._refused(f"it is {self.state}, so it is not carried out")
        return evolve(self, state=ApprovalState.STARTED.value)

    def done(self, agent_id: str, outcome: str, error: str | None, now: float) -> ApprovalRecord:
        """The record when the decision was carried out, or tried."""
        self._check_owner(agent_id)
        if self.standing is not ApprovalState.STARTED:
            raise self._refused(f"it is {self.state}, so it was not carried out")
        text = None if error is None else error[:_MAX_TEXT]
        return evolve(self, state=ApprovalState.DONE.value, outcome=outcome, error=text, ended_at=now, told=True)

    def told_to(self, agent_id: str) -> ApprovalRecord:
        """The record when its agent knows that it was denied, or has expired."""
        self._check_owner(agent_id)
        if self.standing not in (ApprovalState.DENIED, ApprovalState.EXPIRED):
            raise self._refused(f"it is {self.state}, so there is nothing to tell")
        return self if self.told else evolve(self, told=True)

    def _check_owner(self, agent_id: str) -> None:
        if agent_id != self.agent_id:
            raise self._refused(f"it is a decision of {self.agent_id!r}, not of {agent_id!r}")

    def _refused(self, reason: str) -> ApprovalRefused:
        return ApprovalRefused(f"approval {self.id!r}: {reason}", self.id)
