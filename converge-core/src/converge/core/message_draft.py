"""How a frozen message comes to its values without paying for being frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from converge.core.topic import Topic

__all__ = ["Draft", "Seal", "fill", "twin"]

_ATTRIBUTES = (
    "id", "sender", "recipient", "topics", "payload", "task_id", "timestamp", "signature", "headers", "_seal",
)  # fmt: skip
_PAYLOAD = _ATTRIBUTES.index("payload")
_D = TypeVar("_D", bound="Draft")
_new = object.__new__


class Seal:
    """What makes a message a signed one; shared by its copies, so that one of them is verified for all."""

    __slots__ = ("body", "packed", "verified")

    def __init__(self, body: bytes, packed: bytes, verified: bool) -> None:
        self.body = body
        """The exact bytes that were signed or received under a signature."""
        self.packed = packed
        """The payload inside `body`: the payload is a dict, and one that was changed must not verify."""
        self.verified = verified
        """Whether the signature is known to be good for `body`, both of which never change."""


class Draft:
    """A message that is being filled in. It becomes a message by a change of its class, to one with the same slots.

    Setting the attributes of a frozen object one by one costs four times as much.
    """

    __slots__ = (*_ATTRIBUTES, "__weakref__")

    id: str
    sender: str
    recipient: str | None
    topics: tuple[Topic, ...]
    payload: dict[str, Any]
    task_id: str | None
    timestamp: int
    signature: bytes
    headers: Mapping[str, str | int]
    _seal: Seal | None


def fill(message: _D, *values: Any) -> _D:
    """`message`, which is new, with its attributes set to values that were checked before, in the order of the slots.

    Nobody else may have seen it yet.
    """
    kind = message.__class__
    if kind.__base__ is not Draft:  # a subclass of the message has a layout of its own
        for name, value in zip(_ATTRIBUTES, values, strict=True):
            object.__setattr__(message, name, value)
        return message
    object.__setattr__(message, "__class__", Draft)
    draft: Any = message
    (
        draft.id, draft.sender, draft.recipient, draft.topics, draft.payload, draft.task_id, draft.timestamp,
        draft.signature, draft.headers, draft._seal,
    ) = values  # fmt: skip
    draft.__class__ = kind
    return message


def twin(message: _D, payload: dict[str, Any]) -> _D:
    """A copy of `message` with another payload, which says the same."""
    kind: Any = message.__class__
    if kind.__base__ is not Draft:
        values = [getattr(message, name) for name in _ATTRIBUTES]
        values[_PAYLOAD] = payload
        copied: _D = fill(kind.__new__(kind), *values)
        return copied
    draft: Any = _new(Draft)
    draft.id, draft.sender, draft.recipient, draft.topics = (
        message.id,
        message.sender,
        message.recipient,
        message.topics,
    )
    draft.payload, draft.task_id, draft.timestamp = payload, message.task_id, message.timestamp
    draft.signature, draft.headers, draft._seal = message.signature, message.headers, message._seal
    draft.__class__ = kind
    copy: _D = draft
    return copy
