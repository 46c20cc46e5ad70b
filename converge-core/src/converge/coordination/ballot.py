"""A ballot box: one vote for each agent, in a mapping or in a store that several processes share.

Here anybody votes for anything, and whoever asked counts. A ballot of a pool (`pool_ballots`) has an electorate,
options, a deadline and a result; in a store that has one of that id, the box takes the vote there.
"""

from __future__ import annotations

import threading
from copy import deepcopy
from typing import TYPE_CHECKING

from converge.coordination.ballot_store import BallotStore
from converge.coordination.equality import same
from converge.coordination.errors import ForeignRecord, VoteRefused
from converge.core.clock import Clock, SystemClock
from converge.core.errors import VersionConflict
from converge.core.store import Store, versioned
from converge.policy.ballots import option_key
from converge.policy.errors import PolicyContextError

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from converge.core.plain import Plain
    from converge.core.store import VersionedStore

__all__ = ["BallotBox"]

_PREFIX = "vote:"
_mappings = threading.Lock()  # one for all: several boxes may share a mapping, which has no lock of its own


class BallotBox:
    """Votes by ballot id. The first vote of an agent counts; the same one again is no error, another is refused.

    In a mapping they are kept as id → {agent: option}; in a store as one record under `vote:<id>`, written by
    compare-and-set. A store keeps a tuple as a list. Safe between threads, and between processes on a store that they
    share. A vote in a ballot of a pool that is in the store goes to that ballot, under its rules; `clock` judges its
    deadline.
    """

    def __init__(self, votes: MutableMapping[str, dict[str, Plain]] | Store, *, clock: Clock | None = None) -> None:
        self._clock: Clock = SystemClock() if clock is None else clock
        self._store = versioned(votes) if isinstance(votes, Store) else None
        self._pool_ballots = None if self._store is None else BallotStore(self._store)
        self._mapping = votes if not isinstance(votes, Store) else None

    @property
    def blocking(self) -> bool:
        """Whether calls may wait for a disk or a network."""
        return self._store is not None and self._store.blocking

    def cast(self, vote_id: str, agent_id: str, option: Plain) -> None:
        """Count `option` as the vote of `agent_id`, which whoever calls this has made sure of.

        An option is what `Consensus` and the governance models can count: any value of plain data but None, which
        stands for no decision, and NaN, which equals nothing. `VoteRefused` for those, for an empty id, and when the
        agent has voted for something else; `TypeError` for an option that the store cannot hold. In a ballot of a
        pool, also for who is no elector, what is no option of it, and a vote that comes too late.
        """
        if not vote_id or not agent_id:
            raise VoteRefused(vote_id, agent_id, "a ballot and an agent have an id, which is a non-empty str")
        try:
            option_key(option, "vote")
        except PolicyContextError as error:
            raise VoteRefused(vote_id, agent_id, f"it {error.reason}") from None
        if self._pool_ballots is not None and self._pool_ballots.read(vote_id) is not None:
            self._pool_ballots.vote(vote_id, agent_id, option, self._clock.time)
            return
        if self._mapping is not None:
            with _mappings:
                votes = self._mapping.get(vote_id, {})
                if _is_new(votes, vote_id, agent_id, option):
                    self._mapping[vote_id] = {**votes, agent_id: deepcopy(option)}
            return
        while True:
            votes, version = self._stored(vote_id)
            if not _is_new(votes, vote_id, agent_id, option):
                return
            try:
                self._versioned.compare_and_set(_PREFIX + vote_id, {**votes, agent_id: option}, version)
            except VersionConflict:
                continue
            return

    def votes(self, vote_id: str) -> dict[str, Plain]:
        """The votes cast so far, by agent id; a copy."""
        if self._pool_ballots is not None:
            found = self._pool_ballots.read(vote_id)
            return self._stored(vote_id)[0] if found is None else self._pool_ballots.votes(found[0])
        assert self._mapping is not None  # there is one of the two
        with _mappings:
            return deepcopy(self._mapping.get(vote_id, {}))

    @property
    def _versioned(self) -> VersionedStore:
        assert self._store is not None  # asked only when there is no mapping
        return self._store

    def _stored(self, vote_id: str) -> tuple[dict[str, Plain], int]:
        found = self._versioned.get_versioned(_PREFIX + vote_id)
        if found is None:
            return {}, 0
        if not isinstance(found[0], dict):
            raise ForeignRecord(_PREFIX + vote_id, f"it is {type(found[0]).__name__}, not a dict of votes")
        return found[0], found[1]


def _is_new(votes: dict[str, Plain], vote_id: str, agent_id: str, option: Plain) -> bool:
    """Whether the vote has to be written; `VoteRefused` when there is another one."""
    if agent_id not in votes:
        return True
    if same(votes[agent_id], option):
        return False
    raise VoteRefused(vote_id, agent_id, "it has voted already, for something else; the first vote counts")
