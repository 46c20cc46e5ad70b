"""The form of Anthropic's Messages interface: plain data in, plain data out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from converge.extensions.llm.arguments import portable_id, tool_call
from converge.extensions.llm.chat import Reply, Usage
from converge.extensions.llm.completions import MOST_REPLY_CHARS
from converge.extensions.llm.errors import BadReply

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from converge.extensions.llm.chat import ChatMessage, ToolSpec

__all__ = ["MessageStream", "message_reply", "request_messages", "request_tools"]

_FINISHES: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "refused",
}
_IDS: Final = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_MOST_BLOCKS: Final = 1_000
_EMPTY: Final = "(empty)"  # the interface refuses a text without characters


def request_messages(messages: Sequence[ChatMessage]) -> tuple[str, list[dict[str, Any]]]:
    """The system prompt and the turns. Turns of one role that follow each other become one, as the interface wants."""
    system = "\n\n".join(message.content for message in messages if message.role == "system" and message.content)
    turns: list[dict[str, Any]] = []
    for message in messages:
        if message.role == "system":
            continue
        role = "assistant" if message.role == "assistant" else "user"
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += _blocks(message)
        else:
            turns.append({"role": role, "content": _blocks(message)})
    return system, turns


def request_tools(tools: Sequence[ToolSpec]) -> list[dict[str, Any]]:
    """`tools` as the request has them."""
    return [
        {"name": tool.name, "description": tool.description, "input_schema": {"type": "object", **tool.parameters}}
        for tool in tools
    ]


def message_reply(body: Mapping[str, Any], *, asked: str) -> Reply:
    """What a whole answer says; `BadReply` when it is not one."""
    blocks = body.get("content")
    if not isinstance(blocks, list) or body.get("role") != "assistant":
        raise BadReply(f"{asked}: the reply is no message of an assistant")
    known = [block for block in blocks[:_MOST_BLOCKS] if isinstance(block, dict)]
    text = "".join(str(block.get("text") or "") for block in known if block.get("type") == "text")
    calls = tuple(
        tool_call(block.get("id"), block.get("name"), block.get("input"))
        for block in known
        if block.get("type") == "tool_use"
    )
    finish = _FINISHES.get(str(body.get("stop_reason")), "stop")
    return Reply(text, calls, _usage(body.get("usage")), str(body.get("model") or ""), finish)


class MessageStream:
    """Puts a streamed answer together. Give it each event; it returns the text in it."""

    def __init__(self, *, asked: str) -> None:
        self._asked = asked
        self._blocks: dict[object, dict[str, Any]] = {}
        self._length = 0
        self._model = ""
        self._usage: dict[str, Any] = {}
        self._reason: object = None
        self._stopped = False

    def add(self, event: Mapping[str, Any]) -> str:
        """Take one event; the text of the reply in it, often empty."""
        kind = event.get("type")
        if kind == "message_start":
            message = _dict(event.get("message"))
            self._model = str(message.get("model") or "")
            self._usage |= _dict(message.get("usage"))
        elif kind == "content_block_start":
            return self._open(event)
        elif kind == "content_block_delta":
            return self._extend(event.get("index"), _dict(event.get("delta")))
        elif kind == "message_delta":
            self._reason = _dict(event.get("delta")).get("stop_reason")
            self._usage |= {name: n for name, n in _dict(event.get("usage")).items() if n is not None}
        elif kind == "message_stop":
            self._stopped = True
        return ""

    def reply(self) -> Reply:
        """The whole reply, at the end of the stream; `BadReply` if it ended before the reply did."""
        if not self._stopped:
            raise BadReply(f"{self._asked}: the reply broke off after {self._length} characters")
        blocks = self._blocks.values()
        text = "".join("".join(block["parts"]) for block in blocks if block["type"] == "text")
        calls = tuple(
            tool_call(block["id"], block["name"], "".join(block["parts"]) or block["input"])
            for block in blocks
            if block["type"] == "tool_use"
        )
        return Reply(text, calls, _usage(self._usage), self._model, _FINISHES.get(str(self._reason), "stop"))

    def _open(self, event: Mapping[str, Any]) -> str:
        block = _dict(event.get("content_block"))
        if len(self._blocks) >= _MOST_BLOCKS:
            raise BadReply(f"{self._asked}: the reply has more than {_MOST_BLOCKS} parts")
        self._blocks[event.get("index")] = {
            "type": block.get("type"),
            "id": block.get("id"),
            "name": block.get("name"),
            "input": block.get("input"),
            "parts": [],
        }
        return self._extend(event.get("index"), {"text": block.get("text")})

    def _extend(self, index: object, delta: dict[str, Any]) -> str:
        block = self._blocks.get(index)
        if block is None:
            raise BadReply(f"{self._asked}: the reply goes on with a part that never began")
        text, arguments = delta.get("text"), delta.get("partial_json")
        piece = str(text or arguments or "")
        self._length += len(piece)
        if self._length > MOST_REPLY_CHARS:
            raise BadReply(f"{self._asked}: the reply is longer than {MOST_REPLY_CHARS} characters")
        if piece:
            block["parts"].append(piece)
        return piece if block["type"] == "text" else ""


def _blocks(message: ChatMessage) -> list[dict[str, Any]]:
    if message.role == "tool":
        call_id = portable_id(message.tool_call_id or "", _IDS, 40)
        return [{"type": "tool_result", "tool_use_id": call_id, "content": message.content or _EMPTY}]
    calls: list[dict[str, Any]] = [
        {
            "type": "tool_use",
            "id": portable_id(call.id, _IDS, 40),
            "name": call.name,
            "input": call.arguments or {},
        }
        for call in message.tool_calls
    ]
    text = message.content if message.content.strip() else ""
    if not text and calls:
        return calls
    return [{"type": "text", "text": text or _EMPTY}, *calls]


def _usage(usage: object) -> Usage:
    """All that was read counts as input, what came from the vendor's cache included (OpenTelemetry counts so too)."""
    given = _dict(usage)
    read = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    return Usage(sum(_count(given.get(name)) for name in read), _count(given.get("output_tokens")))


def _count(value: object) -> int:
    return value if type(value) is int and value >= 0 else 0


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
