"""How ballots of pools lie in a store.

`ballot:<id>` holds the ballot. While it is open, the votes lie apart from it, under `ballot-votes:<id>:<opening>:<n>`,
64 electors a record: a vote is one compare-and-set on one of these, so that none is lost and a thousand electors
neither wait for one key nor write a thousand votes each time. They are there before the ballot and until after its
end. Who closes a ballot first seals each of them by compare-and-set: a vote is in a record before its seal, and counts,
or it is refused. Then the ballot is replaced by one with votes and outcome, by compare-and-set, and that is final.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from attrs import frozen

from converge.coordination.ballot_errors import BallotOpen, UnknownBallot
from converge.coordination.ballot_record import Ballot
from converge.coordination.errors import ForeignRecord, VoteRefused
from converge.coordination.records import decoded
from converge.core.errors import VersionConflict
from converge.core.plain import Plain
from converge.core.store import Write

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.core.store import VersionedStore

__all__ = ["BallotStore"]

_BALLOT, _VOTES = "ballot:", "ballot-votes:"
_log = logging.getLogger(__name__)


@frozen
class _Shard:
    """The votes of some electors, and whether there can be more."""

    votes: dict[str, Plain]
    sealed: bool

    def to_plain(self) -> dict[str, Plain]:
        return {"votes": self.votes, "sealed": self.sealed}


class BallotStore:
    """Ballots and their votes in `store`. Keeps nothing itself; safe between threads and processes."""

    def __init__(self, store: VersionedStore) -> None:
        self._store = store

    def read(self, ballot_id: str) -> tuple[Ballot, int] | None:
        """The ballot and its version, or None; `ForeignRecord` when something else is there."""
        key = _BALLOT + ballot_id
        found = self._store.get_versioned(key)
        return None if found is None else (decoded(key, _BALLOT, found[0], Ballot.from_plain), found[1])

    def known(self, ballot_id: str) -> tuple[Ballot, int]:
        """As `read`; `UnknownBallot` when there is none."""
        found = self.read(ballot_id)
        if found is None:
            raise UnknownBallot(ballot_id)
        return found

    def create(self, ballot: Ballot) -> bool:
        """Store a new ballot and its empty vote records, in one commit where the store can; False: the id is taken.

        A crash half-way on a store without commits leaves empty vote records, which nobody looks at.
        """
        keys = self._vote_keys(ballot)
        writes = [Write(key, _Shard({}, sealed=False).to_plain(), 0) for key in keys]
        if self._store.compare_and_set_many([*writes, Write(_BALLOT + ballot.id, ballot.to_plain(), 0)])[-1] is None:
            self._drop(ballot.id, keys)
            return False
        return True

    def open_ids(self) -> list[str]:
        """The ids of all ballots that are open, and perhaps of others."""
        return sorted({key.removeprefix(_VOTES).rsplit(":", 2)[0] for key in self._store.list(_VOTES)})

    def vote(self, ballot_id: str, agent_id: str, option: object, now: Callable[[], float]) -> tuple[bool, Ballot]:
        """Count the vote; False when this very vote was counted before, and in which ballot. `VoteRefused` says why."""
        while True:
            ballot, _ = self.known(ballot_id)
            try:
                offered = ballot.check_vote(agent_id, option)
            except ValueError as error:
                raise VoteRefused(ballot_id, agent_id, str(error)) from None
            shard, version = self._shard_for(ballot, agent_id)
            if agent_id in shard.votes:
                if shard.votes[agent_id] == offered:
                    return False, ballot
                raise VoteRefused(
                    ballot_id, agent_id, "it has voted already, for something else; the first vote counts"
                )
            if shard.sealed or ballot.is_over(now()):
                raise VoteRefused(ballot_id, agent_id, "the ballot is closed")
            key = self._vote_key(ballot, ballot.shard_of(agent_id))
            voted = _Shard({**shard.votes, agent_id: offered}, sealed=False)
            try:
                self._store.compare_and_set(key, voted.to_plain(), version)
            except VersionConflict:
                continue
            return True, ballot

    def votes(self, ballot: Ballot) -> dict[str, Plain]:
        """The votes that have been counted, by agent id."""
        votes: dict[str, Plain] = {}
        for number in range(ballot.shards):
            found = self._shard(ballot, number)
            if found is None:
                return self._closed(ballot).votes or {}
            votes |= found[0].votes
        return votes

    def is_complete(self, ballot: Ballot) -> bool:
        """Whether all have voted. Looks no further than the first record that lacks a vote."""
        for number in range(ballot.shards):
            found = self._shard(ballot, number)
            if found is not None and len(found[0].votes) < ballot.electors_of(number):
                return False
        return True

    def seal(self, ballot: Ballot) -> dict[str, Plain]:
        """Let nobody vote any more; all votes there are, now and for ever."""
        votes: dict[str, Plain] = {}
        for number in range(ballot.shards):
            while True:
                found = self._shard(ballot, number)
                if found is None:
                    return self._closed(ballot).votes or {}
                shard, version = found
                if shard.sealed:
                    break
                sealed = _Shard(shard.votes, sealed=True).to_plain()
                try:
                    self._store.compare_and_set(self._vote_key(ballot, number), sealed, version)
                except VersionConflict:
                    continue
                break
            votes |= shard.votes
        return votes

    def close(self, closed: Ballot, version: int) -> Ballot:
        """Store the result, unless another one was faster; the ballot with the result that is final."""
        try:
            self._store.compare_and_set(_BALLOT + closed.id, closed.to_plain(), version)
        except VersionConflict:
            return self._closed_now(closed)
        self.forget_votes(closed)
        return closed

    def forget_votes(self, closed: Ballot) -> None:
        """Remove the vote records of a closed ballot, which holds the votes itself. A failure is logged: they stay."""
        self._drop(closed.id, self._vote_keys(closed))

    def _drop(self, ballot_id: str, keys: list[str]) -> None:
        try:
            self._store.delete_many(keys)
        except Exception:  # noqa: BLE001  # the result is stored, whatever the store raises here
            _log.exception(
                "could not remove the vote records of ballot %s; the next listing of ballots does", ballot_id
            )

    def _shard_for(self, ballot: Ballot, agent_id: str) -> tuple[_Shard, int]:
        """The record for the agent's vote; of a closed ballot, all its votes, sealed."""
        found = None if ballot.is_closed else self._shard(ballot, ballot.shard_of(agent_id))
        return found or (_Shard(self._closed(ballot).votes or {}, sealed=True), 0)

    def _shard(self, ballot: Ballot, number: int) -> tuple[_Shard, int] | None:
        """A record of votes and its version; None when the ballot has been closed."""
        key = self._vote_key(ballot, number)
        found = self._store.get_versioned(key)
        if found is None:
            return None
        try:
            return _read_shard(ballot, number, found[0]), found[1]
        except ValueError as error:
            raise ForeignRecord(key, str(error)) from None

    def _closed(self, ballot: Ballot) -> Ballot:
        """The ballot as it is now that its vote records are gone, which is closed."""
        return ballot if ballot.is_closed else self._closed_now(ballot)

    def _closed_now(self, ballot: Ballot) -> Ballot:
        now, _ = self.known(ballot.id)
        if not now.is_closed:
            if now.opening != ballot.opening:
                raise BallotOpen(f"ballot {ballot.id!r} was removed and opened anew; look again", ballot.id)
            raise ForeignRecord(_BALLOT + ballot.id, "it is open and its vote records are gone")
        return now

    def _vote_key(self, ballot: Ballot, number: int) -> str:
        return f"{_VOTES}{ballot.id}:{ballot.opening}:{number}"

    def _vote_keys(self, ballot: Ballot) -> list[str]:
        return [self._vote_key(ballot, number) for number in range(ballot.shards)]


def _read_shard(ballot: Ballot, number: int, value: Plain) -> _Shard:
    """`ValueError` for what are no votes of these electors."""
    if not isinstance(value, dict) or {*value} != {"votes", "sealed"}:
        raise ValueError("it is no dict of votes and sealed")
    votes, sealed = value["votes"], value["sealed"]
    if not isinstance(votes, dict) or not isinstance(sealed, bool):
        raise ValueError("its votes are no dict, or sealed is no bool")
    for agent_id, option in votes.items():
        ballot.check_vote(agent_id, option)
        if ballot.shard_of(agent_id) != number:
            raise ValueError(f"the vote of {agent_id!r} does not belong here")
    return _Shard(votes, sealed)
