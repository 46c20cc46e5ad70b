"""The file of a recording: a line of JSON that says what it is, then one for each request and what came of it."""

from __future__ import annotations

import difflib
import json
import os
from typing import TYPE_CHECKING, Any, Final

import msgspec
from attrs import asdict, frozen

from converge.extensions.llm import errors
from converge.extensions.llm.chat import Reply, ToolCall, Usage
from converge.extensions.llm.errors import ProviderError
from converge.extensions.llm.plain_messages import message_dicts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from converge.extensions.llm.chat import ChatMessage, ToolSpec

__all__ = ["VERSION", "Entry", "append", "as_error", "as_reply", "begin", "difference", "entry", "load"]

VERSION: Final = 1
"""The version of the format; a file of another one is refused."""

_MARK: Final = "converge_recording"
_MOST_BYTES: Final = 256 * 1024 * 1024
_MOST_DIFFERENCE: Final = 60
_ERRORS: Final = {
    name: kind
    for name in errors.__all__
    if isinstance(kind := getattr(errors, name), type) and issubclass(kind, ProviderError)
}


@frozen
class Entry:
    """A recorded request, and its reply or its error."""

    request: dict[str, Any]
    reply: Reply | None = None
    error: ProviderError | None = None


def entry(
    model: str,
    messages: Sequence[ChatMessage],
    tools: Sequence[ToolSpec],
    max_output_tokens: int | None,
    temperature: float | None,
) -> dict[str, Any]:
    """The part of a line that says what was asked."""
    request = {
        "model": model,
        "messages": message_dicts(messages),
        "tools": [asdict(tool) for tool in tools],
        "max_output_tokens": max_output_tokens,
        "temperature": temperature,
    }
    return {"request": msgspec.json.decode(msgspec.json.encode(request))}  # as a replay reads it


def as_reply(reply: Reply) -> dict[str, Any]:
    """A reply as the line has it."""
    return asdict(reply)


def as_error(error: ProviderError) -> dict[str, Any]:
    """An error as the line has it."""
    return {
        "type": type(error).__name__,
        "text": str(error),
        "status": error.status,
        "retry_after": getattr(error, "retry_after", None),
    }


def begin(path: Path, model: str) -> None:
    """Begin a recording, in place of one that was there; only its owner may read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(opened, "wb") as file:
        file.write(_line({_MARK: VERSION, "model": model}))


def append(path: Path, made: dict[str, Any]) -> None:
    """Add a line."""
    with path.open("ab") as file:
        file.write(_line(made))


def load(path: Path) -> tuple[str, list[Entry]]:
    """The model and the entries of a recording; `ValueError` says in which line it is none."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"{path} has more than {_MOST_BYTES} bytes; that is no recording")
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no recording at {path}; make it with mode='record'") from None
    head = _decoded(path, 1, lines[0]) if lines else {}
    if _MARK not in head:
        raise ValueError(f"{path} is no recording of replies")
    if head[_MARK] != VERSION:
        raise ValueError(
            f"{path} has version {head[_MARK]!r} of the format, this release reads {VERSION}; record it again"
        )
    return str(head.get("model") or ""), [
        _entry(path, number, _decoded(path, number, line)) for number, line in enumerate(lines[1:], 2)
    ]


def difference(recorded: dict[str, Any], made: dict[str, Any]) -> str:
    """The lines in which two requests differ, as a unified diff, not more than sixty."""
    before, after = (
        json.dumps(one, indent=1, ensure_ascii=False, sort_keys=True).splitlines() for one in (recorded, made)
    )
    lines = list(difflib.unified_diff(before, after, "recorded", "asked now", lineterm="", n=2))
    if len(lines) > _MOST_DIFFERENCE:
        lines = [*lines[:_MOST_DIFFERENCE], f"… and {len(lines) - _MOST_DIFFERENCE} lines more"]
    return "\n".join(line if len(line) <= 300 else f"{line[:300]}…" for line in lines)


def _line(value: dict[str, Any]) -> bytes:
    return msgspec.json.encode(value) + b"\n"


def _decoded(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"{path}, line {number}: this is no JSON object; the recording is damaged, record it again")
    return value


def _entry(path: Path, number: int, value: dict[str, Any]) -> Entry:
    try:
        request = value["request"]
        if not isinstance(request, dict):
            raise TypeError("request is no object")
        if "error" in value:
            return Entry(request, error=_error(value["error"]))
        return Entry(request, reply=_reply(value["reply"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}, line {number}: {type(error).__name__} {error}; the recording is damaged, record it again"
        ) from None


def _reply(value: dict[str, Any]) -> Reply:
    calls = tuple(ToolCall(**call) for call in value["tool_calls"])
    return Reply(value["text"], calls, Usage(**value["usage"]), value["model"], value["finish"])


def _error(value: dict[str, Any]) -> ProviderError:
    kind = _ERRORS.get(value["type"], ProviderError)
    error = kind(value["text"], status=value["status"])
    if hasattr(error, "retry_after"):
        error.retry_after = value["retry_after"]
    return error
