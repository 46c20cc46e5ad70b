"""What an agent can decide to do. Immutable values; an application adds its own by subclassing `Decision`."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from converge.core.message import Message
from converge.core.plain import Plain
from converge.core.task import Task

__all__ = [
    "AcceptProposal",
    "ClaimTask",
    "CreatePool",
    "Decision",
    "Delegate",
    "InvokeTool",
    "JoinPool",
    "LeavePool",
    "Propose",
    "RejectProposal",
    "ReportTask",
    "RevokeDelegation",
    "SendMessage",
    "SubmitBid",
    "SubmitTask",
    "Vote",
]


class Decision:
    """Base of all decisions. Its class name is what an `ActionPolicy` allows or refuses."""

    __slots__ = ()


@frozen
class SendMessage(Decision):
    """Send a message; an unsigned one is signed by the agent."""

    message: Message


@frozen
class JoinPool(Decision):
    """Ask the admission policy of a pool to let me in."""

    pool_id: str


@frozen
class LeavePool(Decision):
    """Leave a pool."""

    pool_id: str


@frozen
class CreatePool(Decision):
    """Create a pool from a spec as `PoolManager.create_pool` takes it."""

    spec: Mapping[str, object]


@frozen
class SubmitTask(Decision):
    """Submit a task."""

    task: Task


@frozen
class ClaimTask(Decision):
    """Claim a pending task for me."""

    task_id: str


@frozen
class ReportTask(Decision):
    """Report the result of a task that I hold."""

    task_id: str
    result: Plain


@frozen
class SubmitBid(Decision):
    """Bid in an auction."""

    auction_id: str
    amount: float
    content: Plain = None


@frozen
class Vote(Decision):
    """Cast my one vote in a ballot."""

    vote_id: str
    option: Plain


@frozen
class Propose(Decision):
    """Make a proposal in a negotiation."""

    session_id: str
    proposal_content: Plain


@frozen
class AcceptProposal(Decision):
    """Accept the other side's proposal."""

    session_id: str


@frozen
class RejectProposal(Decision):
    """Reject the other side's proposal."""

    session_id: str


@frozen
class Delegate(Decision):
    """Hand a part of my authority to another agent."""

    delegatee_id: str
    scope: list[str]


@frozen
class RevokeDelegation(Decision):
    """Take back what I delegated."""

    delegation_id: str


@frozen
class InvokeTool(Decision):
    """Call a tool; what it returns is in `agent.outcomes` at the next `decide`.

    `task_id` is the task of mine that the call is for; None is the one I hold, if that is one and only one.
    """

    tool_name: str
    params: dict[str, Plain] = field(factory=dict)
    task_id: str | None = field(default=None, kw_only=True)
