"""A chain of providers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from converge.extensions.llm import (
    AnthropicProvider,
    BadReply,
    ChatMessage,
    FallbackProvider,
    KeyMissing,
    MistralProvider,
    OpenAIProvider,
    Overloaded,
    ProviderError,
    ProviderTimeout,
    RateLimited,
    Rejected,
    Reply,
    ScriptedProvider,
)
from converge.testing.llm import Answer, Failure
from tests.llm.providers.loopback import LoopbackVendor

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

HELLO = [ChatMessage("user", "Hello")]


@pytest.mark.parametrize("error", [RateLimited("x"), Overloaded("x"), ProviderTimeout("x"), KeyMissing("x")])
async def test_the_next_is_asked_when_one_cannot_answer(error: ProviderError) -> None:
    provider = FallbackProvider([ScriptedProvider([error, error]), ScriptedProvider(["Hello.", "one two"])])
    assert (await provider.complete(HELLO)).text == "Hello."
    assert [piece async for piece in provider.stream(HELLO)][:2] == ["one", " two"]
    assert provider.passed_over[0] == 2


@pytest.mark.parametrize("error", [Rejected("x"), BadReply("x"), ProviderError("x")])
async def test_other_errors_are_raised(error: ProviderError) -> None:
    second = ScriptedProvider(["Hello."])
    provider = FallbackProvider([ScriptedProvider([error, error]), second])
    with pytest.raises(type(error)):
        await provider.complete(HELLO)
    with pytest.raises(type(error)):
        [piece async for piece in provider.stream(HELLO)]
    assert second.asked == []


@pytest.mark.parametrize(
    ("errors", "kind", "wait"),
    [
        ([Overloaded("one"), RateLimited("two", retry_after=9), RateLimited("three", retry_after=5)], RateLimited, 5),
        ([KeyMissing("one"), Overloaded("two"), ProviderTimeout("three")], Overloaded, None),
        ([KeyMissing("one"), ProviderTimeout("two"), KeyMissing("three")], ProviderTimeout, None),
        ([KeyMissing("one"), KeyMissing("two"), KeyMissing("three")], KeyMissing, None),
    ],
)
async def test_when_none_can_answer_the_error_tells_of_all(
    errors: list[ProviderError], kind: type[ProviderError], wait: float | None
) -> None:
    provider = FallbackProvider([ScriptedProvider([error]) for error in errors])
    with pytest.raises(kind, match=r"one; two; three") as caught:
        await provider.complete(HELLO)
    assert getattr(caught.value, "retry_after", None) == wait


async def test_one_that_said_how_long_to_wait_is_passed_over_until_then() -> None:
    now = [100.0]
    first = ScriptedProvider([RateLimited("x", retry_after=30), "first again"])
    provider = FallbackProvider([first, ScriptedProvider(["second", "second"])], clock=lambda: now[0])
    texts = []
    for moment in (100.0, 129.0, 131.0):
        now[0] = moment
        texts.append((await provider.complete(HELLO)).text)
    assert texts == ["second", "second", "first again"]
    assert len(first.asked) == 2


async def test_when_all_have_to_wait_they_are_asked_all_the_same() -> None:
    provider = FallbackProvider([ScriptedProvider([RateLimited("x", retry_after=30), "Hello."])], clock=lambda: 0.0)
    with pytest.raises(RateLimited):
        await provider.complete(HELLO)
    assert (await provider.complete(HELLO)).text == "Hello."


async def test_a_stream_that_broke_off_is_not_begun_by_another() -> None:
    class BreaksOff(ScriptedProvider):
        async def stream(self, messages: Sequence[ChatMessage], **options: Any) -> AsyncGenerator[str | Reply, None]:
            async for piece in super().stream(messages, **options):
                yield piece
                raise Overloaded("broke off")

    provider = FallbackProvider([BreaksOff(["one two"]), ScriptedProvider(["three"])])
    pieces = provider.stream(HELLO)
    assert await anext(pieces) == "one"
    with pytest.raises(Overloaded):
        await anext(pieces)


async def test_one_that_has_chat_only_can_be_in_the_chain() -> None:
    class Plain:
        def chat(self, messages: list[dict[str, object]], **kwargs: object) -> str:
            return "plain"

    provider = FallbackProvider([ScriptedProvider([Overloaded("x")]), Plain()])
    assert (await provider.complete(HELLO)).text == "plain"


async def test_over_real_connections_a_conversation_goes_on_with_the_next_vendor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with LoopbackVendor("openai") as first, LoopbackVendor("mistral") as third:
        provider = FallbackProvider(
            [
                OpenAIProvider("sk-0123", base_url=first.url),
                AnthropicProvider(),
                MistralProvider("sk-0123", base_url=third.url),
            ]
        )
        first.will(Failure("rate_limited", "40"))
        third.will(Answer("Hello."))
        reply = await provider.complete(HELLO)
        await provider.aclose()
    assert (reply.text, reply.model) == ("Hello.", "mistral-model-2026")
    assert isinstance(reply, Reply)


def test_an_empty_chain_is_refused() -> None:
    with pytest.raises(ValueError, match="one provider at least"):
        FallbackProvider([])
