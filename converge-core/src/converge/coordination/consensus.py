"""Agreement by counting votes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from converge.policy.ballots import leaders, strict_majority, tally

if TYPE_CHECKING:
    from converge.policy.ballots import Option, Votes

__all__ = ["Consensus"]


class Consensus:
    """What a group of agents agrees on.

    Votes are a list of options, or a mapping agent id -> option as a ballot box gives it. An option is whatever a
    ballot box takes: a hashable value but None, or a list or dict, such as a ranking, which counts for others that are
    equal. Malformed votes are a `PolicyContextError` (a ValueError). There is nothing Byzantine about this:
    who may vote, and once only, is the ballot box's to see to.
    """

    @staticmethod
    def majority_vote(votes: Votes) -> Option | None:
        """The option with more than half of the votes; None when there is none."""
        return strict_majority(tally(votes))

    @staticmethod
    def plurality_vote(votes: Votes) -> Option | None:
        """The option with more votes than any other; None for a tie or no votes."""
        ahead = leaders(tally(votes))
        return ahead[0] if len(ahead) == 1 else None
