"""Replies that are written beforehand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from converge.extensions.llm import (
    ChatMessage,
    Overloaded,
    ProviderError,
    Reply,
    ScriptedProvider,
    ScriptExhausted,
    ToolCall,
    ToolSpec,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

HELLO = [ChatMessage("user", "Hello")]


async def test_texts_replies_and_exceptions_come_in_their_order() -> None:
    reply = Reply("", (ToolCall("1", "f", {}),), finish="tool_calls")
    provider = ScriptedProvider(["one", Overloaded("busy"), reply])
    assert (await provider.complete(HELLO)).text == "one"
    with pytest.raises(Overloaded):
        await provider.complete(HELLO)
    assert await provider.complete(HELLO) is reply
    provider.assert_consumed()


async def test_asking_beyond_the_script_fails_then_and_at_the_end() -> None:
    provider = ScriptedProvider(["one"])
    await provider.complete(HELLO)
    with pytest.raises(ScriptExhausted, match=r"has 1 replies; this is call 2, whose last message is 'Hello'"):
        await provider.complete(HELLO)
    with pytest.raises(ScriptExhausted, match=r"1 time\(s\) beyond"):
        provider.assert_consumed()


async def test_what_is_left_over_fails_at_the_end() -> None:
    expected = pytest.raises(ScriptExhausted, match=r"2 of 3 .* the next is 'two'")
    with expected, ScriptedProvider(["one", "two", "three"]) as provider:
        await provider.complete(HELLO)
    assert issubclass(ScriptExhausted, ProviderError)
    assert issubclass(ScriptExhausted, AssertionError)


async def test_an_error_in_the_block_is_not_hidden_by_what_is_left_over() -> None:
    with pytest.raises(KeyError), ScriptedProvider(["one"]):
        raise KeyError("mine")


async def test_a_function_answers_any_number_of_calls() -> None:
    def answer(messages: Sequence[ChatMessage]) -> str:
        return messages[-1].content.upper()

    async def later(messages: Sequence[ChatMessage]) -> str:
        return answer(messages)

    for function in (answer, later):
        provider = ScriptedProvider(function)
        assert [(await provider.complete(HELLO)).text for _ in range(3)] == ["HELLO"] * 3
        provider.assert_consumed()


async def test_what_was_asked_is_kept() -> None:
    tool = ToolSpec("f", "F.", {"type": "object"})
    provider = ScriptedProvider(["one"])
    await provider.complete(HELLO, tools=[tool], max_output_tokens=5, temperature=0.5)
    (asked,) = provider.asked
    assert (asked.messages, asked.tools, asked.max_output_tokens, asked.temperature) == (tuple(HELLO), (tool,), 5, 0.5)


@pytest.mark.parametrize("text", ["", "one", "one two\n three ", "  ", " a"])
async def test_a_stream_gives_the_words_and_then_the_whole(text: str) -> None:
    *words, reply = [piece async for piece in ScriptedProvider([text]).stream(HELLO)]
    assert isinstance(reply, Reply)
    assert "".join(str(word) for word in words) == reply.text == text


def test_it_can_be_asked_without_an_event_loop() -> None:
    provider = ScriptedProvider(["one", "two three"])
    assert provider.chat([{"role": "user", "content": "Hello"}]) == "one"
    assert list(provider.chat_stream([{"role": "user", "content": "Hello"}])) == ["two", " three"]


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([{"role": "robot", "content": "x"}], "message 0 has the role 'robot'"),
        ([{"role": "user", "content": 5}], "message 0 has content that is int"),
        (["Hello"], "message 0 is str"),
        ([{"role": "assistant", "content": None, "tool_calls": [{}]}], "message 0 has a tool call without 'function'"),
    ],
)
def test_messages_that_are_none_are_refused_with_their_place(messages: list[Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ScriptedProvider(["one"]).chat(messages)


@pytest.mark.parametrize("replies", ["one text", [5], [None]])
def test_a_script_that_is_none_is_refused_when_it_is_made(replies: Any) -> None:
    with pytest.raises(TypeError):
        ScriptedProvider(replies)
