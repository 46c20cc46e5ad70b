"""The conversation: a window, a valid sequence, and what a restart keeps."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from converge.core.decisions import Decision
from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.store import Store
from converge.core.task import Task
from converge.extensions.llm.agent import LLMAgent
from converge.extensions.llm.budget import Budget
from converge.extensions.llm.chat import ChatMessage, Reply, ToolCall, Usage
from converge.extensions.llm.memory import Conversation, MemoryWindow, size_of
from converge.extensions.storage.memory import MemoryStore
from converge.extensions.storage.sqlite import SQLiteStore
from converge.network.transport.local import LocalTransport, LocalTransportRegistry
from converge.runtime.loop import AgentRuntime
from tests.llm.agent.conftest import Model, TextModel, message_to

PATIENCE_SEC = 20.0


def user(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)


def assistant(text: str, *call_ids: str) -> ChatMessage:
    calls = tuple(ToolCall(call_id, "f", {"x": 1}, '{"x": 1}') for call_id in call_ids)
    return ChatMessage(role="assistant", content=text, tool_calls=calls)


def result(call_id: str, text: str = "r") -> ChatMessage:
    return ChatMessage(role="tool", content=text, tool_call_id=call_id)


def is_valid(messages: Sequence[ChatMessage]) -> bool:
    """Whether every vendor takes the sequence: roles alternate, and each call is answered at once, and only calls."""
    waiting: list[str] = []
    before = "system"
    for message in messages[1:]:
        if message.role == "tool":
            if message.tool_call_id not in waiting:
                return False
            waiting.remove(str(message.tool_call_id))
        elif waiting or message.role == before or (message.role == "user" and before == "tool"):
            return False
        if message.role == "assistant":
            waiting = [call.id for call in message.tool_calls]
        before = message.role
    return not waiting and messages[0].role == "system" and messages[1].role == "user"


@pytest.mark.parametrize("seed", range(40))
def test_whatever_was_said_what_a_model_is_shown_is_a_valid_sequence_within_its_room(seed: int) -> None:
    rng = random.Random(seed)
    conversation = Conversation(MemoryWindow(messages=rng.choice([0, 1, 4, 40]), bytes=rng.choice([0, 300, 9_000])))
    for turn in range(30):
        room = rng.choice([0, 500, 2_000, 100_000])
        said = [result(call.id, "r" * rng.randrange(200)) for call in conversation.open_calls]
        said = said or [user(f"turn {turn} " + "u" * rng.randrange(400))]
        shown = conversation.prompt("system", said, room)
        assert is_valid(shown)
        if len(shown) > len(said) + 1:
            assert sum(size_of(message) for message in shown) <= room
        calls = [f"{turn}-{number}" for number in range(rng.choice([0, 0, 1, 3]))]
        conversation.add(said, assistant("a" * rng.randrange(300), *calls))
        again = Conversation(conversation.window)
        again.restore(conversation.to_plain())
        assert again.to_plain() == conversation.to_plain()


def test_the_window_forgets_the_oldest() -> None:
    conversation = Conversation(MemoryWindow(messages=4))
    for number in range(5):
        conversation.add([user(f"u{number}")], assistant(f"a{number}"))
    assert [message.content for message in conversation.prompt("s", [user("u5")], 10_000)] == [
        "s", "u3", "a3", "u4", "a4", "u5",
    ]  # fmt: skip


BROKEN: list[Any] = [
    None, 1, "x", [], {}, {"format": 2, "exchanges": []}, {"format": 1}, {"format": 1, "exchanges": [1]},
    {"format": 1, "exchanges": [{"said": [], "reply": {"role": "assistant", "content": "", "tool_calls": [],
                                                       "tool_call_id": None}}]},
    {"format": 1, "exchanges": [], "more": 1},
]  # fmt: skip


@pytest.mark.parametrize("data", BROKEN, ids=range(len(BROKEN)))
def test_what_is_no_conversation_is_refused(data: Any) -> None:
    with pytest.raises(ValueError):
        Conversation().restore(data)


def test_a_conversation_whose_results_answer_nothing_is_refused() -> None:
    conversation = Conversation()
    conversation.add([user("u")], assistant("a", "1"))
    conversation.add([result("1")], assistant("b"))
    data: Any = conversation.to_plain()
    data["exchanges"][1]["said"][0]["tool_call_id"] = "2"
    with pytest.raises(ValueError, match="do not answer the calls"):
        Conversation().restore(data)


class Stored:
    """Counts how often an agent has decided, and kept what was said."""

    def __init__(self, agent: LLMAgent) -> None:
        self.stored, self.changed = 0, asyncio.Event()
        decide = agent.decide

        async def counted(messages: list[Message], tasks: list[Task]) -> Sequence[Decision]:
            decisions = await decide(messages, tasks)
            self.stored += bool(messages)
            self.changed.set()
            return decisions

        agent.decide = counted  # type: ignore[method-assign]  # to see when it is over


@asynccontextmanager
async def running(agent: LLMAgent, store: Store) -> AsyncIterator[Any]:
    registry = LocalTransportRegistry()
    transport = LocalTransport(agent.id, registry)
    author = Identity.generate()
    sender = LocalTransport(author.fingerprint, registry)
    await sender.start()

    counter = Stored(agent)

    async def send(text: str) -> None:
        before = counter.stored
        await sender.send(Message(sender=author.fingerprint, recipient=agent.id, payload={"text": text}).sign(author))
        async with asyncio.timeout(PATIENCE_SEC):
            while counter.stored == before:
                counter.changed.clear()
                await counter.changed.wait()

    try:
        async with AgentRuntime(agent, transport, store=store):
            yield send
    finally:
        await sender.stop()


@pytest.mark.parametrize("kind", [Model, TextModel])
async def test_a_restart_keeps_the_conversation_and_what_was_spent(tmp_path: Path, me: Identity, kind: Any) -> None:
    budget = Budget(requests=3)
    with SQLiteStore(tmp_path / "x.db") as store:
        async with running(LLMAgent(me, kind("[]"), budget=budget), store) as send:
            await send("my name is Ada")
    with SQLiteStore(tmp_path / "x.db") as store:
        model = kind()
        agent = LLMAgent(me, model, budget=budget)
        async with running(agent, store) as send:
            await send("what is my name?")
        shown = [message if isinstance(message, dict) else {"content": message.content} for message in model.shown[0]]
        assert "my name is Ada" in shown[1]["content"]
        assert shown[2]["content"] == "[]"
        assert agent.spent.requests == 2


async def test_calls_that_a_restart_left_open_are_answered(me: Identity) -> None:
    store = MemoryStore()
    call = Reply("", (ToolCall("1", "JoinPool", {"pool_id": "p"}),), Usage(1, 1))
    async with running(LLMAgent(me, Model(call)), store) as send:
        await send("join")
    model = Model()
    async with running(LLMAgent(me, model), store) as send:
        await send("and?")
    assert is_valid(model.shown[0])
    assert "nothing is known about what became of this" in model.shown[0][-1].content
    assert "and?" in model.shown[0][-1].content


@pytest.mark.parametrize("stored", [1, {"x": 1}, {"conversation": {}, "spent": {}}, b"\x00", [1] * 100])
async def test_a_memory_that_is_damaged_is_a_fresh_start_and_counted(stored: Any, me: Identity) -> None:
    store = MemoryStore()
    store.put(f"conversation:{me.fingerprint}", stored)
    model = Model()
    agent = LLMAgent(me, model)
    async with running(agent, store) as send:
        await send("hello")
    assert agent.counts.values["memory_lost"] == 1
    assert len(model.shown[0]) == 2
    kept: Any = store.get(f"conversation:{me.fingerprint}")
    assert len(kept["conversation"]["exchanges"]) == 1


class Broken(MemoryStore):
    def put(self, key: str, value: Any) -> None:
        if key.startswith("conversation:"):
            raise OSError(28, "no space left on device")
        super().put(key, value)


async def test_a_store_that_is_full_costs_the_memory_and_no_decision(me: Identity) -> None:
    agent = LLMAgent(me, Model())
    async with running(agent, Broken()) as send:
        await send("hello")
        await send("hello again")
    assert agent.counts.values["memory_failures"] == 2
    assert agent.counts.values["decide_errors"] == 0


async def test_without_a_runtime_the_memory_is_the_objects(me: Identity) -> None:
    model = Model()
    agent = LLMAgent(me, model)
    await agent.decide([message_to(agent, "one")], [])
    await agent.decide([message_to(agent, "two")], [])
    assert [message.role for message in model.shown[1]] == ["system", "user", "assistant", "user"]
