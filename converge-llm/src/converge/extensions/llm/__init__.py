"""Agents whose decisions a language model makes, and the providers that ask the models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from converge.extensions.llm.agent import LLMAgent
    from converge.extensions.llm.anthropic_provider import AnthropicProvider
    from converge.extensions.llm.blocking_chat import BlockingChat
    from converge.extensions.llm.budget import Budget
    from converge.extensions.llm.chat import (
        ChatMessage,
        ChatProvider,
        LLMProvider,
        Reply,
        ToolCall,
        ToolSpec,
        Usage,
        as_chat_provider,
    )
    from converge.extensions.llm.errors import (
        BadReply,
        KeyMissing,
        Overloaded,
        ProviderError,
        ProviderTimeout,
        RateLimited,
        Rejected,
        ReplayMismatch,
        ScriptExhausted,
        SDKMissing,
    )
    from converge.extensions.llm.fallback import FallbackProvider
    from converge.extensions.llm.judging import DecisionRules
    from converge.extensions.llm.memory import MemoryWindow
    from converge.extensions.llm.mistral_provider import MistralProvider
    from converge.extensions.llm.openai_provider import OpenAIProvider
    from converge.extensions.llm.recording import RecordingProvider
    from converge.extensions.llm.retries import RetryingProvider, retrying
    from converge.extensions.llm.scripted import ScriptedProvider
    from converge.extensions.llm.translating import provider_error

__all__ = [
    "AnthropicProvider",
    "BadReply",
    "BlockingChat",
    "Budget",
    "ChatMessage",
    "ChatProvider",
    "DecisionRules",
    "FallbackProvider",
    "KeyMissing",
    "LLMAgent",
    "LLMProvider",
    "MemoryWindow",
    "MistralProvider",
    "OpenAIProvider",
    "Overloaded",
    "ProviderError",
    "ProviderTimeout",
    "RateLimited",
    "RecordingProvider",
    "Rejected",
    "ReplayMismatch",
    "Reply",
    "RetryingProvider",
    "SDKMissing",
    "ScriptExhausted",
    "ScriptedProvider",
    "ToolCall",
    "ToolSpec",
    "Usage",
    "as_chat_provider",
    "provider_error",
    "retrying",
]

_HOMES = {
    "AnthropicProvider": "anthropic_provider",
    "BadReply": "errors",
    "BlockingChat": "blocking_chat",
    "Budget": "budget",
    "ChatMessage": "chat",
    "ChatProvider": "chat",
    "DecisionRules": "judging",
    "FallbackProvider": "fallback",
    "KeyMissing": "errors",
    "LLMAgent": "agent",
    "LLMProvider": "chat",
    "MemoryWindow": "memory",
    "MistralProvider": "mistral_provider",
    "OpenAIProvider": "openai_provider",
    "Overloaded": "errors",
    "ProviderError": "errors",
    "ProviderTimeout": "errors",
    "RateLimited": "errors",
    "RecordingProvider": "recording",
    "Rejected": "errors",
    "ReplayMismatch": "errors",
    "Reply": "chat",
    "RetryingProvider": "retries",
    "SDKMissing": "errors",
    "ScriptExhausted": "errors",
    "ScriptedProvider": "scripted",
    "ToolCall": "chat",
    "ToolSpec": "chat",
    "Usage": "chat",
    "as_chat_provider": "chat",
    "provider_error": "translating",
    "retrying": "retries",
}
"""The module of each name: what is not asked for is not imported, the vendors' SDKs least of all."""


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
