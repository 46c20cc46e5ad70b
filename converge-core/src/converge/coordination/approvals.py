"""Decisions that wait for a person, in any store: asked by agents, answered by whoever may write to the store."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING
from uuid import uuid4

from converge.coordination.approval_record import ApprovalRecord, ApprovalState
from converge.coordination.errors import ApprovalRefused, ForeignRecord, UnknownApproval
from converge.coordination.move_records import MoveRecords, bounded, check_agent
from converge.core.clock import Clock, SystemClock
from converge.core.decision_data import decision_to_plain
from converge.core.follower import Follower
from converge.core.store import DELETED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from converge.core.decisions import Decision
    from converge.core.store import Change, Store

__all__ = ["DEFAULT_APPROVAL_TIMEOUT_SEC", "MAX_DECISION_BYTES", "MAX_WAITING", "RETENTION_SEC", "Approvals"]

DEFAULT_APPROVAL_TIMEOUT_SEC = 86_400.0
"""How long a decision waits for an answer: a day."""
MAX_WAITING = 100
"""How many decisions of one agent may wait; another one is refused."""
MAX_DECISION_BYTES = 262_144
"""The most that a decision may take as plain data."""
RETENTION_SEC = 604_800.0
"""How long a record is kept after its end, or after its deadline if its agent never came back: a week."""

_PREFIX = "approval:"
_MAX_ABOUT = 500
_log = logging.getLogger(__name__)


class Approvals:
    """The decisions in `store` that wait for approval, or in memory when there is none.

    Each is a record under `approval:<id>` (see `converge.coordination.approval_record` for its states) that survives
    any process. Of several answers the first counts; an answer that comes too late is `ApprovalRefused`, and one about
    what is not there is `UnknownApproval`. Who answers is a name that is kept, not an identity that is proved: whoever
    may write to the store may answer. Safe between threads, and between processes on a store that they share.
    """

    def __init__(self, store: Store | None = None, *, clock: Clock | None = None) -> None:
        self._clock: Clock = SystemClock() if clock is None else clock
        self._records = MoveRecords(store, _PREFIX, ApprovalRecord, _unknown)
        self._follower = Follower(self._records.store, _PREFIX)
        self._open: dict[str, ApprovalRecord] = {}  # where to look, never what to believe
        self._ends: dict[str, float] = {}
        self._lock = threading.Lock()

    @property
    def blocking(self) -> bool:
        """Whether calls may wait for a disk or a network."""
        return self._records.blocking

    def may_have_changed(self) -> bool:
        """Whether `poll` would find anything: cheap, never a false no."""
        return self._follower.may_have_changed()

    # -- for people

    def approve(self, approval_id: str, *, by: str, reason: str | None = None) -> ApprovalRecord:
        """Let the decision be carried out. When this has returned it will be, once, if its agent lives."""
        return self._answer(approval_id, approve=True, by=by, reason=reason)

    def deny(self, approval_id: str, *, by: str, reason: str | None = None) -> ApprovalRecord:
        """Forbid the decision; its agent is told `reason`."""
        return self._answer(approval_id, approve=False, by=by, reason=reason)

    def get(self, approval_id: str) -> ApprovalRecord | None:
        """The record as the store holds it now; None when there is none."""
        return self._records.find(approval_id)

    def waiting(self) -> list[ApprovalRecord]:
        """What waits for an answer now, the oldest first."""
        now = self._clock.time()
        return [one for one in self.all() if one.standing is ApprovalState.WAITING and not one.is_overdue(now)]

    def all(self) -> list[ApprovalRecord]:
        """All records that are kept, those that are over included, the oldest first."""
        store, found = self._records.store, []
        for key in store.list(_PREFIX):
            value = store.get(key)
            record = None if value is None else self._readable(key, value)
            if record is not None:
                found.append(record)
        return sorted(found, key=lambda record: (record.asked_at, record.id))

    # -- for agents

    def ask(
        self, agent_id: str, decision: Decision, *, about: str, timeout_sec: float = DEFAULT_APPROVAL_TIMEOUT_SEC
    ) -> str:
        """The id under which `decision` waits from now on, at most `timeout_sec` seconds.

        `about` says in a line what it is. `ApprovalRefused` when `MAX_WAITING` decisions of the agent wait already;
        `TypeError` or `ValueError` for a decision that cannot be written down (docs/approvals.md).
        """
        check_agent(agent_id)
        if not 0 < timeout_sec < float("inf"):
            raise ValueError(f"timeout_sec is a number of seconds above 0, not {timeout_sec!r}")
        approval_id = str(uuid4())
        data = bounded(decision_to_plain(decision), MAX_DECISION_BYTES, "the decision")
        assert isinstance(data, dict)  # a copy of one
        if len([one for one in self.of_agent(agent_id) if one.standing is ApprovalState.WAITING]) >= MAX_WAITING:
            raise ApprovalRefused(f"{MAX_WAITING} decisions of {agent_id!r} wait for approval already", approval_id)
        now = self._clock.time()
        record = ApprovalRecord(
            id=approval_id,
            agent_id=agent_id,
            decision=data,
            about=about[:_MAX_ABOUT],
            asked_at=now,
            deadline=now + timeout_sec,
        )
        self._records.create(record)
        return approval_id

    def of_agent(self, agent_id: str) -> list[ApprovalRecord]:
        """What the agent has asked and not been told the end of, the oldest first, as of now."""
        with self._lock:
            self._follow()
            mine = [record for record in self._open.values() if record.agent_id == agent_id]
        return sorted(mine, key=lambda record: (record.asked_at, record.id))

    def due(self) -> set[str]:
        """The agents that have something to do about an answer or a deadline, as of the last look at the store."""
        now = self._clock.time()
        with self._lock:
            return {record.agent_id for record in self._open.values() if record.is_due(now)}

    def poll(self) -> None:
        """Look at the store."""
        with self._lock:
            self._follow()

    def expire(self, approval_id: str) -> ApprovalRecord:
        """The record, EXPIRED if nobody has answered it in time."""
        return self._records.change(approval_id, lambda record: record.expired(self._clock.time()))

    def start(self, approval_id: str, agent_id: str) -> ApprovalRecord:
        """Note that the agent is about to carry the decision out; `ApprovalRefused` unless it is APPROVED.

        Only one call succeeds, in whatever process: whoever has made it carries the decision out.
        """
        return self._records.change(approval_id, lambda record: record.started(agent_id))

    def finish(self, approval_id: str, agent_id: str, outcome: str, error: str | None) -> ApprovalRecord:
        """Note what became of the decision."""
        now = self._clock.time()
        return self._records.change(approval_id, lambda record: record.done(agent_id, outcome, error, now))

    def tell(self, approval_id: str, agent_id: str) -> ApprovalRecord:
        """Note that the agent knows of the denial, or that nobody answered in time."""
        return self._records.change(approval_id, lambda record: record.told_to(agent_id))

    def forget_old(self, older_than_sec: float = RETENTION_SEC) -> int:
        """Delete the records of what was over `older_than_sec` seconds ago; how many there were."""
        limit = self._clock.time() - older_than_sec
        with self._lock:
            self._follow()
            old = [approval_id for approval_id, ended_at in self._ends.items() if ended_at <= limit]
        for approval_id in old:
            self._records.store.delete(_PREFIX + approval_id)
        return len(old)

    def _answer(self, approval_id: str, *, approve: bool, by: str, reason: str | None) -> ApprovalRecord:
        return self._records.change(
            approval_id,
            lambda record: record.answered(approve=approve, by=by, reason=reason, now=self._clock.time()),
        )

    def _follow(self) -> None:
        emptied, changes = self._follower.poll()
        if emptied:
            self._open.clear()
            self._ends.clear()
        self._note(changes)

    def _note(self, changes: Iterable[Change]) -> None:
        for change in changes:
            approval_id = change.key.removeprefix(_PREFIX)
            self._open.pop(approval_id, None)
            self._ends.pop(approval_id, None)
            record = None if change.value is DELETED else self._readable(change.key, change.value)
            if record is None:
                continue
            self._ends[approval_id] = record.deadline if record.ended_at is None else record.ended_at
            if not record.told:
                self._open[approval_id] = record

    def _readable(self, key: str, value: object) -> ApprovalRecord | None:
        try:
            return self._records.decoded(key, value)  # type: ignore[arg-type]  # what is no record of ours is refused
        except ForeignRecord as error:
            _log.warning("%s", error)
            return None


def _unknown(approval_id: str) -> UnknownApproval:
    return UnknownApproval(f"there is no approval {approval_id!r}; `converge approvals list` shows them", approval_id)
