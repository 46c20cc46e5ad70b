"""The arguments of tool calls, and ids that each vendor takes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

from converge.extensions.llm.chat import ToolCall

if TYPE_CHECKING:
    import re

__all__ = ["json_text", "portable_id", "tool_call"]


def tool_call(call_id: object, name: object, raw: object) -> ToolCall:
    """A call as a vendor wrote it; `raw` is JSON text, or the object itself."""
    if isinstance(raw, dict):
        return ToolCall(str(call_id or ""), str(name or ""), raw, json_text(raw))
    text = "" if raw is None else str(raw)
    return ToolCall(str(call_id or ""), str(name or ""), _object(text), text)


def json_text(arguments: dict[str, Any] | None) -> str:
    """`arguments` as JSON; what was no object is sent back as an empty one, because vendors refuse anything else."""
    return msgspec.json.encode(arguments or {}).decode()


def portable_id(call_id: str, allowed: re.Pattern[str], length: int) -> str:
    """`call_id` if a vendor takes it, else one derived from it: a conversation may have begun with another vendor."""
    if allowed.fullmatch(call_id):
        return call_id
    return hashlib.sha256(call_id.encode(errors="replace")).hexdigest()[:length]


def _object(text: str) -> dict[str, Any] | None:
    if not text.strip():  # some models write nothing for a function without parameters
        return {}
    try:
        value = msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
