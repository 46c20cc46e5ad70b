"""Whatever a model replies, `decide` raises nothing and returns nothing outside of what is allowed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from converge.core.decisions import JoinPool
from converge.core.identity import Identity
from converge.extensions.llm.agent import LLMAgent
from converge.extensions.llm.budget import Budget
from converge.extensions.llm.chat import Reply, ToolCall, Usage
from tests.llm.agent.conftest import Leaping, Model, TextModel, ask
from tests.llm.agent.corpus import JOIN, WHOLE, no_text, raised, unusable

FREE = Budget(requests_per_minute=None)


def agent(provider: Any, **options: Any) -> LLMAgent:
    return LLMAgent(Identity.generate(), provider, budget=FREE, corrections=0, clock=Leaping(), **options)


def test_the_corpus_is_large_enough() -> None:
    assert len(unusable()) + len(raised()) >= 200


async def test_no_reply_of_the_corpus_leads_to_a_decision_or_an_exception_in_text() -> None:
    replies = unusable()
    one = agent(TextModel(*replies))
    for reply in replies:
        assert await ask(one) == [], repr(reply)[:200]
    counts = one.counts.values
    assert counts["requests"] == len(replies)
    usable_but_empty = {"[]]", '"[]"'}  # an empty array with something around it
    seen = counts["refused"] + counts["failures"]
    assert seen >= len(replies) - len(usable_but_empty)


async def test_nor_with_function_calls() -> None:
    replies = [reply if isinstance(reply, str) else Reply(reply) for reply in unusable()]
    one = agent(Model(*replies, *no_text()))
    for reply in [*replies, *no_text()]:
        assert await ask(one) == [], repr(reply)[:200]
    assert one.counts.values["decide_errors"] == 0


@pytest.mark.parametrize("kind", [Model, TextModel])
async def test_whatever_a_provider_raises_is_counted_and_goes_no_further(kind: Any) -> None:
    errors = raised()
    one = agent(kind(*errors))
    for _ in errors:
        assert await ask(one) == []
    assert one.counts.values["failures"] == len(errors)
    assert one.counts.values["decide_errors"] == 0


@pytest.mark.parametrize("kind", [Model, TextModel])
async def test_a_provider_that_hangs_is_given_up(kind: Any) -> None:
    def hang(_: Any) -> Any:
        import time

        return asyncio.sleep(120) if kind is Model else time.sleep(5)

    one = agent(kind(hang), timeout_sec=0.05)
    loop = asyncio.get_running_loop()
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0)

    beating = loop.create_task(beat())
    assert await ask(one) == []
    beating.cancel()
    assert beats > 1, "the loop went on"
    assert one.counts.values["failures:timeout"] == 1


async def test_of_fifty_thousand_decisions_32_are_taken() -> None:
    many = json.dumps([JOIN] * 5_000)
    one = agent(TextModel(many, json.dumps([JOIN] * 50_000)))
    assert await ask(one) == [JoinPool("p")] * 32
    assert one.counts.values["refused:too_many"] == 1
    assert await ask(one) == [], "more than 256 KiB is not read at all"
    assert one.counts.values["bad_replies:too_long"] == 1


async def test_of_fifty_thousand_calls_32_are_taken_and_answered() -> None:
    calls = tuple(ToolCall("same", "JoinPool", {"pool_id": "p"}) for _ in range(50_000))
    model = Model(Reply("", calls, Usage(1, 1), finish="tool_calls"))
    one = agent(model)
    assert await ask(one) == [JoinPool("p")] * 32
    await ask(one)
    said = [message for message in model.shown[-1] if message.role == "tool"]
    assistant = next(message for message in model.shown[-1] if message.role == "assistant")
    assert len(said) == len(assistant.tool_calls) == 32
    assert [message.tool_call_id for message in said] == [call.id for call in assistant.tool_calls]
    assert len({call.id for call in assistant.tool_calls}) == 32


HOSTILE_CALLS: list[Any] = [
    ToolCall("a", "JoinPool", None, "{"),
    ToolCall("a", "JoinPool", {"pool_id": float("nan")}),
    ToolCall("a", "ReportTask", {"task_id": "t", "result": float("inf")}),
    ToolCall("a", "ReportTask", {"task_id": "t", "result": {1: 2}}),
    ToolCall("a", "ReportTask", {"task_id": "t", "result": object()}),
    ToolCall("a", "ReportTask", {"task_id": "t", "result": 2**70}),
    ToolCall("a", "ReportTask", {"task_id": "t", "result": "x" * 100_000}),
    ToolCall("", "JoinPool", {}),
    ToolCall("a", "rm", {"path": "/"}),
    ToolCall("a", "", {}),
    ToolCall("a", "CreatePool", {"spec": {"id": "p"}}),
    ToolCall("a", "JoinPool", {"pool_id": "\ud800"}),
    ToolCall(None, "JoinPool", {"pool_id": []}),  # type: ignore[arg-type]  # providers are code of others
    ToolCall("a", None, {"pool_id": "p"}),  # type: ignore[arg-type]  # as above
    ToolCall("a", "JoinPool", [JOIN]),  # type: ignore[arg-type]  # as above
]


@pytest.mark.parametrize("call", HOSTILE_CALLS, ids=range(len(HOSTILE_CALLS)))
async def test_a_bad_call_is_refused_and_answered(call: ToolCall) -> None:
    model = Model(Reply("", (call,), Usage(1, 1)))
    one = agent(model)
    assert await ask(one) == []
    assert one.counts.values["refused"] == 1
    assert await ask(one) == []
    last = [message for message in model.shown[-1] if message.role == "tool"]
    assert len(last) == 1
    assert '"kind":"not_done"' in last[0].content
    assert one.counts.values["decide_errors"] == 0


@pytest.mark.parametrize(
    "given",
    [
        Reply("[]", usage=Usage(-1, 5)),
        Reply("[]", usage=None),  # type: ignore[arg-type]  # providers are code of others
        Reply("[]", usage=Usage(2**80, 1)),
        Reply("[]", tool_calls=[1]),  # type: ignore[arg-type]  # as above
        Reply("[]", tool_calls=None),  # type: ignore[arg-type]  # as above
        Reply("[]", model=None, finish=None),  # type: ignore[arg-type]  # as above
    ],
)
async def test_a_reply_of_wrong_fields_costs_nothing_but_itself(given: Reply) -> None:
    one = agent(Model(given))
    assert await ask(one) == []
    assert one.spent.input_tokens >= 0
    assert one.counts.values["decide_errors"] == 0


def nested_forever() -> dict[str, Any]:
    deep: dict[str, Any] = {}
    at = deep
    for _ in range(100_000):
        at["a"] = {}
        at = at["a"]
    return deep


async def test_arguments_nested_without_end_are_refused() -> None:
    call = ToolCall("a", "ReportTask", {"task_id": "t", "result": nested_forever()})
    one = agent(Model(Reply("", (call,), Usage(1, 1))))
    assert await ask(one) == []
    assert one.counts.values["refused"] == 1


async def test_the_whole_text_that_was_truncated_is_good() -> None:
    one = agent(TextModel(WHOLE))
    assert len(await ask(one)) == 1, "or the truncated ones would prove nothing"
