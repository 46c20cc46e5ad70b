"""Agents whose model says what the test says."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from converge.core.decisions import Decision
from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.task import Task
from converge.extensions.llm.agent import LLMAgent
from converge.extensions.llm.chat import ChatMessage, Reply, ToolSpec, Usage

Answer = str | Reply | BaseException | Callable[[Sequence[ChatMessage]], Any]


class FakeClock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def time(self) -> float:
        return 1_700_000_000.0 + self.now

    def monotonic(self) -> float:
        return self.now


class Leaping(FakeClock):
    """Whatever has to be waited for is over at the next look."""

    def monotonic(self) -> float:
        self.now += 4_000
        return self.now


class Model:
    """Gives `answers` in their order, then "[]"; it can complete, so an agent lets it call functions."""

    model = "test-1"

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.shown: list[list[ChatMessage]] = []
        self.tools: list[tuple[ToolSpec, ...]] = []
        self.options: list[dict[str, Any]] = []

    async def complete(self, messages: Sequence[ChatMessage], *, tools: Sequence[ToolSpec] = (), **options: Any) -> Any:
        self.shown.append(list(messages))
        self.tools.append(tuple(tools))
        self.options.append(options)
        answer = self.answers.pop(0) if self.answers else "[]"
        if callable(answer):
            answer = answer(messages)
        if inspect.isawaitable(answer):
            answer = await answer
        if isinstance(answer, BaseException):
            raise answer
        return Reply(answer, usage=Usage(100, 10), model="test-1-0") if isinstance(answer, str) else answer

    async def stream(self, messages: Sequence[ChatMessage], **options: Any) -> AsyncIterator[str | Reply]:
        yield await self.complete(messages, **options)

    @property
    def calls(self) -> int:
        return len(self.shown)


class TextModel:
    """Has no more than `chat`, as SPEC's protocol wants it."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.shown: list[list[dict[str, Any]]] = []

    def chat(self, messages: list[dict[str, Any]], **_: Any) -> Any:
        self.shown.append(messages)
        answer = self.answers.pop(0) if self.answers else "[]"
        if callable(answer):
            answer = answer(messages)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def message_to(agent: LLMAgent, text: str = "hi", sender: Identity | None = None, **fields: Any) -> Message:
    author = Identity.generate() if sender is None else sender
    return Message(sender=author.fingerprint, recipient=agent.id, payload={"text": text}, **fields).sign(author)


async def ask(agent: LLMAgent, text: str = "hi", tasks: Sequence[Task] = (), **fields: Any) -> list[Decision]:
    """What `agent` decides about a message."""
    return list(await agent.decide([message_to(agent, text, **fields)], list(tasks)))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def me() -> Identity:
    return Identity.generate()
