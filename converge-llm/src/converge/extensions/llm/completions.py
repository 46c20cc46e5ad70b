"""The chat-completions form that OpenAI made and Mistral and many others speak: plain data in, plain data out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from converge.extensions.llm.arguments import json_text, portable_id, tool_call
from converge.extensions.llm.chat import Reply, Usage
from converge.extensions.llm.errors import BadReply

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from converge.extensions.llm.chat import ChatMessage, ToolCall, ToolSpec

__all__ = ["MOST_REPLY_CHARS", "CompletionStream", "completion_reply", "request_messages", "request_tools"]

MOST_REPLY_CHARS: Final = 4 * 1024 * 1024
"""Characters of one reply; a stream with more is ended as a `BadReply`. No model writes a tenth of it in one reply."""

_FINISHES: Final = {
    "stop": "stop",
    "length": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "refused",
}
_MOST_CALLS: Final = 1_000
_OPENAI_ID: Final = re.compile(r"[!-~]{1,64}")


def request_messages(
    messages: Sequence[ChatMessage], *, ids: re.Pattern[str] = _OPENAI_ID, id_length: int = 40
) -> list[dict[str, Any]]:
    """`messages` as the request has them. `ids` are the ids of calls that the vendor takes."""
    return [_request_message(message, ids, id_length) for message in messages]


def request_tools(tools: Sequence[ToolSpec]) -> list[dict[str, Any]]:
    """`tools` as the request has them."""
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
        }
        for tool in tools
    ]


def completion_reply(body: Mapping[str, Any], *, asked: str) -> Reply:
    """What a whole answer says; `BadReply` when it is not one."""
    choice = _first_choice(body)
    message = None if choice is None else choice.get("message")
    if choice is None or not isinstance(message, dict):
        raise BadReply(f"{asked}: the reply has no choice with a message in it")
    finish = _finish(choice.get("finish_reason"), asked)
    calls = tuple(_call(call) for call in _dicts(message.get("tool_calls"))[:_MOST_CALLS])
    text, refusal = _text(message.get("content")), _text(message.get("refusal"))
    if refusal:
        text, finish = text or refusal, "refused"
    return Reply(text, calls, _usage(body.get("usage")), str(body.get("model") or ""), _settled(finish, calls))


class CompletionStream:
    """Puts a streamed answer together. Give it each chunk; it returns the text in it."""

    def __init__(self, *, asked: str) -> None:
        self._asked = asked
        self._pieces: list[str] = []
        self._calls: dict[object, dict[str, str]] = {}
        self._length = 0
        self._finish: str | None = None
        self._model = ""
        self._usage = Usage()

    def add(self, chunk: Mapping[str, Any]) -> str:
        """Take one chunk; the text of the reply in it, often empty."""
        self._model = str(chunk.get("model") or self._model)
        if isinstance(chunk.get("usage"), dict):
            self._usage = _usage(chunk["usage"])
        choice = _first_choice(chunk)
        if choice is None:
            return ""
        delta = choice.get("delta")
        piece = self._take(delta) if isinstance(delta, dict) else ""
        if choice.get("finish_reason") is not None and self._finish != "refused":
            self._finish = _finish(choice["finish_reason"], self._asked)
        return piece

    def reply(self) -> Reply:
        """The whole reply, at the end of the stream; `BadReply` if it ended before the reply did."""
        if self._finish is None:
            raise BadReply(f"{self._asked}: the reply broke off after {self._length} characters")
        calls = tuple(tool_call(call["id"], call["name"], call["arguments"]) for call in self._calls.values())
        return Reply("".join(self._pieces), calls, self._usage, self._model, _settled(self._finish, calls))

    def _take(self, delta: dict[str, Any]) -> str:
        piece = _text(delta.get("content"))
        refusal = _text(delta.get("refusal"))
        if refusal:
            piece, self._finish = piece + refusal, "refused"
        self._count(len(piece))
        if piece:
            self._pieces.append(piece)
        for part in _dicts(delta.get("tool_calls")):
            self._take_call(part)
        return piece

    def _take_call(self, part: dict[str, Any]) -> None:
        function = part.get("function")
        function = function if isinstance(function, dict) else {}
        call = self._calls.setdefault(self._place(part), {"id": "", "name": "", "arguments": ""})
        if len(self._calls) > _MOST_CALLS:
            raise BadReply(f"{self._asked}: the reply has more than {_MOST_CALLS} tool calls")
        written = function.get("arguments")
        written = json_text(written) if isinstance(written, dict) else str(written or "")
        self._count(len(written))
        call["id"] = call["id"] or _id(part)
        call["name"] = call["name"] or str(function.get("name") or "")
        call["arguments"] += written

    def _place(self, part: dict[str, Any]) -> object:
        """Which call a part belongs to: servers that leave the index at 0 tell calls apart by their ids."""
        place = part.get("index")
        known = self._calls.get(place)
        if known is not None and _id(part) not in ("", known["id"]):
            return _id(part)
        return place

    def _count(self, more: int) -> None:
        self._length += more
        if self._length > MOST_REPLY_CHARS:
            raise BadReply(f"{self._asked}: the reply is longer than {MOST_REPLY_CHARS} characters")


def _request_message(message: ChatMessage, ids: re.Pattern[str], id_length: int) -> dict[str, Any]:
    made: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.role == "tool":
        made["tool_call_id"] = portable_id(message.tool_call_id or "", ids, id_length)
    if message.tool_calls:
        made["tool_calls"] = [
            {
                "id": portable_id(call.id, ids, id_length),
                "type": "function",
                "function": {"name": call.name, "arguments": json_text(call.arguments)},
            }
            for call in message.tool_calls
        ]
    return made


def _call(part: dict[str, Any]) -> ToolCall:
    function = part.get("function")
    function = function if isinstance(function, dict) else {}
    return tool_call(_id(part), function.get("name"), function.get("arguments"))


def _id(part: dict[str, Any]) -> str:
    call_id = part.get("id")
    return "" if call_id in (None, "null") else str(call_id)  # "null" is what Mistral's library puts for no id


def _first_choice(body: Mapping[str, Any]) -> dict[str, Any] | None:
    choices = _dicts(body.get("choices"))
    return choices[0] if choices else None


def _finish(reason: object, asked: str) -> str:
    if reason == "error":
        raise BadReply(f"{asked}: the model ended with an error")
    return _FINISHES.get(str(reason), "stop")


def _settled(finish: str, calls: tuple[ToolCall, ...]) -> str:
    """Some servers end a reply that has calls with "stop"."""
    return "tool_calls" if calls and finish == "stop" else finish


def _usage(usage: object) -> Usage:
    given = usage if isinstance(usage, dict) else {}
    return Usage(_count(given.get("prompt_tokens")), _count(given.get("completion_tokens")))


def _count(value: object) -> int:
    return value if type(value) is int and value >= 0 else 0


def _text(content: object) -> str:
    if isinstance(content, list):  # parts, of which those of other types than text are none for the reader
        return "".join(_text(part.get("text")) for part in _dicts(content))
    return content if isinstance(content, str) else ""


def _dicts(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
