"""The errors of `converge.coordination`. All are ValueErrors: the caller asked for a move that is not allowed."""

from __future__ import annotations

from converge.core.errors import ConvergeError

__all__ = ["ClaimLost", "InvalidTransition", "PoolExists", "TaskConflict", "UnknownPool", "UnknownTask", "VoteRefused"]


class TaskConflict(ConvergeError, ValueError):
    """A task of this id exists and is another one: its objective, inputs or requirements differ."""


class UnknownTask(ConvergeError, LookupError, ValueError):
    """No task of this id is in the store."""


class ClaimLost(ConvergeError, ValueError):
    """The caller does not hold the task: its claim expired and was released, was taken over, or never was.

    Nothing was stored. What the caller did for this task counts for nothing; somebody else has it, or will.
    """


class InvalidTransition(ConvergeError, ValueError):
    """The task has reached a final state; nothing was stored."""


class PoolExists(ConvergeError, ValueError):
    """A pool of this id exists already and was made from another spec."""


class UnknownPool(ConvergeError, LookupError, ValueError):
    """No pool of this id is in the store."""


class VoteRefused(ConvergeError, ValueError):
    """The agent has voted in this ballot already, for something else: the first vote counts."""
