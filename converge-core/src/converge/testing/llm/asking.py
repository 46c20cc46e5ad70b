"""What a provider answers when all goes well."""
# these are tests, shipped to authors
# the name of a test is its sentence

from __future__ import annotations

import asyncio
import copy
import threading
from typing import TYPE_CHECKING, Any, Final, Literal

import pytest

from converge.testing.llm.fixtures import Answer, FunctionCall, ProviderFixtures, Subject, Vendor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from converge.extensions.llm.chat import ChatMessage, Reply, ToolSpec

__all__ = ["AskingContract", "question", "whole"]

_PLAIN: Final[list[dict[str, Any]]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is the capital of France? Ça va, 東京 🗼?"},
]
_LOOK_UP: Final = FunctionCall("look_up", {"city": "Orléans", "limit": 3, "deep": {"a": [1, None, True]}})


def question() -> Sequence[ChatMessage]:
    """A conversation of two messages."""
    from converge.extensions.llm.chat import ChatMessage

    return [ChatMessage("system", "Be brief."), ChatMessage("user", "What is the capital of France?")]


def _tools() -> Sequence[ToolSpec]:
    """One function that the model can call."""
    from converge.extensions.llm.chat import ToolSpec

    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "limit": {"type": "integer"}, "deep": {"type": "object"}},
        "required": ["city"],
    }
    return [ToolSpec("look_up", "Looks a city up.", parameters)]


async def whole(subject: Subject, *, streamed: bool, **options: Any) -> Reply:
    """The reply to `question()`, asked for at once or as a stream."""
    messages = options.pop("messages", None) or question()
    if not streamed:
        reply: Reply = await subject.complete(messages, **options)
        return reply
    pieces = [piece async for piece in subject.stream(messages, **options)]
    *texts, last = pieces
    assert all(isinstance(text, str) and text for text in texts), "a stream yields texts, then one Reply"
    assert "".join(texts) == last.text
    streamed_reply: Reply = last
    return streamed_reply


class AskingContract(ProviderFixtures):
    """A provider that is asked, and answers."""

    # chat, which every provider has

    def test_chat_gives_the_text(self, subject: Subject, vendor: Vendor | None) -> None:
        if vendor is not None:
            vendor.will(Answer("Paris, 巴黎 🥐."))
        text = subject.chat(copy.deepcopy(_PLAIN))
        assert isinstance(text, str)
        if vendor is not None:
            assert text == "Paris, 巴黎 🥐."

    def test_chat_leaves_the_messages_as_they_were(self, subject: Subject, vendor: Vendor | None) -> None:
        if vendor is not None:
            vendor.will(Answer())
        messages = copy.deepcopy(_PLAIN)
        subject.chat(messages)
        assert messages == _PLAIN

    def test_chat_may_be_called_from_several_threads_at_once(self, subject: Subject, vendor: Vendor | None) -> None:
        if vendor is not None:
            vendor.will(*[Answer("Paris.")] * self.at_once)
        given: list[object] = []

        def ask() -> None:
            try:
                given.append(subject.chat(copy.deepcopy(_PLAIN)))
            except Exception as error:  # noqa: BLE001  # shown by the assertion below
                given.append(error)

        threads = [threading.Thread(target=ask, daemon=True) for _ in range(self.at_once)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(self.patience)
        assert [type(text) for text in given] == [str] * self.at_once, given

    def test_chat_stream_gives_the_text_in_pieces(self, subject: Subject, vendor: Vendor | None) -> None:
        if not callable(getattr(subject, "chat_stream", None)):
            pytest.skip("the provider has no `chat_stream`")
        self.told(vendor, Answer("one two three four five six seven"))
        pieces = list(subject.chat_stream(copy.deepcopy(_PLAIN)))
        assert all(isinstance(piece, str) for piece in pieces)
        assert "".join(pieces) == "one two three four five six seven"

    # complete and stream

    @pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
    def test_a_reply_has_text_usage_model_and_finish(
        self, subject: Subject, vendor: Vendor | None, streamed: bool
    ) -> None:
        provider = self.completing(subject)
        self.told(vendor, Answer("Paris, 巴黎 🥐.", input_tokens=31, output_tokens=9))
        reply = self.run(provider, lambda it: whole(it, streamed=streamed))
        assert (reply.text, reply.tool_calls, reply.finish) == ("Paris, 巴黎 🥐.", (), "stop")
        assert (reply.usage.input_tokens, reply.usage.output_tokens) == (31, 9)
        assert reply.model
        assert isinstance(provider.model, str)

    @pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
    def test_a_call_that_the_model_asks_for_has_its_arguments(
        self, subject: Subject, vendor: Vendor | None, streamed: bool
    ) -> None:
        provider = self.completing(subject)
        self.told(vendor, Answer("I look.", calls=(_LOOK_UP,), finish="tool_calls"))
        reply = self.run(provider, lambda it: whole(it, streamed=streamed, tools=_tools()))
        assert reply.finish == "tool_calls"
        assert reply.text == "I look."
        assert [(call.name, call.arguments) for call in reply.tool_calls] == [("look_up", _LOOK_UP.arguments)]
        assert reply.tool_calls[0].id

    @pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
    def test_several_calls_in_one_reply_keep_their_order_and_have_each_an_id(
        self, subject: Subject, vendor: Vendor | None, streamed: bool
    ) -> None:
        provider = self.completing(subject)
        calls = tuple(FunctionCall("look_up", {"city": city}) for city in ("Lyon", "Nice", "Brest"))
        self.told(vendor, Answer("", calls=calls, finish="tool_calls"))
        reply = self.run(provider, lambda it: whole(it, streamed=streamed, tools=_tools()))
        assert [call.arguments for call in reply.tool_calls] == [call.arguments for call in calls]
        assert len({call.id for call in reply.tool_calls}) == len(calls)

    def test_the_results_of_calls_can_be_given_back(self, subject: Subject, vendor: Vendor | None) -> None:
        from converge.extensions.llm.chat import ChatMessage

        provider = self.completing(subject)
        self.told(vendor, Answer("", calls=(_LOOK_UP, _LOOK_UP), finish="tool_calls"), Answer("Done."))

        async def both(it: Subject) -> Reply:
            first = await whole(it, streamed=False, tools=_tools())
            results = [ChatMessage("tool", "found", tool_call_id=call.id) for call in first.tool_calls]
            messages = [*question(), ChatMessage("assistant", first.text, first.tool_calls), *results]
            return await whole(it, streamed=False, messages=messages, tools=_tools())

        assert self.run(provider, both).text == "Done."

    def test_a_conversation_that_another_vendor_began_is_taken(self, subject: Subject, vendor: Vendor | None) -> None:
        from converge.extensions.llm.chat import ChatMessage, ToolCall

        provider = self.completing(subject)
        self.told(vendor, Answer("Done."))
        call = ToolCall("a call: 1/2 of somebody's", "look_up", None, "{not json")
        asked = ChatMessage("assistant", "", (call,))
        messages = [*question(), asked, ChatMessage("tool", "", tool_call_id=call.id)]
        assert (
            self.run(provider, lambda it: whole(it, streamed=False, messages=messages, tools=_tools())).text == "Done."
        )

    @pytest.mark.parametrize("finish", ["length", "refused"])
    @pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
    def test_a_reply_that_is_cut_short_says_so(
        self, subject: Subject, vendor: Vendor | None, streamed: bool, finish: Literal["length", "refused"]
    ) -> None:
        provider = self.completing(subject)
        if finish not in self.finishes:
            pytest.skip(f"the test class declares no {finish!r} among its `finishes`")
        self.told(vendor, Answer("Par", finish=finish))
        reply = self.run(provider, lambda it: whole(it, streamed=streamed, max_output_tokens=1, temperature=0.0))
        assert (reply.text, reply.finish) == ("Par", finish)

    def test_calls_at_the_same_time_are_answered_each(self, subject: Subject, vendor: Vendor | None) -> None:
        provider = self.completing(subject)
        self.told(vendor, *[Answer("Paris.")] * self.at_once)

        async def at_once(it: Subject) -> list[Reply]:
            return await asyncio.gather(*(whole(it, streamed=bool(n % 2)) for n in range(self.at_once)))

        assert [reply.text for reply in self.run(provider, at_once)] == ["Paris."] * self.at_once

    def test_it_can_be_used_from_one_event_loop_after_the_other(self, subject: Subject, vendor: Vendor | None) -> None:
        provider = self.completing(subject)
        for text in ("one", "two"):
            self.told(vendor, Answer(text))
            assert self.run(provider, lambda it: whole(it, streamed=False)).text == text
        if callable(getattr(provider, "chat", None)):
            self.told(vendor, Answer("three"))
            assert provider.chat(copy.deepcopy(_PLAIN)) == "three"

    def test_a_stream_that_is_left_early_does_no_harm(self, subject: Subject, vendor: Vendor | None) -> None:
        provider = self.completing(subject)
        self.told(vendor, Answer("one two three four five six"), Answer("after"))

        async def left(it: Subject) -> str:
            pieces = it.stream(question())
            first = await anext(pieces)
            assert isinstance(first, str)
            await pieces.aclose()
            return (await whole(it, streamed=False)).text

        assert self.run(provider, left) == "after"
