"""What arrives at the vendors, by their interfaces."""

from __future__ import annotations

from typing import Any

import pytest

from converge.extensions.llm import (
    AnthropicProvider,
    ChatMessage,
    MistralProvider,
    OpenAIProvider,
    ToolCall,
    ToolSpec,
)
from converge.testing.llm import Answer
from tests.llm.providers.loopback import LoopbackVendor, Raw, Seen

CALL = ToolCall("toolu_1", "look_up", {"city": "Nice"}, '{"city": "Nice"}')
MESSAGES = [
    ChatMessage("system", "Be brief."),
    ChatMessage("user", "Where is Nice?"),
    ChatMessage("user", "And quickly."),
    ChatMessage("assistant", "", (CALL, ToolCall("b 2", "look_up", None, "{"))),
    ChatMessage("tool", "in France", tool_call_id="toolu_1"),
    ChatMessage("tool", "", tool_call_id="b 2"),
]
TOOL = ToolSpec("look_up", "Looks a city up.", {"type": "object", "properties": {"city": {"type": "string"}}})


async def sent(provider_class: Any, name: str, **options: Any) -> Seen:
    with LoopbackVendor(name) as vendor:
        provider = provider_class("sk-the-key", "a-model", base_url=vendor.url)
        vendor.will(Answer("Done."))
        await provider.complete(MESSAGES, **options)
        await provider.aclose()
        return vendor.seen[0]


async def test_openai_is_sent_a_chat_completion() -> None:
    seen = await sent(OpenAIProvider, "openai", tools=[TOOL], max_output_tokens=50, temperature=0.25)
    assert seen.path == "/openai/v1/chat/completions"
    assert seen.headers["authorization"] == "Bearer sk-the-key"
    assert (seen.body["model"], seen.body["max_tokens"], seen.body["temperature"]) == ("a-model", 50, 0.25)
    assert [message["role"] for message in seen.body["messages"]] == [message.role for message in MESSAGES]
    assert seen.body["tools"][0]["function"] == {
        "name": "look_up",
        "description": "Looks a city up.",
        "parameters": TOOL.parameters,
    }
    calls = seen.body["messages"][3]["tool_calls"]
    assert [call["function"]["arguments"] for call in calls] == ['{"city":"Nice"}', "{}"]
    assert calls[0]["id"] == seen.body["messages"][4]["tool_call_id"] == "toolu_1"
    assert calls[1]["id"] == seen.body["messages"][5]["tool_call_id"] != "b 2"


async def test_anthropic_is_sent_turns_that_alternate() -> None:
    seen = await sent(AnthropicProvider, "anthropic", tools=[TOOL], temperature=0.25)
    assert seen.path == "/anthropic/v1/messages"
    assert seen.headers["authorization"] == "Bearer sk-the-key"
    assert (seen.body["system"], seen.body["max_tokens"], seen.body["temperature"]) == ("Be brief.", 4096, 0.25)
    assert [turn["role"] for turn in seen.body["messages"]] == ["user", "assistant", "user"]
    asked, called, found = (turn["content"] for turn in seen.body["messages"])
    assert [block["text"] for block in asked] == ["Where is Nice?", "And quickly."]
    assert [(block["type"], block["input"]) for block in called] == [("tool_use", {"city": "Nice"}), ("tool_use", {})]
    assert [block["tool_use_id"] for block in found] == [block["id"] for block in called]
    assert all(block["content"] for block in found)
    assert seen.body["tools"][0]["input_schema"] == TOOL.parameters


async def test_mistral_is_sent_ids_of_nine_letters_and_digits() -> None:
    seen = await sent(MistralProvider, "mistral", tools=[TOOL], max_output_tokens=50, temperature=0.25)
    assert seen.path == "/mistral/v1/chat/completions"
    assert seen.headers["authorization"] == "Bearer sk-the-key"
    assert (seen.body["model"], seen.body["max_tokens"], seen.body["temperature"]) == ("a-model", 50, 0.25)
    messages = seen.body["messages"]
    ids = [call["id"] for call in messages[3]["tool_calls"]]
    assert all(len(call_id) == 9 and call_id.isalnum() for call_id in ids)
    assert [message["tool_call_id"] for message in messages[4:]] == ids


async def test_openai_itself_is_told_the_limit_by_its_new_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with LoopbackVendor("openai") as vendor:
        monkeypatch.setenv("OPENAI_BASE_URL", vendor.url)
        provider = OpenAIProvider("sk-the-key", max_output_tokens=9)
        vendor.will(Answer("Done."))
        await provider.complete(MESSAGES)
        await provider.aclose()
    assert vendor.seen[0].body["max_completion_tokens"] == 9


async def test_the_limit_of_a_call_goes_before_that_of_the_provider() -> None:
    with LoopbackVendor("anthropic") as vendor:
        provider = AnthropicProvider("sk-the-key", base_url=vendor.url, max_output_tokens=9)
        vendor.will(Answer("a"), Answer("b"))
        await provider.complete(MESSAGES)
        await provider.complete(MESSAGES, max_output_tokens=5)
        await provider.aclose()
    assert [seen.body["max_tokens"] for seen in vendor.seen] == [9, 5]


async def test_nothing_is_asked_twice_by_the_library() -> None:
    for provider_class, name in (
        (OpenAIProvider, "openai"),
        (AnthropicProvider, "anthropic"),
        (MistralProvider, "mistral"),
    ):
        with LoopbackVendor(name) as vendor:
            provider: Any = provider_class("sk-the-key", base_url=vendor.url)
            vendor.will(Raw(b"{}", status=500), Answer("Done."))
            with pytest.raises(ConnectionError):
                await provider.complete(MESSAGES)
            await provider.aclose()
            assert len(vendor.seen) == 1
