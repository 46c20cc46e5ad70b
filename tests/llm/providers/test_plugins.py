"""Providers that are found by name and made from tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from converge.extensions.llm import (
    AnthropicProvider,
    ChatMessage,
    FallbackProvider,
    MistralProvider,
    OpenAIProvider,
    RecordingProvider,
    ScriptedProvider,
)
from converge.plugins import PluginManager, PluginOptionsError

if TYPE_CHECKING:
    from pathlib import Path

HELLO = [ChatMessage("user", "Hello")]


@pytest.fixture
def manager() -> PluginManager:
    return PluginManager()


@pytest.mark.parametrize(
    ("name", "made", "model"),
    [
        ("openai", OpenAIProvider, "gpt-4o-mini"),
        ("anthropic", AnthropicProvider, "claude-sonnet-4-20250514"),
        ("mistral", MistralProvider, "mistral-small-latest"),
    ],
)
def test_the_vendors_are_found_by_name(
    manager: PluginManager, name: str, made: type[Any], model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-0123")
    provider: Any = manager.build("llm_provider", name)
    assert type(provider) is made
    assert provider.model == model
    table = {
        "use": name,
        "api_key": {"env": "MY_KEY"},
        "model": "another",
        "base_url": "http://127.0.0.1:9/v1",
        "timeout_sec": 5.0,
        "max_output_tokens": 100,
    }
    other: Any = manager.build("llm_provider", table)
    assert (other.model, other.timeout_sec, other.max_output_tokens) == ("another", 5, 100)
    assert manager.describe(other) == table


@pytest.mark.parametrize("name", ["openai", "anthropic", "mistral"])
def test_a_key_in_the_configuration_is_refused(manager: PluginManager, name: str) -> None:
    with pytest.raises(PluginOptionsError) as caught:
        manager.build("llm_provider", {"use": name, "api_key": "sk-0123456", "timeout_sec": -1})
    assert "sk-0123456" not in str(caught.value)


async def test_a_chain_of_retries_is_one_table(manager: PluginManager) -> None:
    table = {
        "use": "fallback",
        "providers": [
            {"use": "retrying", "provider": "openai", "attempts": 2, "most_wait_sec": 5},
            "anthropic",
            {"use": "scripted", "replies": ["Hello."]},
        ],
    }
    chain = manager.build("llm_provider", table)
    assert isinstance(chain, FallbackProvider)
    assert [type(one).__name__ for one in chain.providers] == [
        "RetryingProvider",
        "AnthropicProvider",
        "ScriptedProvider",
    ]
    assert chain.model == "gpt-4o-mini"


async def test_a_script_of_texts_and_calls(manager: PluginManager) -> None:
    replies = ["one", {"text": "two", "tool_calls": [{"name": "f", "arguments": {"a": 1}}]}]
    provider = manager.build("llm_provider", {"use": "scripted", "replies": replies})
    assert isinstance(provider, ScriptedProvider)
    assert (await provider.complete(HELLO)).text == "one"
    reply = await provider.complete(HELLO)
    assert (reply.text, reply.finish) == ("two", "tool_calls")
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [("f", {"a": 1})]
    provider.assert_consumed()


async def test_a_recording_of_a_script(manager: PluginManager, tmp_path: Path) -> None:
    path = str(tmp_path / "talk.jsonl")
    provider: Any = manager.build(
        "llm_provider", {"use": "recording", "path": path, "provider": {"use": "scripted", "replies": ["one"]}}
    )
    await provider.complete(HELLO)
    replay = {"use": "recording", "path": path, "mode": "replay"}
    again = manager.build("llm_provider", replay)
    assert isinstance(again, RecordingProvider)
    assert (await again.complete(HELLO)).text == "one"
    assert manager.describe(again) == {**replay, "provider": None}
