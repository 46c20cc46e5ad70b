"""Finding the JSON array of decisions in the text of a reply. Nothing here raises anything but `ReplyUnusable`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from converge.core.errors import ConvergeError
from converge.extensions.llm.limits import MAX_DEPTH, MAX_REPLY_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ReplyUnusable", "array_in", "whole_array"]

_FENCED: Final = re.compile(r"```[A-Za-z]{0,16}[ \t]*\r?\n(.*?)\r?\n?```", re.DOTALL)
_CLOSES: Final = {"[": "]", "{": "}"}
_BRACKETS_OR_QUOTE: Final = re.compile(r'["\[\]{}]')
_QUOTE_OR_ESCAPE: Final = re.compile(r'["\\]')
_OPENING: Final = re.compile(r"[\[{]")
_LEVELS_OF_CONTRACT: Final = 4  # the array, the decision, and what carries the payload


class ReplyUnusable(ConvergeError, ValueError):
    """A reply from which no decision can be taken. `reason` is one word for the counter."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def array_in(text: object) -> list[Any]:
    """The one JSON array of objects in `text`: alone, in a code fence, or with prose around it.

    What stands inside of another array or object is never taken for the array, nor is one of several: nobody could
    tell which of them the model means. Raises `ReplyUnusable`. Takes time in proportion to the text.
    """
    text = _checked(text)
    found: list[list[Any]] = []
    for start, end in _regions(text):
        value = _decoded(text[start:end]) if text[start] == "[" else None
        if isinstance(value, list) and _holds_decisions(value):
            found.append(value)
    if len(found) > 1:
        raise ReplyUnusable("several", f"the reply holds {len(found)} arrays of decisions; it has to hold one")
    if not found:
        raise ReplyUnusable("no_array", "the reply holds no JSON array of decisions")
    return found[0]


def whole_array(text: object) -> list[Any] | None:
    """The JSON array of objects that `text` is, alone or in one code fence; None when it is something else."""
    stripped = _checked(text).strip()
    fenced = _FENCED.fullmatch(stripped)
    inner = stripped if fenced is None else fenced[1].strip()
    if not inner.startswith("["):
        return None
    value = _decoded(inner) if _is_shallow(inner) else None
    return value if isinstance(value, list) and _holds_decisions(value) else None


def _holds_decisions(values: list[Any]) -> bool:
    """Whether it may be the array that is meant: empty, or with an object; what else is in it is refused one by one."""
    return not values or any(isinstance(value, dict) for value in values)


def _checked(text: object) -> str:
    if not isinstance(text, str):
        raise ReplyUnusable("no_text", f"the reply is no text but {type(text).__name__}")
    if len(text) > MAX_REPLY_BYTES:
        raise ReplyUnusable("too_long", f"the reply has {len(text)} characters; at most {MAX_REPLY_BYTES} are read")
    return text


def _decoded(text: str) -> object:
    """What the JSON in `text` says; None when it is none. NaN and the like are none."""
    try:
        return msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None


def _is_shallow(text: str) -> bool:
    return next(_regions(text), None) == (0, len(text))


def _regions(text: str) -> Iterator[tuple[int, int]]:
    """Where a bracket opens outside of all others and its partner closes it, in order; ends at one left open.

    One that does not close, closes wrongly or is nested too deep ends the search: whatever follows may be inside it.
    """
    at = 0
    while (opening := _OPENING.search(text, at)) is not None:
        end = _end_of(text, opening.start())
        if end is None:
            return
        yield opening.start(), end
        at = end


def _end_of(text: str, start: int) -> int | None:
    expected: list[str] = []
    at = start
    while (found := _BRACKETS_OR_QUOTE.search(text, at)) is not None:
        mark, at = found[0], found.end()
        if mark == '"':
            after = _after_string(text, at)
            if after is None:
                return None
            at = after
        elif mark in _CLOSES:
            expected.append(_CLOSES[mark])
            if len(expected) > MAX_DEPTH + _LEVELS_OF_CONTRACT:
                return None
        elif mark != expected.pop():
            return None
        elif not expected:
            return at
    return None


def _after_string(text: str, at: int) -> int | None:
    while (found := _QUOTE_OR_ESCAPE.search(text, at)) is not None:
        if found[0] == '"':
            return found.end()
        at = found.end() + 1
    return None
