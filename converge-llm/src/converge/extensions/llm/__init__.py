"""Agents whose decisions a language model makes, and the providers that ask the models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from converge.extensions.llm.agent import LLMAgent
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
    from converge.extensions.llm.judging import DecisionRules
    from converge.extensions.llm.memory import MemoryWindow

__all__ = [
    "Budget",
    "ChatMessage",
    "ChatProvider",
    "DecisionRules",
    "LLMAgent",
    "LLMProvider",
    "MemoryWindow",
    "Reply",
    "ToolCall",
    "ToolSpec",
    "Usage",
    "as_chat_provider",
]

_HOMES = {
    "Budget": "budget",
    "ChatMessage": "chat",
    "ChatProvider": "chat",
    "DecisionRules": "judging",
    "LLMAgent": "agent",
    "LLMProvider": "chat",
    "MemoryWindow": "memory",
    "Reply": "chat",
    "ToolCall": "chat",
    "ToolSpec": "chat",
    "Usage": "chat",
    "as_chat_provider": "chat",
}
"""The module of each name: what is not asked for is not imported, the vendors' SDKs least of all."""


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
