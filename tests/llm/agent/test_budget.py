"""A budget that is used up stops the calls, and an agent goes on when it is not any more."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from converge.core.agent import Outcome
from converge.core.decisions import InvokeTool, JoinPool
from converge.core.identity import Identity
from converge.core.tools import tool
from converge.extensions.llm.agent import LLMAgent
from converge.extensions.llm.budget import Budget, Ledger, Spent
from converge.extensions.llm.chat import Reply, ToolCall, Usage
from converge.observability.metrics import MetricsCollector
from tests.llm.agent.conftest import FakeClock, Model, ask

JOIN = '[{"type": "JoinPool", "pool_id": "p"}]'


def agent(model: Model, clock: FakeClock, **limits: Any) -> LLMAgent:
    return LLMAgent(Identity.generate(), model, budget=Budget(**limits), clock=clock, corrections=0)


async def test_thirty_requests_a_minute_and_then_none_until_the_first_is_a_minute_old(clock: FakeClock) -> None:
    model = Model()
    one = agent(model, clock)
    for _ in range(40):
        await ask(one)
        clock.now += 1
    assert model.calls == 30
    assert str(one.exhausted) == "the budget of requests per minute is used up; the next call is possible in 21 s"
    clock.now += 21
    await ask(one)
    assert model.calls == 31
    assert one.exhausted is None


async def test_what_came_while_it_could_not_ask_is_shown_when_it_can(clock: FakeClock) -> None:
    model = Model("[]", JOIN)
    one = agent(model, clock, requests_per_minute=1)
    await ask(one, "first")
    assert await ask(one, "second") == []
    assert await ask(one, "third") == []
    clock.now += 60
    assert list(await one.decide([], [])) == [JoinPool("p")]
    assert "second" in model.shown[1][-1].content
    assert "third" in model.shown[1][-1].content
    assert model.calls == 2


async def test_it_says_once_that_it_stops_and_counts_each_time(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = MetricsCollector()
    one = LLMAgent(Identity.generate(), Model(), budget=Budget(requests=1), clock=clock, corrections=0, metrics=metrics)
    with caplog.at_level(logging.WARNING, "converge.extensions.llm"):
        for _ in range(4):
            await ask(one)
    assert [record.getMessage() for record in caplog.records] == [
        f"{one.id} does not ask its model: the budget of requests is used up"
    ]
    assert metrics.snapshot()["counters"]['converge_llm_budget_stops_total{budget="requests"}'] == 3


async def test_tokens_stop_it_and_bound_the_last_reply(clock: FakeClock) -> None:
    model = Model()  # each reply takes 110
    one = agent(model, clock, tokens=250)
    for _ in range(9):
        await ask(one)
    assert model.calls == 3
    assert [options["max_output_tokens"] for options in model.options] == [250, 140, 30]
    assert one.exhausted is not None
    assert one.exhausted.budget == "tokens"


async def test_money_stops_it(clock: FakeClock) -> None:
    model = Model()
    one = agent(model, clock, money=0.001, input_price=3.0, output_price=15.0)  # 0.00045 a call
    for _ in range(9):
        await ask(one)
    assert model.calls == 3
    assert one.spent.money == pytest.approx(0.00135)


async def test_a_window_that_is_over_begins_anew(clock: FakeClock) -> None:
    model = Model()
    one = agent(model, clock, requests=2, window_sec=3600)
    for _ in range(5):
        await ask(one)
    clock.now += 3600
    for _ in range(5):
        await ask(one)
    assert model.calls == 4


async def test_a_clock_set_back_does_not_keep_a_window_shut(clock: FakeClock) -> None:
    ledger = Ledger(Budget(requests=1, window_sec=60), clock)
    ledger.begin()
    clock.now -= 500
    assert ledger.exhausted() is None


async def test_a_call_that_may_have_been_billed_is_charged(clock: FakeClock) -> None:
    class RateLimited(Exception):
        retry_after = 7.0

    one = agent(Model(RateLimited(), TimeoutError()), clock)
    await ask(one)
    assert one.spent.input_tokens == 0
    clock.now += 8
    await ask(one)
    assert one.spent.input_tokens > 100
    assert one.spent.requests == 2


@tool
def again() -> str:
    """Something to call for ever."""
    return "again"


async def test_a_model_that_goes_on_calling_is_stopped_until_something_new_comes(clock: FakeClock) -> None:
    def call(_: object) -> Reply:
        return Reply("", (ToolCall("c", "again", {}),), Usage(1, 1))

    model = Model(*[call] * 100)
    one = LLMAgent(
        Identity.generate(),
        model,
        tools=[again],
        budget=Budget(requests_per_minute=None, calls_in_a_row=5),
        clock=clock,
    )
    decisions = await ask(one)
    for _ in range(20):
        one.outcomes = tuple(Outcome(decision, "done", "again") for decision in decisions)
        decisions = list(await one.decide([], [])) or decisions
    assert model.calls == 5
    assert one.exhausted is not None
    assert one.exhausted.budget == "calls in a row"
    assert await ask(one) == [InvokeTool("again")]
    assert model.calls == 6


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [
        ({"requests": 0}, "requests is 0; give a finite number above 0, or leave it out"),
        ({"tokens": True}, "tokens is True"),
        ({"money": float("nan")}, "money is nan"),
        ({"requests_per_minute": -1}, "requests_per_minute is -1"),
        ({"money": 1.0}, "nothing would cost any"),
        ({"input_price": float("inf")}, "input_price is inf"),
    ],
)
def test_a_budget_that_is_none_is_refused(limits: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Budget(**limits)


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"since": 0.0, "requests": -1},
        {"since": 0.0, "requests": "1"},
        {"since": float("nan")},
        {"since": 0.0, "money": float("inf")},
        {"since": 0.0, "more": 1},
    ],
)
def test_a_record_of_what_was_spent_that_is_none_is_refused(record: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Spent.from_plain(record)


def test_a_record_of_what_was_spent_comes_back() -> None:
    spent = Spent(1.5, 2, 3, 4, 0.5)
    assert Spent.from_plain(spent.to_plain()) == spent
