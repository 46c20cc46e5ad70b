"""Messages as the dicts that `chat` takes, and as `ChatMessage`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from converge.extensions.llm.arguments import json_text, tool_call
from converge.extensions.llm.chat import ChatMessage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from converge.extensions.llm.chat import ToolCall

__all__ = ["chat_messages", "message_dicts"]

_ROLES: Final = ("system", "user", "assistant", "tool")


def chat_messages(messages: Iterable[dict[str, Any]]) -> list[ChatMessage]:
    """`messages`, dicts with "role" and "content"; "tool_calls" and "tool_call_id" as in a chat completion.

    `ValueError` says which message is none.
    """
    return [_message(place, message) for place, message in enumerate(messages)]


def message_dicts(messages: Iterable[ChatMessage]) -> list[dict[str, Any]]:
    """The opposite of `chat_messages`."""
    return [_as_dict(message) for message in messages]


def _message(place: int, message: object) -> ChatMessage:
    if not isinstance(message, dict):
        raise ValueError(f"message {place} is {type(message).__name__}, not a dict with 'role' and 'content'")
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        raise ValueError(f"message {place} has the role {role!r}; roles are {', '.join(_ROLES)}")
    if content is None and message.get("tool_calls"):
        content = ""
    if not isinstance(content, str):
        raise ValueError(f"message {place} has content that is {type(content).__name__}, not str")
    calls = tuple(_call(place, call) for call in message.get("tool_calls") or ())
    return ChatMessage(cast("Any", role), content, calls, message.get("tool_call_id"))


def _call(place: int, call: object) -> ToolCall:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        raise ValueError(f"message {place} has a tool call without 'function'")
    return tool_call(call.get("id"), function.get("name"), function.get("arguments"))


def _as_dict(message: ChatMessage) -> dict[str, Any]:
    made: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        made["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.raw or json_text(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        made["tool_call_id"] = message.tool_call_id
    return made
