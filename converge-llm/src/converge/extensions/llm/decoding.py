"""From what a model wrote to decisions: typed, bounded, in the agent's own name. A policy looks at them afterwards."""

from __future__ import annotations

import math
import uuid
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
from attrs import frozen

from converge.core import decisions as made
from converge.core.errors import ConvergeError
from converge.core.message import Message
from converge.core.plain import pack, unpack_own
from converge.core.task import Task
from converge.core.topic import Topic
from converge.extensions.llm.limits import MAX_DEPTH, MAX_ID_CHARS, MAX_PAYLOAD_BYTES, MAX_RESULT_BYTES, MAX_TEXT_BYTES
from converge.extensions.llm.shapes import SHAPES, MessageShape, PoolShape, TaskShape, TopicShape

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.core.plain import Plain

__all__ = ["DecisionRefused", "Refusal", "decision_of"]

_T = TypeVar("_T")
_MAX_DECISION_BYTES = 2 * MAX_RESULT_BYTES


class DecisionRefused(ConvergeError, ValueError):
    """One decision of a model is not taken. `reason` is one word for the counter, the text is for the model."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@frozen
class Refusal:
    """What is told to the model about a decision that was not taken; `name` is its type as far as it is known."""

    name: str
    reason: str
    text: str


def decision_of(name: object, data: object, sender: str) -> made.Decision:
    """The decision called `name` with the fields in `data`, of the agent `sender`; `DecisionRefused` if it is none.

    Ids, time and signature of a message are never read from `data`; the id of a task is, if it can be one.
    """
    if not isinstance(name, str) or name not in SHAPES:
        raise DecisionRefused("unknown_type", f"{_shown(name)} is no type of decision")
    if not isinstance(data, dict):
        raise DecisionRefused("no_object", f"a decision is an object, not {type(data).__name__}")
    try:
        _plain(data, name, _MAX_DECISION_BYTES)  # every text in it can be encoded, every number is one
        shape: Any = msgspec.convert(data, SHAPES[name])
        return _MAKERS[name](shape, sender)
    except DecisionRefused:
        raise
    except (msgspec.ValidationError, TypeError, ValueError, RecursionError) as error:
        raise DecisionRefused("malformed", f"{name}: {error!s:.300}") from None


def _shown(value: object) -> str:
    return repr(value[:60]) if isinstance(value, str) else type(value).__name__


def _plain(value: _T, where: str, most: int = MAX_PAYLOAD_BYTES) -> _T:
    """A copy of `value` that is known to be plain data, finite, and within its bounds."""
    _check_finite(value, where, 0)
    packed = pack(value, where)
    if len(packed) > most:
        raise DecisionRefused("too_large", f"{where} takes {len(packed)} bytes; at most {most} are allowed")
    return cast("_T", unpack_own(packed))


def _check_finite(value: object, where: str, depth: int) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise DecisionRefused("not_finite", f"{where}: {value} is no finite number")
    if isinstance(value, dict | list):
        if depth >= MAX_DEPTH:
            raise DecisionRefused("too_deep", f"{where} is nested deeper than {MAX_DEPTH}")
        for item in value.values() if isinstance(value, dict) else value:
            _check_finite(item, where, depth + 1)


def _topic(shape: TopicShape | str) -> Topic:
    if isinstance(shape, str):
        return Topic(shape)
    return Topic(shape.namespace, _plain(shape.attributes, "topic.attributes"), shape.version)


def _send(shape: Any, sender: str) -> made.SendMessage:  # noqa: ANN401  # the shape that `SHAPES` has for the name
    message: MessageShape = shape.message
    if message.recipient == sender:
        raise DecisionRefused("to_itself", "SendMessage: the recipient is the agent itself")
    return made.SendMessage(
        Message(
            sender=sender,
            recipient=message.recipient,
            topics=[_topic(topic) for topic in message.topics],
            payload=_plain(message.payload, "message.payload"),
            task_id=message.task_id,
        )
    )


def _submit(shape: Any, _: str) -> made.SubmitTask:  # noqa: ANN401  # as above
    task: TaskShape = shape.task
    constraints = {
        name: value
        for name in task.constraints.__struct_fields__
        if (value := getattr(task.constraints, name)) is not msgspec.UNSET
    }
    return made.SubmitTask(
        Task(
            id=_task_id(task.id),
            objective=cast("Plain", _plain(task.objective, "task.objective", MAX_TEXT_BYTES)),
            inputs=_plain(task.inputs, "task.inputs"),
            constraints=_plain(constraints, "task.constraints"),
            pool_id=task.pool_id,
            topic=None if task.topic is None else _topic(task.topic),
            required_capabilities=task.required_capabilities,
            priority=task.priority,
            depends_on=task.depends_on,
        )
    )


def _task_id(given: object) -> str:
    """The id that the model gave, if it can be one; else a new one."""
    fits = isinstance(given, str) and 0 < len(given) <= MAX_ID_CHARS and given.isprintable()
    return str(given) if fits else str(uuid.uuid4())


def _create(shape: Any, _: str) -> made.CreatePool:  # noqa: ANN401  # as above
    spec: PoolShape = shape.spec
    topics = [_topic(topic) for topic in spec.topics]
    _check_finite(spec.trust_threshold, "spec.trust_threshold", 0)
    return made.CreatePool({"id": spec.id, "topics": topics, "trust_threshold": spec.trust_threshold})


def _bid(shape: Any, _: str) -> made.SubmitBid:  # noqa: ANN401  # as above
    amount = _plain(shape.amount, "amount")
    return made.SubmitBid(shape.auction_id, amount, _plain(shape.content, "content"))


_MAKERS: dict[str, Callable[[Any, str], made.Decision]] = {
    "AcceptProposal": lambda shape, _: made.AcceptProposal(shape.session_id),
    "ClaimTask": lambda shape, _: made.ClaimTask(shape.task_id),
    "CreatePool": _create,
    "Delegate": lambda shape, _: made.Delegate(shape.delegatee_id, shape.scope),
    "InvokeTool": lambda shape, _: made.InvokeTool(
        shape.tool_name, _plain(shape.params, "params"), task_id=shape.task_id
    ),
    "JoinPool": lambda shape, _: made.JoinPool(shape.pool_id),
    "LeavePool": lambda shape, _: made.LeavePool(shape.pool_id),
    "Propose": lambda shape, _: made.Propose(shape.session_id, _plain(shape.proposal_content, "proposal_content")),
    "RejectProposal": lambda shape, _: made.RejectProposal(shape.session_id),
    "ReportTask": lambda shape, _: made.ReportTask(shape.task_id, _plain(shape.result, "result", MAX_RESULT_BYTES)),
    "RevokeDelegation": lambda shape, _: made.RevokeDelegation(shape.delegation_id),
    "SendMessage": _send,
    "SubmitBid": _bid,
    "SubmitTask": _submit,
    "Vote": lambda shape, _: made.Vote(shape.vote_id, _plain(shape.option, "option")),
}
