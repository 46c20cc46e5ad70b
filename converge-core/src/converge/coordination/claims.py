"""Claims: how a task comes to one, and which of them were made through one manager."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from converge.coordination.task_index import Filter
    from converge.coordination.task_record import TaskRecord

__all__ = ["Claim", "ClaimBook", "next_for_claim"]


@frozen
class Claim:
    """A lease on a task. `token` grows with every claim of the task: hand it to what the work changes, so that it can
    refuse an older one (fencing). `expires_at` is in Unix seconds, as of the last claim or renewal.
    """

    task_id: str
    agent_id: str
    attempt: int
    expires_at: float

    @property
    def token(self) -> int:
        """The fencing token: the attempt number."""
        return self.attempt


class ClaimBook:
    """The latest claim of each agent on each task that has not ended. Thread-safe.

    Claims that were lost stay in it until the task has ended: they are what a late report is refused by.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: dict[str, dict[str, Claim]] = {}
        self._held: dict[str, dict[str, Claim]] = {}  # by agent and task, those not known to be lost

    def get(self, agent_id: str, task_id: str) -> Claim | None:
        """The latest claim of the agent on the task."""
        with self._lock:
            return self._claims.get(task_id, {}).get(agent_id)

    def remember(self, record: TaskRecord) -> Claim:
        """The claim in an ASSIGNED record, remembered unless a later one is."""
        assert record.assigned_to is not None  # tells the type checker what ASSIGNED means
        claim = Claim(record.id, record.assigned_to, record.attempt, record.lease_expires_at or 0.0)
        with self._lock:
            of_task = self._claims.setdefault(record.id, {})
            known = of_task.get(claim.agent_id)
            if known is None or (known.attempt, known.expires_at) < (claim.attempt, claim.expires_at):
                of_task[claim.agent_id] = claim
                self._held.setdefault(claim.agent_id, {})[claim.task_id] = claim
        return claim

    def of_agent(self, agent_id: str) -> list[Claim]:
        """The claims that the agent made here and that, as far as is known here, it still holds; the oldest first."""
        with self._lock:
            return [*self._held.get(agent_id, {}).values()]

    def see(self, record: TaskRecord) -> None:
        """Take note of a record that was stored or read."""
        with self._lock:
            of_task = self._claims.get(record.id)
            if of_task is None:
                return
            for claim in of_task.values():
                if not record.is_open or (record.attempt >= claim.attempt and not _is_of(record, claim)):
                    self._let_go(claim)
            if not record.is_open:
                del self._claims[record.id]

    def _let_go(self, claim: Claim) -> None:
        held = self._held.get(claim.agent_id, {})
        held.pop(claim.task_id, None)
        if not held:
            self._held.pop(claim.agent_id, None)

    def holds(self, record: TaskRecord) -> bool:
        """Whether the claim in an ASSIGNED record was made here."""
        claim = self.get(record.assigned_to or "", record.id)
        return claim is not None and claim.attempt == record.attempt

    def task_ids(self) -> list[str]:
        """The ids of the tasks that there are claims on."""
        with self._lock:
            return [*self._claims]


def _is_of(record: TaskRecord, claim: Claim) -> bool:
    return record.is_assigned and (record.assigned_to, record.attempt) == (claim.agent_id, claim.attempt)


def next_for_claim(record: TaskRecord, agent_id: str, wanted: Filter, now: float) -> TaskRecord | None:
    """The record to store when an agent asks for the task: claimed, or ended because it is over; None for neither."""
    own = record.assigned_to == agent_id
    if record.is_assigned:
        expired = record.is_expired(now)
        if own and record.is_awarded and not expired:
            return record.start(now)
        if not own and not expired:
            return None
        record = record.expire(now, "lease expired" if expired else "taken over by its agent")
        if not record.is_open:
            return record
    elif not record.is_open:
        return None
    if record.is_overdue(now):
        return record.miss_deadline(now)
    if record.is_delayed(now) or (record.is_award_only and not own):
        return None
    return record.claim(agent_id, now) if wanted.takes(record) else None
