"""Asking again, after the wait that was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from converge.extensions.llm import (
    BadReply,
    ChatMessage,
    KeyMissing,
    OpenAIProvider,
    Overloaded,
    ProviderError,
    ProviderTimeout,
    RateLimited,
    Rejected,
    Reply,
    ScriptedProvider,
    retrying,
)
from converge.testing.llm import Answer, Failure
from tests.llm.providers.loopback import LoopbackVendor

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from converge.extensions.llm import RetryingProvider

HELLO = [ChatMessage("user", "Hello")]


class Clock:
    def __init__(self) -> None:
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


def scripted(
    lines: Sequence[str | ProviderError], *, attempts: int = 4, most_wait_sec: float = 60, chance: float = 1.0
) -> tuple[RetryingProvider, ScriptedProvider, Clock]:
    script, clock = ScriptedProvider(list(lines)), Clock()
    provider = retrying(script, attempts, most_wait_sec, sleep=clock.sleep, chance=lambda: chance)
    return provider, script, clock


@pytest.mark.parametrize("error", [RateLimited("x"), Overloaded("x"), ProviderTimeout("x"), BadReply("x")])
async def test_it_asks_again_where_that_may_help(error: ProviderError) -> None:
    provider, script, clock = scripted([error, error, "Hello."])
    assert (await provider.complete(HELLO)).text == "Hello."
    assert clock.waits == [1, 2]
    assert provider.retries == 2
    script.assert_consumed()


@pytest.mark.parametrize("error", [Rejected("x"), KeyMissing("x"), ProviderError("x")])
async def test_it_does_not_where_it_cannot(error: ProviderError) -> None:
    provider, _, clock = scripted([error, "Hello."])
    with pytest.raises(type(error)):
        await provider.complete(HELLO)
    assert clock.waits == []


async def test_it_waits_as_long_as_it_is_told_and_not_less() -> None:
    for chance, waited in ((0.0, 7), (1.0, 7.7)):
        provider, _, clock = scripted([RateLimited("x", retry_after=7), "Hello."], chance=chance)
        await provider.complete(HELLO)
        assert clock.waits == [pytest.approx(waited)]


async def test_waits_differ_by_chance_from_the_half_to_the_whole() -> None:
    provider, _, clock = scripted([Overloaded("x"), Overloaded("x"), "Hello."], chance=0.0)
    await provider.complete(HELLO)
    assert clock.waits == [0.5, 1.0]


async def test_after_the_last_attempt_the_error_is_raised() -> None:
    provider, script, clock = scripted([Overloaded(str(number)) for number in range(3)], attempts=3)
    with pytest.raises(Overloaded, match="2"):
        await provider.complete(HELLO)
    assert len(clock.waits) == 2
    script.assert_consumed()


async def test_a_wait_beyond_the_most_is_not_begun() -> None:
    provider, _, clock = scripted([RateLimited("x", retry_after=61), "Hello."])
    with pytest.raises(RateLimited) as caught:
        await provider.complete(HELLO)
    assert (clock.waits, caught.value.retry_after) == ([], 61)


async def test_all_waits_of_a_call_together_are_bounded_and_the_next_call_begins_anew() -> None:
    lines: list[str | ProviderError] = [Overloaded("x")] * 3
    provider, _, clock = scripted([*lines, *lines], attempts=9, most_wait_sec=3.5)
    for _ in range(2):
        with pytest.raises(Overloaded):
            await provider.complete(HELLO)
    assert clock.waits == [1, 2, 1, 2]


async def test_a_stream_is_begun_again_only_before_its_first_piece() -> None:
    class BreaksOff(ScriptedProvider):
        async def stream(self, messages: Sequence[ChatMessage], **options: Any) -> AsyncGenerator[str | Reply, None]:
            async for piece in super().stream(messages, **options):
                yield piece
                raise BadReply("broke off")

    clock = Clock()
    provider, _, _ = scripted([Overloaded("x"), "one two"])
    provider = retrying(provider.provider, sleep=clock.sleep)
    pieces = [piece async for piece in provider.stream(HELLO)]
    assert pieces[:-1] == ["one", " two"]
    assert isinstance(pieces[-1], Reply)
    assert len(clock.waits) == 1
    broken = retrying(BreaksOff(["one two", "three"]), sleep=clock.sleep)
    with pytest.raises(BadReply):
        [piece async for piece in broken.stream(HELLO)]
    assert len(clock.waits) == 1


async def test_over_a_real_connection_the_header_is_honoured() -> None:
    clock = Clock()
    with LoopbackVendor("openai") as vendor:
        provider = retrying(OpenAIProvider("sk-0123", base_url=vendor.url), sleep=clock.sleep, chance=lambda: 0.0)
        vendor.will(Failure("rate_limited", "3"), Failure("overloaded"), Answer("Hello."))
        assert (await provider.complete(HELLO)).text == "Hello."
        await provider.aclose()
    assert clock.waits == [3, 1]


def test_a_blocking_chat_is_asked_again_too() -> None:
    provider, _, clock = scripted([Overloaded("x"), "Hello."])
    assert provider.chat([{"role": "user", "content": "Hi"}]) == "Hello."
    assert len(clock.waits) == 1


def test_a_number_of_attempts_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="attempts"):
        retrying(ScriptedProvider([]), 0)
