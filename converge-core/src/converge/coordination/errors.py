"""The errors of `converge.coordination`. All are ValueErrors: the caller asked for a move that is not allowed.

TaskError
├── TaskConflict        the id belongs to another task
├── UnknownTask         (LookupError)
├── ClaimLost           the caller does not hold the task
├── ContractRefused     a bid or an award against the terms of a contract
└── InvalidTransition   the task has ended
PoolError
├── PoolExists          the id belongs to a pool with other settings
└── UnknownPool         (LookupError)
ForeignRecord           something else lies where a record of ours is looked for
VoteRefused
MoveRefused             in an auction, a negotiation, a delegation or an approval
├── ApprovalRefused
├── UnknownApproval     (LookupError)
├── AuctionRefused
├── AuctionExists       the id belongs to an auction with other rules
├── UnknownAuction      (LookupError)
├── NegotiationRefused
├── UnknownSession      (LookupError)
├── DelegationRefused
└── UnknownDelegation   (LookupError)
"""

from __future__ import annotations

from converge.core.errors import ConvergeError

__all__ = [
    "ApprovalRefused",
    "AuctionExists",
    "AuctionRefused",
    "ClaimLost",
    "ContractRefused",
    "DelegationRefused",
    "ForeignRecord",
    "InvalidTransition",
    "MoveRefused",
    "NegotiationRefused",
    "PoolError",
    "PoolExists",
    "TaskConflict",
    "TaskError",
    "UnknownApproval",
    "UnknownAuction",
    "UnknownDelegation",
    "UnknownPool",
    "UnknownSession",
    "UnknownTask",
    "VoteRefused",
]


class TaskError(ConvergeError, ValueError):
    """Base of what is wrong with a move on a task. Nothing was stored. Attribute: `task_id`."""

    def __init__(self, text: str, task_id: str) -> None:
        super().__init__(text)
        self.task_id = task_id

    def __reduce__(self) -> tuple[type[TaskError], tuple[str, str]]:
        return type(self), (str(self), self.task_id)


class TaskConflict(TaskError):
    """A task of this id exists and is another one: its objective, inputs or requirements differ."""


class UnknownTask(TaskError, LookupError):
    """No task of this id is in the store."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"there is no task {task_id!r}; submit it first", task_id)

    def __reduce__(self) -> tuple[type[UnknownTask], tuple[str]]:  # type: ignore[override]  # built from the id alone
        return type(self), (self.task_id,)


class ClaimLost(TaskError):
    """The caller does not hold the task: its claim expired and was released, was taken over, or never was.

    What the caller did for this task counts for nothing; somebody else has it, or will.
    """


class ContractRefused(TaskError):
    """A bid, an award or an announcement against the terms or the state of a contract. Attributes: also `reason`."""

    def __init__(self, task_id: str, reason: str) -> None:
        super().__init__(f"contract on task {task_id}: {reason}; nothing was stored", task_id)
        self.reason = reason

    def __reduce__(self) -> tuple[type[ContractRefused], tuple[str, str]]:
        return type(self), (self.task_id, self.reason)


class InvalidTransition(TaskError):
    """The task has reached a final state."""


class ForeignRecord(ConvergeError, ValueError):
    """What lies under a key is no record of this version of Converge. It is left alone. Attributes: `key`, `reason`."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key!r} holds no record that this version can use: {reason}; use the version that wrote it")
        self.key, self.reason = key, reason

    def __reduce__(self) -> tuple[type[ForeignRecord], tuple[str, str]]:
        return type(self), (self.key, self.reason)


class PoolError(ConvergeError, ValueError):
    """Base of what is wrong with a move on a pool. Nothing was stored. Attribute: `pool_id`."""

    def __init__(self, text: str, pool_id: str) -> None:
        super().__init__(text)
        self.pool_id = pool_id

    def __reduce__(self) -> tuple[type[PoolError], tuple[str, str]]:
        return type(self), (str(self), self.pool_id)


class PoolExists(PoolError):
    """A pool of this id exists already and was made from another spec."""


class UnknownPool(PoolError, LookupError):
    """No pool of this id is in the store."""

    def __init__(self, pool_id: str) -> None:
        super().__init__(f"there is no pool {pool_id!r}; create it first", pool_id)

    def __reduce__(self) -> tuple[type[UnknownPool], tuple[str]]:  # type: ignore[override]  # built from the id alone
        return type(self), (self.pool_id,)


class VoteRefused(ConvergeError, ValueError):
    """The vote was not counted. Attributes: `vote_id`, `agent_id`, `reason`."""

    def __init__(self, vote_id: str, agent_id: str, reason: str) -> None:
        super().__init__(f"the vote of {agent_id!r} in {vote_id!r} does not count: {reason}")
        self.vote_id, self.agent_id, self.reason = vote_id, agent_id, reason

    def __reduce__(self) -> tuple[type[VoteRefused], tuple[str, str, str]]:
        return type(self), (self.vote_id, self.agent_id, self.reason)


class MoveRefused(ConvergeError, ValueError):
    """Base of what is wrong with a move in an auction, a negotiation, a delegation or an approval.

    The move changed nothing. Attribute: `subject_id`, the id of what it is about.
    """

    def __init__(self, text: str, subject_id: str) -> None:
        super().__init__(text)
        self.subject_id = subject_id

    def __reduce__(self) -> tuple[type[MoveRefused], tuple[str, str]]:
        return type(self), (str(self), self.subject_id)


class AuctionRefused(MoveRefused):
    """A bid, or the end of an auction, that its rules do not allow."""


class AuctionExists(MoveRefused):
    """An auction of this id exists already and has other rules."""


class UnknownAuction(MoveRefused, LookupError):
    """No auction of this id is in the store."""


class NegotiationRefused(MoveRefused):
    """A proposal, an acceptance or a rejection that the rules of a negotiation do not allow."""


class UnknownSession(MoveRefused, LookupError):
    """No negotiation of this id is in the store."""


class DelegationRefused(MoveRefused):
    """A delegation, or a revocation, by somebody who may not, or of more than there is to give."""


class UnknownDelegation(MoveRefused, LookupError):
    """No delegation of this id is in the store."""


class ApprovalRefused(MoveRefused):
    """An answer that comes too late, or a decision that may not be carried out or may not wait."""


class UnknownApproval(MoveRefused, LookupError):
    """No decision of this id waits, or has waited lately."""
