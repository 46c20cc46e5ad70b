"""The spans of calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from converge.extensions.llm import AnthropicProvider, ChatMessage, MistralProvider, OpenAIProvider, RateLimited
from converge.observability.tracing import Span, register_span_exporter, trace, unregister_span_exporter
from converge.testing.llm import Answer, Failure
from tests.llm.providers.loopback import LoopbackVendor

if TYPE_CHECKING:
    from collections.abc import Iterator

HELLO = [ChatMessage("user", "Hello")]


class Kept:
    def __init__(self) -> None:
        self.spans: list[Span] = []

    def export(self, span: Span) -> None:
        self.spans.append(span)


@pytest.fixture
def kept() -> Iterator[Kept]:
    exporter = Kept()
    register_span_exporter(exporter)
    yield exporter
    unregister_span_exporter(exporter)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("provider_class", "name", "system"),
    [
        (OpenAIProvider, "openai", "openai"),
        (AnthropicProvider, "anthropic", "anthropic"),
        (MistralProvider, "mistral", "mistral_ai"),
    ],
)
async def test_a_call_is_a_span_by_the_conventions(
    kept: Kept, provider_class: type[OpenAIProvider], name: str, system: str, streamed: bool
) -> None:
    with LoopbackVendor(name) as vendor:
        provider = provider_class("sk-0123", "a-model", base_url=vendor.url)
        vendor.will(Answer(input_tokens=31, output_tokens=9))
        if streamed:
            [piece async for piece in provider.stream(HELLO, max_output_tokens=5)]
        else:
            await provider.complete(HELLO, max_output_tokens=5)
        await provider.aclose()
    (span,) = kept.spans
    assert (span.name, span.kind, span.error) == ("chat a-model", "client", None)
    assert span.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": system,
        "gen_ai.request.model": "a-model",
        "gen_ai.request.max_tokens": 5,
        "gen_ai.response.model": f"{name}-model-2026",
        "gen_ai.response.finish_reasons": "stop",
        "gen_ai.usage.input_tokens": 31,
        "gen_ai.usage.output_tokens": 9,
    }


async def test_a_call_that_fails_says_with_what(kept: Kept) -> None:
    with LoopbackVendor("openai") as vendor:
        provider = OpenAIProvider("sk-0123", base_url=vendor.url)
        vendor.will(Failure("rate_limited"))
        with pytest.raises(RateLimited):
            await provider.complete(HELLO)
        await provider.aclose()
    (span,) = kept.spans
    assert span.attributes["error.type"] == "429"
    assert span.error is not None
    assert "sk-0123" not in span.error


async def test_within_a_span_of_the_same_call_there_is_no_second_one(kept: Kept) -> None:
    with LoopbackVendor("openai") as vendor:
        provider = OpenAIProvider("sk-0123", "a-model", base_url=vendor.url)
        vendor.will(Answer(input_tokens=31))
        with trace("chat", {"gen_ai.operation.name": "chat", "gen_ai.agent.id": "a"}):
            await provider.complete(HELLO)
        await provider.aclose()
    (span,) = kept.spans
    assert span.attributes["gen_ai.agent.id"] == "a"
    assert span.attributes["gen_ai.usage.input_tokens"] == 31


async def test_a_blocking_call_is_a_part_of_the_trace_of_its_caller(kept: Kept) -> None:
    with LoopbackVendor("openai") as vendor:
        provider = OpenAIProvider("sk-0123", base_url=vendor.url)
        vendor.will(Answer())
        with trace("outer") as outer:
            provider.chat([{"role": "user", "content": "Hello"}])
        await provider.aclose()
    assert kept.spans[0].parent_id == outer.span_id


async def test_without_anybody_who_takes_spans_there_are_none() -> None:
    with LoopbackVendor("openai") as vendor:
        provider = OpenAIProvider("sk-0123", base_url=vendor.url)
        vendor.will(Answer("Hello."))
        assert (await provider.complete(HELLO)).text == "Hello."
        await provider.aclose()
