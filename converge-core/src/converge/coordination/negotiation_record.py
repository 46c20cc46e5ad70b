"""The state machine of a negotiation, pure: a stored record goes in, the next one comes out.

PROPOSED --propose--> PROPOSED    by any participant; what had been accepted of the last proposal is void
PROPOSED --accept--> PROPOSED     by one of several who have to
PROPOSED --accept--> ACCEPTED     by the last of all but the proposer
PROPOSED --reject--> REJECTED     by any participant but the proposer
PROPOSED --deadline--> EXPIRED    found by whoever looks or moves next

ACCEPTED, REJECTED and EXPIRED are final. Proposals are numbered from 1 in the order in which the store took them.
"""

from __future__ import annotations

from typing import Any

from attrs import asdict, evolve, field, frozen

from converge.coordination.equality import same
from converge.coordination.errors import NegotiationRefused
from converge.coordination.move_records import agent_ids, bounded, check_agent, is_time
from converge.core.plain import Plain

__all__ = ["MAX_CONTENT_BYTES", "MAX_HISTORY", "MAX_PARTICIPANTS", "Proposal", "SessionRecord"]

MAX_HISTORY = 20
"""Proposals that a session keeps: the first, and the latest ones."""

MAX_CONTENT_BYTES = 64 * 1024
"""What a proposal may take, encoded."""

MAX_PARTICIPANTS = 100
"""The most participants of a session."""

_PROPOSED, _ACCEPTED, _REJECTED, _EXPIRED = "proposed", "accepted", "rejected", "expired"
_STATES = (_PROPOSED, _ACCEPTED, _REJECTED, _EXPIRED)


@frozen
class Proposal:
    """The `number`th proposal of a session, made by an agent at a time in Unix seconds."""

    number: int
    agent_id: str
    content: Plain
    at: float


@frozen(kw_only=True)
class SessionRecord:
    """A negotiation as the store holds it. The first participant is who opened it. Times are Unix seconds."""

    id: str
    participants: list[str]
    proposals: list[Proposal]
    opened_at: float
    deadline: float | None = None
    max_rounds: int | None = None
    state: str = _PROPOSED
    accepted_by: list[str] = field(factory=list)
    ended_at: float | None = None
    ended_by: str | None = None

    @classmethod
    def opened(
        cls,
        session_id: str,
        initiator_id: str,
        others: object,
        content: Plain,
        *,
        deadline: float | None,
        max_rounds: int | None,
        now: float,
    ) -> SessionRecord:
        """The first record of a session; `ValueError` or `TypeError` for what makes no sense."""
        participants = agent_ids([initiator_id, *agent_ids(others, "participants")], "participants")
        if not 2 <= len(participants) <= MAX_PARTICIPANTS:
            raise ValueError(f"a negotiation has 2 to {MAX_PARTICIPANTS} participants, not {len(participants)}")
        if deadline is not None and not (is_time(deadline) and deadline > now):
            raise ValueError(f"deadline is a Unix time to come, not {deadline!r}")
        if max_rounds is not None and (type(max_rounds) is not int or max_rounds < 1):
            raise ValueError(f"max_rounds is an int of at least 1, not {max_rounds!r}")
        first = Proposal(1, participants[0], bounded(content, MAX_CONTENT_BYTES, "a proposal"), now)
        return cls(
            id=session_id,
            participants=participants,
            proposals=[first],
            opened_at=now,
            deadline=deadline,
            max_rounds=max_rounds,
        )

    @classmethod
    def from_plain(cls, data: object) -> SessionRecord:
        """The record in a stored value; `ValueError` or `TypeError` when it is not one of this version."""
        if not isinstance(data, dict):
            raise ValueError(f"it is {type(data).__name__}, not a dict")
        proposals: Any = data.get("proposals")
        if not isinstance(proposals, list) or not proposals:
            raise ValueError("it has no proposals")
        record = cls(**data | {"proposals": [Proposal(*proposal) for proposal in proposals]})
        record._check()
        return record

    def to_plain(self) -> dict[str, Plain]:
        """The record as the store takes it."""
        proposals = [[proposal.number, proposal.agent_id, proposal.content, proposal.at] for proposal in self.proposals]
        return asdict(self, recurse=False) | {"proposals": proposals}

    @property
    def present(self) -> Proposal:
        """The proposal that is to be accepted or rejected."""
        return self.proposals[-1]

    @property
    def missing(self) -> list[str]:
        """Who has yet to accept the present proposal."""
        return [one for one in self.participants if one != self.present.agent_id and one not in self.accepted_by]

    def same_session_as(self, other: SessionRecord) -> bool:
        """Whether both were opened alike."""
        mine, theirs = self.proposals[0], other.proposals[0]
        return (
            (self.participants, self.deadline, self.max_rounds)
            == (other.participants, other.deadline, other.max_rounds)
            and (mine.number, mine.agent_id) == (theirs.number, theirs.agent_id)
            and same(mine.content, theirs.content)
        )

    def expired(self, now: float) -> SessionRecord:
        """The session with its end when the deadline has passed; else itself."""
        if self.state != _PROPOSED or self.deadline is None or now < self.deadline:
            return self
        return evolve(self, state=_EXPIRED, ended_at=now)

    def proposed(self, agent_id: str, content: Plain, now: float) -> SessionRecord:
        """The session with another proposal; itself when the agent's present one says the same."""
        self._check_move(agent_id, "a proposal of")
        try:
            copy = bounded(content, MAX_CONTENT_BYTES, "a proposal")
        except ValueError as error:
            raise self._refused(f"a proposal of {agent_id!r}", str(error)) from None
        if agent_id == self.present.agent_id and same(copy, self.present.content):
            return self
        self._check_bound(agent_id, "a proposal of")
        number = self.present.number + 1
        if self.max_rounds is not None and number > self.max_rounds:
            raise self._refused(
                f"a proposal of {agent_id!r}", f"there were {self.max_rounds}, the most of it; accept or reject"
            )
        kept = [self.proposals[0], *self.proposals[1:][-(MAX_HISTORY - 2) :]]
        return evolve(self, proposals=[*kept, Proposal(number, agent_id, copy, now)], accepted_by=[])

    def accepted(self, agent_id: str, number: int | None, now: float) -> SessionRecord:
        """The session with an acceptance of proposal `number` (None: the only one that was made since the agent's own
        last one); itself when the agent has accepted it before.
        """
        self._check_answer(agent_id, "the acceptance of", number)
        if number is None and not self._is_only_one_for(agent_id):
            raise self._refused(
                f"the acceptance of {agent_id!r}",
                f"there was more than one proposal since its last move, so it has to name one; "
                f"the present one is number {self.present.number}",
            )
        if agent_id in self.accepted_by:
            return self
        agreed = evolve(self, accepted_by=[*self.accepted_by, agent_id])
        return agreed if agreed.missing else evolve(agreed, state=_ACCEPTED, ended_at=now, ended_by=agent_id)

    def rejected(self, agent_id: str, number: int | None, now: float) -> SessionRecord:
        """The session ended by a rejection of proposal `number` (None: of whatever is proposed)."""
        self._check_answer(agent_id, "the rejection of", number)
        self._check_bound(agent_id, "the rejection of")
        return evolve(self, state=_REJECTED, ended_at=now, ended_by=agent_id)

    def _check_move(self, agent_id: str, what: str) -> None:
        check_agent(agent_id)
        if agent_id not in self.participants:
            raise self._refused(f"{what} {agent_id!r}", "it is no participant")
        if self.state != _PROPOSED:
            raise self._refused(f"{what} {agent_id!r}", f"it has ended: {self.state}")

    def _check_answer(self, agent_id: str, what: str, number: int | None) -> None:
        self._check_move(agent_id, what)
        if number is not None and number != self.present.number:
            raise self._refused(
                f"{what} {agent_id!r}", f"it is of proposal {number}; the present one is number {self.present.number}"
            )
        if agent_id == self.present.agent_id:
            raise self._refused(f"{what} {agent_id!r}", "the present proposal is its own")

    def _check_bound(self, agent_id: str, what: str) -> None:
        if agent_id in self.accepted_by:
            raise self._refused(
                f"{what} {agent_id!r}", "it has accepted the present proposal, and is bound while it stands"
            )

    def _is_only_one_for(self, agent_id: str) -> bool:
        """Whether the agent can have seen no other proposal than the present one when it decided to accept."""
        own = [proposal.number for proposal in self.proposals if proposal.agent_id == agent_id]
        return self.present.number == max(own, default=0) + 1

    def _refused(self, what: str, reason: str) -> NegotiationRefused:
        return NegotiationRefused(f"{what} in negotiation {self.id!r} is refused: {reason}", self.id)

    def _check(self) -> None:
        if self.state not in _STATES:
            raise ValueError(f"there is no state {self.state!r}")
        for names in (self.participants, self.accepted_by):
            if names != agent_ids(names, "participants"):  # false for what is no list, too
                raise ValueError("its participants are agent ids, each once")
        numbers = [proposal.number for proposal in self.proposals]
        if not all(type(number) is int for number in numbers) or numbers != sorted(set(numbers)):
            raise ValueError("its proposals are numbered upwards")
        voices = {*self.accepted_by, *(proposal.agent_id for proposal in self.proposals)}
        if len(self.participants) < 2 or not voices <= {*self.participants}:
            raise ValueError("somebody in it is no participant")
        if (self.state == _PROPOSED) != (self.ended_at is None) or (self.state == _ACCEPTED) == bool(self.missing):
            raise ValueError("its state and its acceptances do not fit together")
        times = [self.opened_at, *(proposal.at for proposal in self.proposals)]
        times += [time for time in (self.deadline, self.ended_at) if time is not None]
        if not all(is_time(time) for time in times):
            raise ValueError("a time in it is no number of seconds")
        if self.max_rounds is not None and type(self.max_rounds) is not int:
            raise ValueError("max_rounds is no int")
