"""The contract over the providers that ask no vendor themselves."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest

from converge.extensions.llm import (
    BadReply,
    ChatMessage,
    FallbackProvider,
    Overloaded,
    ProviderError,
    RateLimited,
    RecordingProvider,
    Rejected,
    Reply,
    ScriptedProvider,
    ToolCall,
    Usage,
    retrying,
)
from converge.extensions.llm.translating import retry_after_of
from converge.testing.llm import Answer, Failure, LLMProviderContract

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class ScriptedVendor:
    """A vendor in this process: what it is told becomes the lines of a script."""

    def __init__(self) -> None:
        self.provider = ScriptedProvider(self._answer, model="a-model")
        self._outcomes: deque[Answer | Failure] = deque()

    def will(self, *outcomes: Answer | Failure) -> None:
        self._outcomes.extend(outcomes)

    def asked(self) -> bool:
        return bool(self.provider.asked)

    async def _answer(self, messages: Sequence[ChatMessage]) -> Reply | ProviderError:
        outcome = self._outcomes.popleft()
        if isinstance(outcome, Failure):
            return await self._failure(outcome)
        calls = tuple(ToolCall(str(n), call.name, dict(call.arguments)) for n, call in enumerate(outcome.calls))
        usage = Usage(outcome.input_tokens, outcome.output_tokens)
        return Reply(outcome.text, calls, usage, "a-model", outcome.finish)

    async def _failure(self, failure: Failure) -> ProviderError:
        if failure.kind == "hang":
            await asyncio.Event().wait()
        if failure.kind == "rate_limited":
            headers = {} if failure.retry_after is None else {"retry-after": failure.retry_after}
            return RateLimited("slow", retry_after=retry_after_of(headers))
        kinds: dict[str, type[ProviderError]] = {"overloaded": Overloaded, "rejected": Rejected, "no_key": Rejected}
        return kinds.get(failure.kind, BadReply)(failure.kind)


class Over(LLMProviderContract):
    @pytest.fixture
    def vendor(self) -> ScriptedVendor:
        return ScriptedVendor()


class TestScripted(Over):
    @pytest.fixture
    def subject(self, vendor: ScriptedVendor) -> Any:
        return vendor.provider


class TestRetrying(Over):
    @pytest.fixture
    def subject(self, vendor: ScriptedVendor) -> Any:
        return retrying(vendor.provider, attempts=1)


class TestFallback(Over):
    @pytest.fixture
    def subject(self, vendor: ScriptedVendor) -> Any:
        return FallbackProvider([vendor.provider])


class TestRecording(Over):
    @pytest.fixture
    def subject(self, vendor: ScriptedVendor, tmp_path: Path) -> Any:
        return RecordingProvider(vendor.provider, tmp_path / "talk.jsonl")
