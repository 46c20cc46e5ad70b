"""Attributes as OTLP can take them: one value that it cannot would cost the whole batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Value", "clean", "text"]

Value: TypeAlias = str | bool | int | float
_INT64 = 2**63


def clean(attributes: Mapping[str, object], most: int | None, longest: int | None) -> dict[str, Value]:
    """At most `most` of `attributes`, the latest, with strings cut to `longest` characters.

    An integer of more than 64 bits is written out, and of a value of another type there is only the name of its type.
    """
    items = list(attributes.items())
    if most is not None and len(items) > most:
        items = items[len(items) - most :]
    return {text(str(name)): _value(value, longest) for name, value in items}


def text(value: str, longest: int | None = None) -> str:
    """`value` in UTF-8: what has no place in it, such as half a surrogate pair, is escaped."""
    if longest is not None:
        value = value[:longest]
    return value if value.isascii() else value.encode(errors="backslashreplace").decode()


def _value(value: object, longest: int | None) -> Value:
    if isinstance(value, str):
        return text(value, longest)
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -_INT64 <= value < _INT64 else text(hex(value), longest)
    return type(value).__name__
