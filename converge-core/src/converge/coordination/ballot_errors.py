"""The errors of ballots. All are ValueErrors; a vote that is not counted is a `VoteRefused` of `errors`.

BallotError
├── BallotExists           the id belongs to another ballot
├── BallotOpen             it can still be voted in
├── GovernanceUnavailable  the model that decides cannot be built here
└── UnknownBallot          (LookupError)
"""

from __future__ import annotations

from converge.core.errors import ConvergeError

__all__ = ["BallotError", "BallotExists", "BallotOpen", "GovernanceUnavailable", "UnknownBallot"]


class BallotError(ConvergeError, ValueError):
    """Base of what is wrong with a move on a ballot. Nothing was stored. Attribute: `ballot_id`."""

    def __init__(self, text: str, ballot_id: str) -> None:
        super().__init__(text)
        self.ballot_id = ballot_id

    def __reduce__(self) -> tuple[type[BallotError], tuple[str, str]]:
        return type(self), (str(self), self.ballot_id)


class BallotExists(BallotError):
    """A ballot of this id exists already, and asks something else."""


class BallotOpen(BallotError):
    """The deadline has not come, and not all have voted, so the ballot cannot be closed."""


class GovernanceUnavailable(BallotError):
    """The pool has no governance, or its model cannot be restored in this process; nothing is decided here."""


class UnknownBallot(BallotError, LookupError):
    """No ballot of this id is in the store."""

    def __init__(self, ballot_id: str) -> None:
        super().__init__(f"there is no ballot {ballot_id!r}; open it first", ballot_id)

    def __reduce__(self) -> tuple[type[UnknownBallot], tuple[str]]:  # type: ignore[override]  # built from the id alone
        return type(self), (self.ballot_id,)
