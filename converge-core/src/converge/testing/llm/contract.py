"""Every promise of a provider, as tests."""
# these are tests, shipped to authors

from __future__ import annotations

from converge.testing.llm.asking import AskingContract
from converge.testing.llm.failing import FailingContract

__all__ = ["LLMProviderContract"]


class LLMProviderContract(AskingContract, FailingContract):
    """Every promise of `LLMProvider`, and of `ChatProvider` for one that can `complete`. What it lacks is skipped."""
