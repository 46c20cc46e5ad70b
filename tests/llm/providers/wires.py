"""What the vendors send: the bodies and the streams of their interfaces, as their documentation has them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converge.testing.llm import Answer

_OPENAI_FINISH = {"stop": "stop", "length": "length", "tool_calls": "tool_calls", "refused": "content_filter"}
_ANTHROPIC_FINISH = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "refused": "refusal"}


class Wire:
    """One vendor's side of the interface."""

    def __init__(self, vendor: str) -> None:
        self.vendor = vendor

    def whole(self, answer: Answer) -> dict[str, Any]:
        return _message(answer) if self.vendor == "anthropic" else _completion(answer, self.vendor)

    def events(self, answer: Answer) -> list[bytes]:
        if self.vendor == "ollama":
            return [json.dumps(line).encode() + b"\n" for line in _lines(answer)]
        if self.vendor == "anthropic":
            return [
                f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in _message_events(answer)
            ]
        chunks = [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in _chunks(answer, self.vendor)]
        return [*chunks, b"data: [DONE]\n\n"]

    def error(self, status: int, text: str) -> dict[str, Any]:
        kind = {400: "invalid_request_error", 401: "authentication_error", 429: "rate_limit_error"}.get(
            status, "api_error"
        )
        if self.vendor == "anthropic":
            return {"type": "error", "error": {"type": kind, "message": text}}
        if self.vendor == "mistral":
            return {"object": "error", "message": text, "type": kind, "param": None, "code": str(status)}
        return {"error": {"message": text, "type": kind, "param": None, "code": None}}


def pieces(text: str) -> list[str]:
    """`text` in three parts, of which none is empty."""
    third = max(1, -(-len(text) // 3))
    return [text[start : start + third] for start in range(0, len(text), third)]


def _id(vendor: str, place: int) -> str:
    return f"abcdefg{place:02}" if vendor == "mistral" else f"call_{place}"


def _calls(answer: Answer, vendor: str) -> list[dict[str, Any]]:
    return [
        {
            "id": _id(vendor, place),
            "type": "function",
            "index": place,
            "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
        }
        for place, call in enumerate(answer.calls)
    ]


def _usage(answer: Answer) -> dict[str, int]:
    return {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
    }


def _completion(answer: Answer, vendor: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text}
    if answer.calls:
        message["tool_calls"] = _calls(answer, vendor)
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_760_000_000,
        "model": f"{vendor}-model-2026",
        "choices": [{"index": 0, "message": message, "finish_reason": _finish(answer, vendor), "logprobs": None}],
        "usage": _usage(answer),
    }


def _finish(answer: Answer, vendor: str) -> str:
    return _OPENAI_FINISH[answer.finish]


def _chunks(answer: Answer, vendor: str) -> list[dict[str, Any]]:
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": piece} for piece in pieces(answer.text)]
    for call in _calls(answer, vendor):
        arguments = call["function"]["arguments"]
        if vendor == "mistral":  # which sends calls whole
            deltas.append({"content": "", "tool_calls": [call]})
            continue
        begun = {**call, "function": {"name": call["function"]["name"], "arguments": ""}}
        deltas.append({"tool_calls": [begun]})
        deltas += [
            {"tool_calls": [{"index": call["index"], "function": {"arguments": part}}]} for part in pieces(arguments)
        ]
    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_760_000_000}
    frame["model"] = f"{vendor}-model-2026"
    chunks: list[dict[str, Any]] = [
        {**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    last = {**frame, "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": _finish(answer, vendor)}]}
    if vendor == "mistral":  # which has the usage in the last chunk
        return [*chunks, {**last, "usage": _usage(answer)}]
    return [*chunks, last, {**frame, "choices": [], "usage": _usage(answer)}]


def _message(answer: Answer) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": answer.text}] if answer.text else []
    content += [
        {"type": "tool_use", "id": f"toolu_{place}", "name": call.name, "input": dict(call.arguments)}
        for place, call in enumerate(answer.calls)
    ]
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "anthropic-model-2026",
        "content": content,
        "stop_reason": _ANTHROPIC_FINISH[answer.finish],
        "stop_sequence": None,
        "usage": {
            "input_tokens": answer.input_tokens - 2,
            "cache_read_input_tokens": 2,
            "cache_creation_input_tokens": 0,
            "output_tokens": answer.output_tokens,
        },
    }


def _message_events(answer: Answer) -> list[dict[str, Any]]:
    message = _message(answer)
    begun = {**message, "content": [], "stop_reason": None, "usage": {**message["usage"], "output_tokens": 1}}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": begun}, {"type": "ping"}]
    for index, block in enumerate(message["content"]):
        empty = {**block, "text": ""} if block["type"] == "text" else {**block, "input": {}}
        events.append({"type": "content_block_start", "index": index, "content_block": empty})
        if block["type"] == "text":
            deltas = [{"type": "text_delta", "text": piece} for piece in pieces(block["text"])]
        else:
            deltas = [
                {"type": "input_json_delta", "partial_json": piece} for piece in pieces(json.dumps(block["input"]))
            ]
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    events.append(
        {
            "type": "message_delta",
            "delta": {"stop_reason": message["stop_reason"], "stop_sequence": None},
            "usage": {"output_tokens": answer.output_tokens},
        }
    )
    return [*events, {"type": "message_stop"}]


def _lines(answer: Answer) -> list[dict[str, Any]]:
    frame = {"model": "ollama-model-2026", "done": False}
    lines: list[dict[str, Any]] = [
        {**frame, "message": {"role": "assistant", "content": piece}} for piece in pieces(answer.text)
    ]
    calls = [{"function": {"name": call.name, "arguments": dict(call.arguments)}} for call in answer.calls]
    if calls:
        lines.append({**frame, "message": {"role": "assistant", "content": "", "tool_calls": calls}})
    end = {"done": True, "done_reason": "length" if answer.finish == "length" else "stop"}
    counts = {"prompt_eval_count": answer.input_tokens, "eval_count": answer.output_tokens}
    return [*lines, {**frame, **end, **counts, "message": {"role": "assistant", "content": ""}}]
