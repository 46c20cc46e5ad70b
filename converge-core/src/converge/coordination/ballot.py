"""A ballot box: one vote for each agent, in a mapping or in a store that several processes share."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from converge.coordination.errors import VoteRefused
from converge.core.errors import VersionConflict
from converge.core.store import Store, versioned

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from converge.core.plain import Plain

__all__ = ["BallotBox"]

_PREFIX = "vote:"


class BallotBox:
    """Votes by ballot id. The first vote of an agent counts; the same one again is no error, another is refused.

    In a mapping they are kept as id → {agent: option}; in a store as one record under `vote:<id>`, written by
    compare-and-set.
    """

    def __init__(self, votes: MutableMapping[str, dict[str, Plain]] | Store) -> None:
        self._store = versioned(votes) if isinstance(votes, Store) else None
        self._mapping = votes if not isinstance(votes, Store) else None
        self._lock = threading.Lock()

    @property
    def blocking(self) -> bool:
        """Whether calls may wait for a disk or a network."""
        return self._store is not None and self._store.blocking

    def cast(self, vote_id: str, agent_id: str, option: Plain) -> None:
        """Count `option` as the vote of `agent_id`; `VoteRefused` when it has voted for something else."""
        while True:
            with self._lock:
                if self._mapping is not None:
                    self._mapping[vote_id] = _with_vote(self._mapping.get(vote_id, {}), vote_id, agent_id, option)
                    return
            assert self._store is not None  # one of the two is there
            found = self._store.get_versioned(_PREFIX + vote_id)
            votes, version = (found[0], found[1]) if found is not None else ({}, 0)
            if not isinstance(votes, dict):
                raise ValueError(f"the store holds no votes under {_PREFIX + vote_id!r}")
            try:
                self._store.compare_and_set(_PREFIX + vote_id, _with_vote(votes, vote_id, agent_id, option), version)
            except VersionConflict:
                continue
            return

    def votes(self, vote_id: str) -> dict[str, Plain]:
        """The votes cast so far, by agent id."""
        if self._mapping is not None:
            with self._lock:
                return dict(self._mapping.get(vote_id, {}))
        assert self._store is not None  # one of the two is there
        votes = self._store.get(_PREFIX + vote_id)
        return dict(votes) if isinstance(votes, dict) else {}


def _with_vote(votes: dict[str, Plain], vote_id: str, agent_id: str, option: Plain) -> dict[str, Plain]:
    if agent_id in votes and votes[agent_id] != option:
        raise VoteRefused(f"{agent_id} has voted in {vote_id} already; the first vote counts")
    return {**votes, agent_id: option}
