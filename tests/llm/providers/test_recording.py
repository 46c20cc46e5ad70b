"""Conversations that are recorded, and repeated without a vendor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from converge.extensions.llm import (
    ChatMessage,
    OpenAIProvider,
    RateLimited,
    RecordingProvider,
    ReplayMismatch,
    Reply,
    ScriptedProvider,
    ToolCall,
    ToolSpec,
    Usage,
)
from converge.testing.llm import Answer, Failure, FunctionCall
from tests.llm.providers.loopback import LoopbackVendor

if TYPE_CHECKING:
    from pathlib import Path

HELLO = [ChatMessage("user", "Hello, 東京")]
CALLED = [
    *HELLO,
    ChatMessage("assistant", "", (ToolCall("1", "f", {"a": [1.5, None]}, '{"a": [1.5, null]}'),)),
    ChatMessage("tool", "found", tool_call_id="1"),
]
TOOL = ToolSpec("f", "F.", {"type": "object"})
REPLY = Reply("", (ToolCall("1", "f", {"a": 1}, '{"a": 1}'), ToolCall("2", "g", None, "{")), Usage(3, 4), "m", "length")


async def conversation(provider: Any) -> list[object]:
    """A call, one that fails, a stream, and one that is left early."""
    come: list[object] = [await provider.complete(HELLO, tools=[TOOL], temperature=0.5)]
    with pytest.raises(RateLimited) as caught:
        await provider.complete(CALLED)
    come.append((str(caught.value), caught.value.retry_after, caught.value.status))
    come.append([piece async for piece in provider.stream(CALLED, max_output_tokens=9)][-1])
    pieces = provider.stream(HELLO)
    come.append((await anext(pieces)).split()[0])
    await pieces.aclose()
    come.append((await provider.complete(HELLO)).text)
    return come


def script() -> ScriptedProvider:
    limited = RateLimited("slow", retry_after=7.5, status=429)
    return ScriptedProvider([REPLY, limited, "one two three", "four five", "end"], model="a-model")


async def test_a_conversation_is_repeated_without_the_provider(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "talk.jsonl"
    recorded = await conversation(RecordingProvider(script(), path, "record"))
    for again in (RecordingProvider(None, path, "replay"), RecordingProvider(None, path)):
        assert await conversation(again) == recorded
        assert again.model == "a-model"
        again.assert_consumed()


async def test_a_real_conversation_is_recorded_and_no_key_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    with LoopbackVendor("openai") as vendor:
        provider = RecordingProvider(OpenAIProvider("sk-0123456", base_url=vendor.url), path)
        vendor.will(
            Answer("", calls=(FunctionCall("f", {"a": 1}),), finish="tool_calls"),
            Failure("rate_limited", "5"),
            Answer("one two"),
            Answer("four five"),
            Answer("end"),
        )
        recorded = await conversation(provider)
        await provider.aclose()
    assert b"sk-0123456" not in path.read_bytes()
    assert path.stat().st_mode & 0o077 == 0
    offline = RecordingProvider(OpenAIProvider("sk-0123456", base_url="http://127.0.0.1:9"), path)
    replayed = await conversation(offline)
    assert replayed[:3] == recorded[:3]
    assert replayed[4:] == recorded[4:]


@pytest.mark.parametrize(
    ("messages", "options", "shown"),
    [
        ([ChatMessage("user", "Good bye")], {}, '+   "content": "Good bye",'),
        (CALLED, {}, '+   "role": "tool",'),
        (HELLO, {"temperature": 0.1}, '+ "temperature": 0.1'),
        (HELLO, {"tools": [TOOL]}, '+   "name": "f",'),
        (HELLO, {"max_output_tokens": 5}, '+ "max_output_tokens": 5,'),
    ],
)
async def test_another_request_shows_the_difference(
    tmp_path: Path, messages: list[ChatMessage], options: dict[str, Any], shown: str
) -> None:
    path = tmp_path / "talk.jsonl"
    await RecordingProvider(ScriptedProvider(["one"]), path).complete(HELLO)
    again = RecordingProvider(None, path)
    with pytest.raises(ReplayMismatch, match="request 1 is not the recorded one") as caught:
        await again.complete(messages, **options)
    assert shown in str(caught.value)
    with pytest.raises(ReplayMismatch, match="1 of 1"):
        again.assert_consumed()
    assert (await again.complete(HELLO)).text == "one"


async def test_another_model_is_another_request(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    await RecordingProvider(ScriptedProvider(["one"]), path).complete(HELLO)
    again = RecordingProvider(ScriptedProvider([], model="newer"), path)
    with pytest.raises(ReplayMismatch, match=r'\+ "model": "newer"'):
        await again.complete(HELLO)


async def test_a_request_beyond_the_recording_is_a_mismatch(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    await RecordingProvider(ScriptedProvider(["one"]), path).complete(HELLO)
    again = RecordingProvider(None, path)
    await again.complete(HELLO)
    with pytest.raises(ReplayMismatch, match="holds 1 requests, and this is number 2"):
        await again.complete(HELLO)


async def test_a_long_difference_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    await RecordingProvider(ScriptedProvider(["one"]), path).complete(HELLO)
    long = [ChatMessage("user", "x" * 10_000)] * 200
    with pytest.raises(ReplayMismatch, match="lines more") as caught:
        await RecordingProvider(None, path).complete(long)
    assert len(str(caught.value)) < 60 * 320


async def test_record_begins_anew_at_the_first_call_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    await RecordingProvider(ScriptedProvider(["one"]), path).complete(HELLO)
    provider = RecordingProvider(ScriptedProvider(["two"]), path, "record")
    assert (await RecordingProvider(None, path).complete(HELLO)).text == "one"
    await provider.complete(HELLO)
    assert (await RecordingProvider(None, path).complete(HELLO)).text == "two"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is no recording"),
        (b"no json\n", "line 1"),
        (b'{"something": 1}\n', "is no recording"),
        (b'{"converge_recording": 99}\n', "has version 99 of the format, this release reads 1"),
        (b'{"converge_recording": 1, "model": "m"}\n{"request": {}, "reply"', "line 2"),
        (b'{"converge_recording": 1, "model": "m"}\n{"request": {}}\n', "line 2"),
        (b'{"converge_recording": 1, "model": "m"}\n{"request": {}, "reply": {"text": 1}}\n', "line 2"),
        (b'{"converge_recording": 1, "model": "m"}\n' + b"[" * 100_000, "line 2"),
    ],
)
def test_a_file_that_is_damaged_says_where(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=text):
        RecordingProvider(None, path)


def test_without_a_file_and_without_a_provider_there_is_nothing_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no provider to record"):
        RecordingProvider(None, tmp_path / "talk.jsonl")
    with pytest.raises(FileNotFoundError, match="mode='record'"):
        RecordingProvider(None, tmp_path / "talk.jsonl", "replay")
    with pytest.raises(ValueError, match="mode is one of"):
        RecordingProvider(None, tmp_path / "talk.jsonl", "play")  # type: ignore[arg-type]  # what is tested
