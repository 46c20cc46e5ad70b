"""Any value as JSON data, whatever it is: logging must not fail on what it is asked to log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias, Union

__all__ = ["Json", "clip", "jsonable"]

Json: TypeAlias = Union[bool, int, float, str, "list[Json]", "dict[str, Json]", None]

_MAX_TEXT = 16_384
_MAX_DEPTH = 8
_MAX_ITEMS = 1_000
_MAX_INT_BITS = 64


def jsonable(value: object) -> Json:
    """`value` as data that strict JSON can carry.

    Bytes become their length, so that no payload gets into a log; NaN and infinity become text; another object its
    `repr`. Depth, the number of items in all, and the length of a text are bounded.
    """
    return _Budget(_MAX_ITEMS).simplify(value, 0)


def clip(text: str) -> str:
    """`text`, without its middle when it is longer than 16,384 characters."""
    if len(text) <= _MAX_TEXT:
        return text
    half = _MAX_TEXT // 2
    return f"{text[:half]}… [{len(text) - 2 * half} characters left out] …{text[-half:]}"


class _Budget:
    """How many items may still be written."""

    def __init__(self, items: int) -> None:
        self.items = items

    def simplify(self, value: object, depth: int) -> Json:
        try:
            return self._simplify(value, depth)
        except Exception as error:  # noqa: BLE001  # a value that raises when looked at is logged as just that
            return f"<{type(value).__name__}: {type(error).__name__} when shown>"

    def _simplify(self, value: object, depth: int) -> Json:
        self.items -= 1
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return int(value) if value.bit_length() <= _MAX_INT_BITS else clip(hex(value))
        if isinstance(value, float):
            return float(value) if abs(value) < float("inf") else repr(value)
        if isinstance(value, str):
            return clip(str(value))
        if isinstance(value, bytes | bytearray | memoryview):
            return f"<{len(value)} bytes>"
        if isinstance(value, Mapping | list | tuple | set | frozenset):
            return self._simplify_container(value, depth)
        return clip(repr(value))

    def _simplify_container(
        self,
        value: Mapping[object, object] | list[object] | tuple[object, ...] | set[object] | frozenset[object],
        depth: int,
    ) -> Json:
        if depth >= _MAX_DEPTH:
            return f"<{type(value).__name__} of {len(value)}>"
        if isinstance(value, Mapping):
            fields: dict[str, Json] = {}
            for key, item in value.items():
                if self.items <= 0:
                    fields["…"] = f"{len(value) - len(fields)} left out"
                    break
                fields[key if isinstance(key, str) else str(self.simplify(key, depth + 1))] = self.simplify(
                    item, depth + 1
                )
            return fields
        items: list[Json] = []
        for item in value:
            if self.items <= 0:
                items.append(f"… {len(value) - len(items)} left out")
                break
            items.append(self.simplify(item, depth + 1))
        return items
