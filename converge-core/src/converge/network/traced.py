"""Messages carry the trace in which they are sent, and sending is a span of it.

Attributes `messaging.*` are those of OpenTelemetry's semantic conventions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from converge.observability.trace_context import parse_traceparent
from converge.observability.tracing import get_current_traceparent, trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from converge.core.message import Message
    from converge.observability.tracing import AttributeValue

__all__ = ["requesting", "sending", "stamped"]


def stamped(message: Message) -> Message:
    """`message` with the span that is open here as its `traceparent`, unless it is signed, or names a trace itself.

    An answer is in the trace of the request by itself; it gets the very span that answers.
    """
    here = get_current_traceparent()
    if here is None or message.is_signed:
        return message
    named = message.traceparent
    if named is not None and (message.in_reply_to is None or not _same_trace(named, here)):
        return message
    return message.evolve(headers={**message.headers, "traceparent": here})


def sending(messages: Sequence[Message]) -> trace:
    """A span around the sending of `messages`."""
    attributes: dict[str, AttributeValue] = {"messaging.system": "converge", "messaging.operation.type": "send"}
    if len(messages) != 1:
        attributes["messaging.batch.message_count"] = len(messages)
        return trace("send", attributes, kind="producer")
    return trace("send", attributes | _about(messages[0]), parent=_parent(messages[0]), kind="producer")


def requesting(message: Message) -> trace:
    """A span from the sending of `message` to its answer."""
    attributes: dict[str, AttributeValue] = {"messaging.system": "converge", "messaging.operation.type": "send"}
    return trace("request", attributes | _about(message), parent=_parent(message), kind="client")


def _about(message: Message) -> dict[str, AttributeValue]:
    if message.recipient is not None:
        destination = message.recipient
    else:
        destination = ", ".join(str(topic) for topic in message.topics) or "broadcast"
    about: dict[str, AttributeValue] = {
        "messaging.message.id": message.id,
        "messaging.destination.name": destination,
    }
    if message.task_id is not None:
        about["converge.task.id"] = message.task_id
    return about


def _parent(message: Message) -> str | None:
    """What is sent outside any span goes on with the trace that it names."""
    return message.traceparent if get_current_traceparent() is None else None


def _same_trace(one: str, other: str) -> bool:
    first, second = parse_traceparent(one), parse_traceparent(other)
    return first is not None and second is not None and first.trace_id == second.trace_id
