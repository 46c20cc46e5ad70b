"""Decisions as plain data, for those that have to outlive the process: `{"type": name, field: value, …}`.

A message travels as its frame (docs/reference/wire-format.md), a task as the fields that its submitter gives.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from attrs import fields, has

from converge.core import decisions as _decisions
from converge.core.message import Message
from converge.core.plain import Plain, pack, unpack_own
from converge.core.task import Task
from converge.core.topic import Topic

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from converge.core.decisions import Decision

__all__ = ["BUILT_IN", "decision_from_plain", "decision_to_plain"]

BUILT_IN: Final[Mapping[str, type[Decision]]] = MappingProxyType(
    {name: getattr(_decisions, name) for name in _decisions.__all__ if name != "Decision"}
)
"""The decisions of Converge by the names of their classes."""

_TASK_FIELDS = (
    "id",
    "objective",
    "inputs",
    "constraints",
    "evaluator",
    "pool_id",
    "required_capabilities",
    "priority",
    "depends_on",
    "idempotency_key",
    "traceparent",
)


def decision_to_plain(decision: Decision) -> dict[str, Plain]:
    """`decision` as plain data that shares nothing with it.

    A decision of an application's own is an attrs class whose fields are plain data, messages or tasks. `TypeError`
    naming the field for anything else; `ValueError` for a message that has no frame.
    """
    kind: type = type(decision)
    if not has(kind):
        raise TypeError(f"{kind.__name__} is no attrs class that is a Decision, so it cannot be written down")
    data: dict[str, Plain] = {"type": kind.__name__}
    for attribute in fields(kind):
        data[attribute.name] = _written(getattr(decision, attribute.name), f"{kind.__name__}.{attribute.name}")
    return data


def decision_from_plain(data: object, kinds: Mapping[str, type[Decision]] = BUILT_IN) -> Decision:
    """The decision in what `decision_to_plain` gave, where `kinds` are the classes that it may be of.

    `ValueError` for what is none, or of a class that is not in `kinds`: no class is ever looked up by its name.
    """
    if not isinstance(data, dict):
        raise ValueError(f"a decision is written as a dict, not {type(data).__name__}")
    given = dict(data)
    name = given.pop("type", None)
    kind = kinds.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"{name!r} is no decision known here; known are {', '.join(sorted(kinds))}")
    try:
        return kind(**{field: _read(value) for field, value in given.items()})
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{name}: {error}") from None


def _written(value: object, where: str) -> Plain:
    write = next((one for kind, one in _WRITERS.items() if isinstance(value, kind)), None)
    if write is not None:
        return write(value)
    copy: Plain = unpack_own(pack(value, where))
    return {_MARK: "plain", "value": copy} if isinstance(copy, dict) and _MARK in copy else copy


def _read(value: Any) -> object:  # noqa: ANN401  # as the writer left it
    if not isinstance(value, dict) or _MARK not in value:
        return value
    return _READERS[value[_MARK]](value["value"])


_MARK = "$"  # the key that tells what is not plain data by itself


def _task_data(task: Task) -> Plain:
    topic = None if task.topic is None else task.topic.to_dict()
    given = {name: getattr(task, name) for name in _TASK_FIELDS} | {"topic": topic}
    return {_MARK: "task", "value": unpack_own(pack(given, "Task"))}


def _task(data: object) -> Task:
    if not isinstance(data, dict):
        raise ValueError(f"a task is written as a dict, not {type(data).__name__}")
    topic = data.get("topic")
    return Task(**{**data, "topic": None if topic is None else Topic.from_dict(topic)})


_WRITERS: dict[type, Callable[[Any], Plain]] = {
    Message: lambda message: {_MARK: "message", "value": message.to_bytes()},
    Task: _task_data,
}
_READERS: dict[str, Callable[[Any], object]] = {
    "message": Message.from_bytes,
    "plain": lambda value: value,
    "task": _task,
}
