"""Replies that break off anywhere, or are nothing that a vendor promises."""

from __future__ import annotations

import gzip
import json
import traceback
from typing import Any

import pytest

import converge.extensions.llm.connections as connections
from converge.extensions.llm import (
    AnthropicProvider,
    BadReply,
    ChatMessage,
    MistralProvider,
    OpenAIProvider,
    Overloaded,
    ProviderError,
    RateLimited,
    Rejected,
    Reply,
)
from converge.testing.llm import Answer, FunctionCall
from tests.llm.providers.loopback import Cut, LoopbackVendor, Raw
from tests.llm.providers.wires import Wire

VENDORS = [(OpenAIProvider, "openai"), (AnthropicProvider, "anthropic"), (MistralProvider, "mistral")]
HELLO = [ChatMessage("user", "Hello")]

vendors = pytest.mark.parametrize(("provider_class", "name"), VENDORS, ids=[name for _, name in VENDORS])


async def streamed(provider: Any) -> list[str | Reply]:
    return [piece async for piece in provider.stream(HELLO)]


@vendors
async def test_a_stream_that_ends_after_any_of_its_events_is_a_bad_reply(provider_class: Any, name: str) -> None:
    answer = Answer("one two three", calls=(FunctionCall("f", {"a": [1, 2]}),), finish="tool_calls")
    events = Wire(name).events(answer)
    # what follows the finish reason is the usage, and the mark of the end
    whole = len(events) - {"openai": 2, "mistral": 1, "anthropic": 0}[name]
    with LoopbackVendor(name) as vendor:
        provider = provider_class("sk-the-key", base_url=vendor.url)
        for sent in range(len(events) + 1):
            vendor.will(Cut(answer, sent))
            if sent >= whole:
                last = (await streamed(provider))[-1]
                assert isinstance(last, Reply)
                assert last.tool_calls[0].arguments == {"a": [1, 2]}
                continue
            with pytest.raises(BadReply):
                await streamed(provider)
        await provider.aclose()


BODIES = {
    "nothing": b"",
    "null": b"null",
    "a list": b"[]",
    "an empty object": b"{}",
    "a number": b"17",
    "no choices": b'{"choices": [], "content": null}',
    "null choices": b'{"choices": null, "content": null, "role": "assistant"}',
    "choices of wrong types": b'{"choices": [3, null, "x"], "content": 7, "role": "assistant"}',
    "a null message": b'{"choices": [{"message": null}], "content": "x", "role": "user"}',
    "no UTF-8": b'{"choices": "\xff\xfe"}',
    "deep": b"[" * 100_000,
}


@vendors
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
async def test_what_is_no_reply_is_a_bad_reply(provider_class: Any, name: str, body: bytes) -> None:
    with LoopbackVendor(name) as vendor:
        provider = provider_class("sk-the-key", base_url=vendor.url)
        vendor.will(Raw(body), Raw(body, "text/html"))
        for _ in range(2):
            with pytest.raises(BadReply):
                await provider.complete(HELLO)
        await provider.aclose()


@pytest.mark.parametrize(("provider_class", "name"), [(OpenAIProvider, "openai"), (MistralProvider, "mistral")])
@pytest.mark.parametrize("raw", ["{", '{"a": NaN}', "[1]", "null", '"text"', "[" * 100_000], ids=range(6))
async def test_arguments_that_are_no_object_are_none_and_kept_raw(provider_class: Any, name: str, raw: str) -> None:
    body = Wire(name).whole(Answer("", calls=(FunctionCall("f", {}),), finish="tool_calls"))
    body["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] = raw
    with LoopbackVendor(name) as vendor:
        provider = provider_class("sk-the-key", base_url=vendor.url)
        vendor.will(Raw(json.dumps(body).encode()))
        reply = await provider.complete(HELLO)
        await provider.aclose()
    assert (reply.tool_calls[0].arguments, reply.tool_calls[0].raw) == (None, raw)


async def test_arguments_that_anthropic_streams_broken_are_none_and_kept_raw() -> None:
    events = [
        event.replace(b'{\\"a', b"{oops")
        for event in Wire("anthropic").events(Answer("", calls=(FunctionCall("f", {"a": 1}),), finish="tool_calls"))
    ]
    with LoopbackVendor("anthropic") as vendor:
        provider = AnthropicProvider("sk-the-key", base_url=vendor.url)
        vendor.will(Raw(b"".join(events), "text/event-stream"))
        last = (await streamed(provider))[-1]
        await provider.aclose()
    assert isinstance(last, Reply)
    assert (last.tool_calls[0].arguments, last.tool_calls[0].raw) == (None, '{oops": 1}')


@pytest.mark.parametrize(
    ("provider_class", "name", "event", "expected"),
    [
        (AnthropicProvider, "anthropic", {"type": "overloaded_error", "message": "Busy"}, Overloaded),
        (AnthropicProvider, "anthropic", {"type": "rate_limit_error", "message": "Slow"}, RateLimited),
        (AnthropicProvider, "anthropic", {"type": "invalid_request_error", "message": "No"}, Rejected),
        (OpenAIProvider, "openai", {"type": "server_error", "message": "Busy"}, Overloaded),
        (OpenAIProvider, "openai", {"code": "rate_limit_exceeded", "message": "Slow"}, RateLimited),
        (OpenAIProvider, "openai", {"type": "invalid_request_error", "message": "No"}, Rejected),
    ],
)
async def test_an_error_within_a_stream_is_of_its_kind(
    provider_class: Any, name: str, event: dict[str, str], expected: type[ProviderError]
) -> None:
    data = json.dumps({"type": "error", "error": event})
    with LoopbackVendor(name) as vendor:
        provider = provider_class("sk-the-key", base_url=vendor.url)
        vendor.will(Raw(f"event: error\ndata: {data}\n\n".encode(), "text/event-stream"))
        with pytest.raises(expected):
            await streamed(provider)
        await provider.aclose()


@vendors
@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
async def test_an_answer_without_end_is_a_bad_reply(
    provider_class: Any, name: str, streaming: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST_BYTES", 1_000_000)
    content_type = "text/event-stream" if streaming else "application/json"
    with LoopbackVendor(name) as vendor:
        provider = provider_class("sk-the-key", base_url=vendor.url)
        vendor.will(Raw(b": %s\n\n" % (b"x" * 50_000) * 200, content_type))
        with pytest.raises(BadReply, match=f"^{name}.*more than 1000000 bytes"):
            await (streamed(provider) if streaming else provider.complete(HELLO))
        await provider.aclose()


@vendors
async def test_a_compressed_answer_is_not_asked_for_and_not_taken(provider_class: Any, name: str) -> None:
    body = json.dumps(Wire(name).whole(Answer())).encode()
    with LoopbackVendor(name) as vendor:
        provider = provider_class("sk-the-key", base_url=vendor.url)
        vendor.will(Raw(gzip.compress(body), headers={"Content-Encoding": "gzip"}))
        with pytest.raises(BadReply, match="compressed") as caught:
            await provider.complete(HELLO)
        await provider.aclose()
    assert vendor.seen[0].headers["accept-encoding"] == "identity"
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "sk-the-key" not in shown


@vendors
async def test_nobody_who_listens_is_an_overload(provider_class: Any, name: str) -> None:
    with LoopbackVendor(name) as vendor:
        url = vendor.url
    provider = provider_class("sk-the-key", base_url=url)
    with pytest.raises(Overloaded):
        await provider.complete(HELLO)
    with pytest.raises(Overloaded):
        await streamed(provider)
    await provider.aclose()


@vendors
@pytest.mark.parametrize("status", [500, 502, 503, 529, 408])
async def test_a_failing_vendor_is_overloaded(provider_class: Any, name: str, status: int) -> None:
    with LoopbackVendor(name) as vendor:
        provider = provider_class("sk-the-key", base_url=vendor.url)
        vendor.will(Raw(b"<html>Bad gateway", "text/html", status))
        with pytest.raises(Overloaded) as caught:
            await provider.complete(HELLO)
        await provider.aclose()
    assert caught.value.status == status


@vendors
@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
async def test_a_request_that_is_refused_is_rejected(provider_class: Any, name: str, status: int) -> None:
    with LoopbackVendor(name) as vendor:
        provider = provider_class("sk-the-key", base_url=vendor.url)
        vendor.will(Raw(json.dumps(Wire(name).error(status, "no such model")).encode(), status=status))
        with pytest.raises(Rejected, match="no such model") as caught:
            await provider.complete(HELLO)
        await provider.aclose()
    assert caught.value.status == status
