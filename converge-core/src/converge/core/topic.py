"""What a message is about: a namespace, attributes and a version."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Self

from attrs import evolve, field, frozen

from converge.core.limits import check_text, pack_value, sorted_copy
from converge.core.plain import MAX_DEPTH, Plain, check
from converge.core.plain_json import Json, from_json, to_json

__all__ = ["Topic"]

_BARE = re.compile(r"[A-Za-z0-9_.:/+-]+")


@frozen(eq=False, repr=False)
class Topic:
    """A structured topic; immutable and hashable.

    `namespace` and `version` are non-empty strs of at most 1,024 bytes; `attributes` are plain data, copied, and
    read-only (a nested list reads as a tuple). Equality is exact in type (1, True, 1.0 and "1" are four values), and
    the order of attributes does not matter. Raises `TypeError` for attributes that are not plain data, `ValueError`
    for what is empty or too large.
    """

    namespace: str
    attributes: Mapping[str, Plain] = field(factory=dict)
    version: str = "1.0"
    _fields: list[Any] = field(init=False)
    _key: bytes = field(init=False)
    """The same as msgpack, which tells all types apart: what equality and hash go by."""

    def __attrs_post_init__(self) -> None:
        check_text(self.namespace, "the namespace of a topic")
        check_text(self.version, "the version of a topic")
        attributes = _thaw(self.attributes)
        if not isinstance(attributes, dict):
            raise TypeError(f"the attributes of a topic must be a dict, not {type(attributes).__name__}")
        check(attributes, "attributes")
        fields = [self.namespace, sorted_copy(attributes), self.version]
        key = pack_value(fields[1], "attributes") + pack_value([self.namespace, self.version], "topic")
        object.__setattr__(self, "_key", key)
        object.__setattr__(self, "_fields", fields)
        object.__setattr__(self, "attributes", _freeze(fields[1]))

    @property
    def wire_fields(self) -> list[Any]:
        """What travels: [namespace, attributes with sorted keys, version]. Not to be changed."""
        return self._fields

    def matches(self, other: Topic) -> bool:
        """Whether `other` is of the same namespace and version and has at least these attributes, equal in type too."""
        if self._key == other._key:
            return True
        if self.namespace != other.namespace or self.version != other.version:
            return False
        theirs = other._fields[1]
        return all(
            name in theirs and pack_value(value, name) == pack_value(theirs[name], name)
            for name, value in self._fields[1].items()
        )

    def evolve(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return evolve(self, **changes)

    def to_dict(self) -> dict[str, Json]:
        """The topic as JSON-safe data; bytes and non-finite floats are tagged as `converge.core.plain_json` does."""
        return {"namespace": self.namespace, "attributes": to_json(self._fields[1]), "version": self.version}

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Self:
        """The topic that `to_dict` gave `data` of; attributes and version may be absent.

        Raises `ValueError`, whatever is wrong with the data, an unknown key included.
        """
        if not isinstance(data, Mapping):
            raise ValueError(
                f"a topic is read from a dict, not from {type(data).__name__}"
            )  # bad data is one kind of error
        unknown = [key for key in data if key not in ("namespace", "attributes", "version")]
        if unknown or "namespace" not in data:
            what = f"has the unknown key {str(unknown[0])[:60]!r}" if unknown else "has no namespace"
            raise ValueError(f"the topic {what}; its keys are namespace, attributes and version")
        values: dict[str, Any] = dict(data)
        try:
            if "attributes" in values:
                values["attributes"] = from_json(values["attributes"], "attributes")
            return cls(**values)
        except TypeError as error:
            raise ValueError(str(error)) from None

    def __str__(self) -> str:
        """`namespace@version{attributes as JSON}`, quoted where needed; only equal topics have equal text."""
        attributes = self._fields[1]
        shown = json.dumps(to_json(attributes), separators=(",", ":")) if attributes else ""
        return f"{_quote(self.namespace)}@{_quote(self.version)}{shown}"

    def __repr__(self) -> str:
        return f"Topic({self.namespace!r}, {self._fields[1]!r}, {self.version!r})"

    def __eq__(self, other: object) -> bool:
        return self._key == other._key if isinstance(other, Topic) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key)

    def __reduce__(self) -> tuple[type[Topic], tuple[Any, ...]]:
        return type(self), tuple(self._fields)


def _quote(text: str) -> str:
    return text if _BARE.fullmatch(text) else json.dumps(text)


def _freeze(value: Any) -> Any:  # noqa: ANN401  # any plain data
    if isinstance(value, dict):
        return MappingProxyType({key: _freeze(item) for key, item in value.items()})
    return tuple(_freeze(item) for item in value) if isinstance(value, list) else value


def _thaw(value: Any, depth: int = 0) -> Any:  # noqa: ANN401  # what _freeze made, or anything a caller gave
    if depth > MAX_DEPTH:
        return value  # `check` refuses it for its depth, be it a cycle even
    if isinstance(value, MappingProxyType) or type(value) is dict:
        return {key: _thaw(item, depth + 1) for key, item in value.items()}
    return [_thaw(item, depth + 1) for item in value] if type(value) in (list, tuple) else value
