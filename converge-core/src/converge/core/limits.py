"""The bounds of wire format version 1 and the checks that hold values to them.

The same checks run where a value is made, where it is encoded and where it is decoded, so nothing can be sent that a
receiver has to refuse. Each check raises `TypeError` for a wrong type and `ValueError` for a value out of bounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from converge.core.plain import pack

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "DEFAULT_FRAME_BYTES",
    "HEADER_NAMES",
    "MAX_ELEMENTS",
    "MAX_FRAME_BYTES",
    "MAX_INT",
    "MAX_TEXT_BYTES",
    "MAX_TOPICS",
    "MAX_TREE_SIZE",
    "check_count",
    "check_frame_limit",
    "check_headers",
    "check_text",
    "pack_value",
    "sorted_copy",
]

DEFAULT_FRAME_BYTES = 256 * 1024
"""The largest frame that is decoded unless the caller says otherwise: 256 KiB."""

MAX_FRAME_BYTES = 1024 * 1024
"""The largest frame anybody can allow, and the largest that is made: 1 MiB."""

MAX_ELEMENTS = 10_000
"""The most items of one list, or entries of one map."""

MAX_TEXT_BYTES = 1024
"""The longest id, name or version, in bytes of UTF-8."""

MAX_TOPICS = 64
"""The most topics of one message."""

MAX_TREE_SIZE = 2**16
"""The most messages under one signature."""

MAX_INT = 2**63 - 1
"""The largest int of plain data."""

HEADER_NAMES = ("enc", "in_reply_to", "traceparent", "ttl_ms")
"""The headers of wire format version 1; any other name is refused."""


def check_text(value: object, where: str, *, empty: bool = False) -> None:
    """Raise unless `value` is a str of at most `MAX_TEXT_BYTES`, not empty unless `empty` allows it."""
    if type(value) is str and value.isascii() and 0 < len(value) <= MAX_TEXT_BYTES:
        return
    if not isinstance(value, str):
        raise TypeError(f"{where} must be a str, not {type(value).__name__}")
    if not value and not empty:
        raise ValueError(f"{where} cannot be empty")
    if value.isascii():
        size = len(value)
    else:
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise ValueError(f"{where} has a lone surrogate and cannot be encoded as UTF-8") from None
    if size > MAX_TEXT_BYTES:
        raise ValueError(f"{where} has {size} bytes; at most {MAX_TEXT_BYTES} are allowed")


def check_count(value: object, where: str) -> None:
    """Raise unless `value` is an int (and no bool) from 0 to `MAX_INT`."""
    if type(value) is not int:
        raise TypeError(f"{where} must be an int, not {type(value).__name__}")
    if not 0 <= value <= MAX_INT:
        raise ValueError(f"{where} must be between 0 and 2**63-1")


def check_headers(headers: Mapping[str, object]) -> None:
    """Raise unless every header is a known one with a value of its type."""
    for name, value in headers.items():
        if name == "ttl_ms":
            check_count(value, "headers.ttl_ms")
        elif name in HEADER_NAMES:
            check_text(value, f"headers.{name}")
        else:
            shown = repr(name)[:60]
            raise ValueError(f"{shown} is no header of wire format 1; known ones are {', '.join(HEADER_NAMES)}")


def check_frame_limit(max_size: int) -> None:
    """Raise unless `max_size` can be the limit of a frame, in bytes."""
    if type(max_size) is not int:
        raise TypeError(f"max_size must be an int, not {type(max_size).__name__}")
    if not 1 <= max_size <= MAX_FRAME_BYTES:
        raise ValueError(f"max_size is {max_size}; it must be between 1 and {MAX_FRAME_BYTES} bytes")


def pack_value(value: object, where: str) -> bytes:
    """`value` as msgpack.

    Raises `TypeError` naming the place for what is not plain data, `ValueError` for a container of more than
    `MAX_ELEMENTS`.
    """
    packed = pack(value, where)
    if len(packed) > MAX_ELEMENTS:  # an element takes a byte at least: smaller ones need no second walk
        _check_elements(value, where)
    return packed


def sorted_copy(value: Any) -> Any:  # noqa: ANN401  # any plain data
    """A deep copy of plain data with the keys of all dicts in the order of their code points."""
    if isinstance(value, dict):
        return {key: sorted_copy(value[key]) for key in sorted(value)}
    return [sorted_copy(item) for item in value] if isinstance(value, list | tuple) else value


def _check_elements(value: object, where: str) -> None:
    if isinstance(value, dict):
        _check_length(len(value), where)
        for key, item in value.items():
            _check_elements(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        _check_length(len(value), where)
        for index, item in enumerate(value):
            _check_elements(item, f"{where}[{index}]")


def _check_length(length: int, where: str) -> None:
    if length > MAX_ELEMENTS:
        raise ValueError(f"{where} has {length} elements; at most {MAX_ELEMENTS} are allowed in one container")
