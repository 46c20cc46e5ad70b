"""The real libraries of the vendors, against a server that speaks as they do: one contract for all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from converge.extensions.llm.anthropic_provider import AnthropicProvider
from converge.extensions.llm.mistral_provider import MistralProvider
from converge.extensions.llm.openai_provider import OpenAIProvider
from converge.testing.llm import LLMProviderContract
from tests.llm.providers.loopback import LoopbackVendor

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "sk-0123456789abcdefABCDEF"


class OverLoopback(LLMProviderContract):
    key = KEY
    provider: ClassVar[type[Any]]
    name: ClassVar[str]

    @pytest.fixture
    def vendor(self) -> Iterator[LoopbackVendor]:
        with LoopbackVendor(self.name) as vendor:
            yield vendor

    @pytest.fixture
    def subject(self, vendor: LoopbackVendor) -> Iterator[Any]:
        provider = self.provider(KEY, base_url=vendor.url, timeout_sec=50)
        yield provider
        provider.close()

    @pytest.fixture
    def impatient(self, vendor: LoopbackVendor) -> Any:
        return self.provider(KEY, base_url=vendor.url, timeout_sec=0.3)


class TestOpenAI(OverLoopback):
    provider = OpenAIProvider
    name = "openai"


class TestAnthropic(OverLoopback):
    provider = AnthropicProvider
    name = "anthropic"


class TestMistral(OverLoopback):
    provider = MistralProvider
    name = "mistral"
