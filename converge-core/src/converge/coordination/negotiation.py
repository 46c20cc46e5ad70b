"""Negotiations in any store: proposals and answers from any process, one end that all of them see.

The record under `negotiation:<id>` holds participants, proposals and state. Each move is one compare-and-set on it.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING
from uuid import uuid4

from attrs import frozen

from converge.coordination.errors import NegotiationRefused, UnknownSession
from converge.coordination.move_records import MoveRecords
from converge.coordination.negotiation_record import Proposal, SessionRecord
from converge.core.clock import Clock, SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from converge.core.plain import Plain
    from converge.core.store import Store

__all__ = ["NegotiationProtocol", "NegotiationSession", "NegotiationState"]

_PREFIX = "negotiation:"


class NegotiationState(Enum):
    """PROPOSED is open; the others are final."""

    PROPOSED = "proposed"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    EXPIRED = "expired"


@frozen(kw_only=True)
class NegotiationSession:
    """A negotiation as it was when it was looked at. The first participant is who opened it; times are Unix seconds.

    `proposals` are the first and the latest 19; the last of them, `proposal`, is the present one.
    """

    id: str
    state: NegotiationState
    participants: tuple[str, ...]
    proposals: tuple[Proposal, ...]
    accepted_by: tuple[str, ...]
    missing: tuple[str, ...]
    deadline: float | None
    max_rounds: int | None
    opened_at: float
    ended_at: float | None
    ended_by: str | None

    @property
    def proposal(self) -> Proposal:
        """The proposal that is to be answered, or was."""
        return self.proposals[-1]


class NegotiationProtocol:
    """Negotiations in `store`, or in memory when there is none.

    Only participants move, nobody answers their own proposal, and nobody moves after the end. All but the proposer
    have to accept the present proposal; one rejection ends the negotiation. A participant that disagrees in part
    makes another proposal, which voids the acceptances of the last one. Who has accepted is bound while that proposal
    stands. A refused move is `NegotiationRefused`, one in a session that is not there `UnknownSession`.

    Safe between threads, and between processes on a store that they share. `clock` tells the time for deadlines.
    Whoever finds that a deadline has passed stores that the session has expired; from then on no clock counts.
    """

    def __init__(self, store: Store | None = None, *, clock: Clock | None = None) -> None:
        self._clock: Clock = SystemClock() if clock is None else clock
        self._records = MoveRecords(store, _PREFIX, SessionRecord, _unknown)

    @property
    def blocking(self) -> bool:
        """Whether calls may wait for a disk or a network."""
        return self._records.blocking

    def create_session(
        self,
        initiator_id: str,
        participants: Iterable[str],
        proposal_content: Plain,
        *,
        session_id: str | None = None,
        deadline: float | None = None,
        max_rounds: int | None = None,
    ) -> str:
        """The id of a new session, which begins with the proposal of `initiator_id` to the `participants`.

        `deadline` is the Unix time from which nobody moves; `max_rounds` the most proposals, the first one included.
        With a `session_id`, opening the same session again returns it; `NegotiationRefused` when it is another one.
        `ValueError` or `TypeError` for what makes no sense.
        """
        record = SessionRecord.opened(
            str(uuid4()) if session_id is None else session_id,
            initiator_id,
            participants,
            proposal_content,
            deadline=deadline,
            max_rounds=max_rounds,
            now=self._clock.time(),
        )
        known = self._records.create(record)
        if known is not None and not known.same_session_as(record):
            raise NegotiationRefused(
                f"negotiation {record.id!r} exists with another first proposal, participants or bounds; choose another",
                record.id,
            )
        return record.id

    def propose(self, session_id: str, agent_id: str, proposal_content: Plain) -> NegotiationSession:
        """The session with another proposal, at most 64 KiB; the same one again by the same agent is no error."""
        return self._move(session_id, lambda record, now: record.proposed(agent_id, proposal_content, now))

    def accept(self, session_id: str, agent_id: str, *, proposal_number: int | None = None) -> NegotiationSession:
        """The session with the acceptance of a proposal, which is ACCEPTED when nobody is missing any more.

        A proposal that has been replaced is not accepted by accident: give the number of the one that is meant.
        Without a number it is the present one, and only if that is the only one that was made since the agent's own
        last proposal; else it is refused.
        """
        return self._move(session_id, lambda record, now: record.accepted(agent_id, proposal_number, now))

    def reject(self, session_id: str, agent_id: str, *, proposal_number: int | None = None) -> NegotiationSession:
        """The session, ended by a rejection; with a number, only if that proposal is still the present one."""
        return self._move(session_id, lambda record, now: record.rejected(agent_id, proposal_number, now))

    def get_session(self, session_id: str) -> NegotiationSession | None:
        """The session as the store holds it now; None when there is none."""
        if self._records.find(session_id) is None:
            return None
        return _view(self._records.change(session_id, lambda record: record.expired(self._clock.time())))

    def _move(self, session_id: str, move: Callable[[SessionRecord, float], SessionRecord]) -> NegotiationSession:
        """What `move` makes of the session.

        A deadline that has passed is stored before the move is refused, so that no slower clock can still make one.
        """
        refused: list[NegotiationRefused] = []

        def step(record: SessionRecord) -> SessionRecord:
            refused.clear()
            now = self._clock.time()
            expired = record.expired(now)
            if expired is record:
                return move(record, now)
            try:
                return move(expired, now)
            except NegotiationRefused as error:
                refused.append(error)
                return expired

        record = self._records.change(session_id, step)
        if refused:
            raise refused[0]
        return _view(record)


def _view(record: SessionRecord) -> NegotiationSession:
    return NegotiationSession(
        id=record.id,
        state=NegotiationState(record.state),
        participants=tuple(record.participants),
        proposals=tuple(record.proposals),
        accepted_by=tuple(record.accepted_by),
        missing=tuple(record.missing),
        deadline=record.deadline,
        max_rounds=record.max_rounds,
        opened_at=record.opened_at,
        ended_at=record.ended_at,
        ended_by=record.ended_by,
    )


def _unknown(session_id: str) -> UnknownSession:
    return UnknownSession(f"there is no negotiation {session_id!r}; create its session first", session_id)
