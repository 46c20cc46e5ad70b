"""The shapes of the decisions in a reply, as a model writes them. What is not named here is not read."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from converge.extensions.llm.limits import MAX_ID_CHARS, MAX_NAMES

__all__ = ["SHAPES", "ConstraintsShape", "MessageShape", "PoolShape", "TaskShape", "TopicShape", "schema_of"]

_Id: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARS)]
_Amount: TypeAlias = Annotated[float, Meta(ge=0)]
_Names: TypeAlias = Annotated[list[_Id], Meta(max_length=MAX_NAMES)]
_Priority: TypeAlias = Annotated[int, Meta(ge=-100, le=100)]
_Count: TypeAlias = Annotated[int, Meta(ge=0, le=100)]


class TopicShape(Struct):
    """A topic with attributes; without them its namespace alone is enough."""

    namespace: _Id
    attributes: dict[str, Any] = {}
    version: _Id = "1.0"


_Topics: TypeAlias = Annotated[list[TopicShape | _Id], Meta(max_length=MAX_NAMES)]


class MessageShape(Struct):
    """What a model may set of a message; sender, id, time and signature are the agent's."""

    payload: dict[str, Any]
    recipient: _Id | None = None
    topics: _Topics = []
    task_id: _Id | None = None


class ConstraintsShape(Struct, forbid_unknown_fields=True):
    """The constraints that a model may set."""

    timeout_sec: Annotated[float, Meta(gt=0)] | UnsetType = UNSET
    deadline: _Amount | UnsetType = UNSET
    claim_ttl_sec: Annotated[float, Meta(gt=0)] | UnsetType = UNSET
    max_retries: _Count | UnsetType = UNSET
    cpu: _Amount | UnsetType = UNSET
    memory_mb: _Amount | UnsetType = UNSET


class TaskShape(Struct):
    """What a model may set of a task."""

    objective: Any = ""
    id: Any = None
    inputs: dict[str, Any] = {}
    constraints: ConstraintsShape = msgspec.field(default_factory=ConstraintsShape)
    pool_id: _Id | None = None
    topic: TopicShape | _Id | None = None
    required_capabilities: _Names = []
    priority: _Priority = 0
    depends_on: _Names = []


class PoolShape(Struct, forbid_unknown_fields=True):
    """What a model may say about a new pool: no policy, since naming one is naming code."""

    id: _Id
    topics: _Topics = []
    trust_threshold: Annotated[float, Meta(ge=0, le=1)] = 0.0


class _SendMessage(Struct):
    message: MessageShape


class _Pool(Struct):
    pool_id: _Id


class _CreatePool(Struct):
    spec: PoolShape


class _SubmitTask(Struct):
    task: TaskShape


class _ClaimTask(Struct):
    task_id: _Id


class _ReportTask(Struct):
    task_id: _Id
    result: Any


class _SubmitBid(Struct):
    auction_id: _Id
    amount: _Amount
    content: Any = None


class _Vote(Struct):
    vote_id: _Id
    option: Annotated[str, Meta(max_length=MAX_ID_CHARS)] | bool | int | float | None


class _Propose(Struct):
    session_id: _Id
    proposal_content: Any


class _Session(Struct):
    session_id: _Id


class _Delegate(Struct):
    delegatee_id: _Id
    scope: _Names


class _RevokeDelegation(Struct):
    delegation_id: _Id


class _InvokeTool(Struct):
    tool_name: _Id
    params: dict[str, Any] = {}
    task_id: _Id | None = None


SHAPES: Final[dict[str, type[Struct]]] = {
    "AcceptProposal": _Session,
    "ClaimTask": _ClaimTask,
    "CreatePool": _CreatePool,
    "Delegate": _Delegate,
    "InvokeTool": _InvokeTool,
    "JoinPool": _Pool,
    "LeavePool": _Pool,
    "Propose": _Propose,
    "RejectProposal": _Session,
    "ReportTask": _ReportTask,
    "RevokeDelegation": _RevokeDelegation,
    "SendMessage": _SendMessage,
    "SubmitBid": _SubmitBid,
    "SubmitTask": _SubmitTask,
    "Vote": _Vote,
}
"""The shape of each decision by its name."""


def schema_of(shape: type[Struct]) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of `shape`, complete in itself."""
    (reference,), components = msgspec.json.schema_components([shape], ref_template="#/$defs/{name}")
    schema: dict[str, Any] = components.pop(reference["$ref"].rpartition("/")[2])
    _untitled(schema)
    for component in components.values():
        _untitled(component)
    return schema | ({"$defs": components} if components else {})


def _untitled(schema: dict[str, Any]) -> None:
    schema.pop("title", None)
    schema.pop("description", None)
