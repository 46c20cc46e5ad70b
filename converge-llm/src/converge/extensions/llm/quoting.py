"""Showing a model what others wrote as data: one line of JSON for each piece, between marks that nobody can forge.

A line of JSON holds no line break, whatever is in it, so content cannot end the line it is on; and the marks carry
random digits that are drawn for each prompt, so content cannot contain them either.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from converge.extensions.llm.limits import MAX_ITEM_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Quoted", "fenced", "line_of", "new_fence", "presentable"]

_MAX_DEPTH: Final = 12
_MAX_ELEMENTS: Final = 2_000
_SHORT_CHARS: Final = 300
_NOTE_BYTES: Final = 200


def new_fence() -> str:
    """Digits for the marks of one prompt."""
    return secrets.token_hex(8)


def presentable(value: object, most: int = MAX_ITEM_BYTES) -> Any:  # noqa: ANN401  # what json.dumps takes
    """`value`, whatever it is, as something `json.dumps(…, allow_nan=False)` takes; never more than is worth showing.

    What is no JSON is described; what is deep, long or large is cut and says so.
    """
    return _presented(value, most, 0, [_MAX_ELEMENTS])


def _presented(value: object, most: int, depth: int, left: list[int]) -> Any:  # noqa: ANN401  # as above
    left[0] -= 1
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value if len(value) <= most else f"{value[:most]}… (cut: {most} of {len(value)} characters are shown)"
    if isinstance(value, int):
        return int(value) if abs(value) < 2**63 else "(a very large integer)"
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, bytes | bytearray):
        return f"({len(value)} bytes)"
    if isinstance(value, Mapping | list | tuple):
        if depth >= _MAX_DEPTH or left[0] <= 0:
            return "(cut: too deep or too much to be shown)"
        return _container(value, most, depth, left)
    return f"({type(value).__name__})"


def _container(value: Mapping[Any, Any] | Sequence[Any], most: int, depth: int, left: list[int]) -> Any:  # noqa: ANN401  # as above
    entries: Iterable[Any] = value.items() if isinstance(value, Mapping) else value
    shown: list[Any] = []
    for entry in entries:
        if left[0] <= 0:
            break
        shown.append(
            (str(entry[0])[:_SHORT_CHARS], _presented(entry[1], most, depth + 1, left))
            if isinstance(value, Mapping)
            else _presented(entry, most, depth + 1, left)
        )
    missing = len(value) - len(shown)
    if isinstance(value, Mapping):
        return dict(shown) | ({"(cut)": f"{missing} more keys are not shown"} if missing else {})
    return shown + ([f"(cut: {missing} more are not shown)"] if missing else [])


def line_of(kind: str, fields: Mapping[str, object], most: int = MAX_ITEM_BYTES) -> str:
    """One line of JSON that shows `fields`, of at most `most` bytes; the longest fields are cut when it must be.

    ASCII only: no character in it can look like another, or like a line break, to whoever reads it.
    """
    shown = {"kind": kind} | {name: _safely(value, most) for name, value in fields.items()}
    line = _dumped(shown)
    for room in (most // 2, most // 4, most // 10):
        if len(line) <= most:
            break
        shown = {name: _cut(value, room) for name, value in shown.items()}
        line = _dumped(shown)
    if len(line) > most:
        shown = {"kind": kind, "cut": "too much to be shown at all"}
        line = _dumped(shown)
    return line


def _safely(value: object, most: int) -> object:
    try:
        return presentable(value, most)
    except Exception:  # noqa: BLE001  # what a tool returned may raise whatever it is asked; the rest is shown
        return "(it cannot be shown)"


def _cut(value: object, room: int) -> object:
    text = value if isinstance(value, str) else _dumped(value)
    if len(_dumped(text)) <= room:
        return value
    kept = max(room - _NOTE_BYTES, 40)
    while (
        kept > 40 and len(_dumped(text[:kept])) > room - _NOTE_BYTES
    ):  # escapes take more room than what they stand for
        kept = kept * 2 // 3
    return f"{text[:kept]}… (cut: {kept} of {len(text)} characters are shown)"


def _dumped(value: object) -> str:
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


class Quoted:
    """Lines of data that have to fit into `room` bytes; what does not is counted, and said at the end."""

    def __init__(self, room: int) -> None:
        self._left = room - _NOTE_BYTES
        self._lines: list[str] = []
        self._missing: dict[str, int] = {}

    def add(self, kind: str, fields: Mapping[str, object], most: int = MAX_ITEM_BYTES) -> bool:
        """Show one more piece, if there is room for it."""
        line = line_of(kind, fields, most)
        if len(line) + 1 > self._left:
            self._missing[kind] = self._missing.get(kind, 0) + 1
            return False
        self._left -= len(line) + 1
        self._lines.append(line)
        return True

    @property
    def dropped(self) -> int:
        """How many pieces there was no room for."""
        return sum(self._missing.values())

    def lines(self) -> list[str]:
        """The lines, and one about what is missing."""
        note = {"kind": "not_shown", "why": "the prompt is full"} | self._missing
        return [*self._lines, *([_dumped(note)] if self._missing else [])]

    def __bool__(self) -> bool:
        return bool(self._lines or self._missing)


def fenced(fence: str, lines: Sequence[str]) -> str:
    """`lines` between the marks of `fence`."""
    return "\n".join([f"<<<DATA {fence}", *lines, f"DATA {fence}>>>"])
