"""Tools that an executor calls."""
# these are tests, shipped to authors
# the name of a test is its sentence

from __future__ import annotations

import asyncio

import pytest

from converge.core.decisions import ClaimTask, InvokeTool, JoinPool, SubmitTask
from converge.core.task import Task
from converge.core.tools import ToolRegistry
from converge.testing.executor.fixtures import Bench, ExecutorFixtures, on_a_bench
from converge.testing.executor.toolbox import add, toolbox

__all__ = ["InvokingContract"]

_ADD = InvokeTool("add", {"a": 1, "b": 2})


class InvokingContract(ExecutorFixtures):
    """What a tool returns or raises is its outcome, and it holds up nobody."""

    @on_a_bench("runs_tools")
    async def test_what_a_tool_returns_is_the_value_of_its_outcome(self, bench: Bench) -> None:
        outcomes = await bench.outcomes(_ADD, InvokeTool("add_async", {"a": 3, "b": 4}), tool_registry=toolbox())
        assert [(outcome.status, outcome.value) for outcome in outcomes] == [("done", 3), ("done", 7)]

    @on_a_bench("runs_tools")
    async def test_a_tool_that_raises_has_failed_and_the_text_says_what_it_raised(self, bench: Bench) -> None:
        failed, done = await bench.outcomes(
            InvokeTool("raises", {"text": "nothing here"}), _ADD, tool_registry=toolbox()
        )
        assert (failed.status, done.value) == ("failed", 3)
        assert "LookupError" in str(failed.error)
        assert "nothing here" in str(failed.error)

    @on_a_bench("runs_tools")
    async def test_a_tool_that_ends_the_program_ends_only_its_call(self, bench: Bench) -> None:
        statuses = await bench.statuses(InvokeTool("exits", {"code": 3}), _ADD, tool_registry=toolbox())
        assert statuses == ["failed", "done"]

    @on_a_bench("runs_tools")
    async def test_params_that_do_not_fit_have_failed(self, bench: Bench) -> None:
        wrong = [
            InvokeTool("add", {}),
            InvokeTool("add", {"a": "1", "b": 2}),
            InvokeTool("add", {"a": 1, "b": 2, "c": 3}),
        ]
        assert await bench.statuses(*wrong, _ADD, tool_registry=toolbox()) == ["failed"] * 3 + ["done"]

    @on_a_bench("runs_tools")
    async def test_a_tool_that_is_not_there_is_refused(self, bench: Bench) -> None:
        assert await bench.statuses(InvokeTool("hammer"), _ADD, tool_registry=toolbox()) == ["refused", "done"]
        assert await bench.statuses(_ADD) == ["refused"]

    @on_a_bench("runs_tools")
    async def test_a_tool_that_is_registered_later_is_found(self, bench: Bench) -> None:
        registry = ToolRegistry()
        executor = bench.executor(tool_registry=registry)
        registry.register(add)
        (outcome,) = await bench.carried_out(executor, _ADD)
        assert outcome.value == 3

    @on_a_bench("runs_tools")
    async def test_a_tool_that_blocks_does_not_hold_up_the_event_loop(self, bench: Bench) -> None:
        executor, turns = bench.executor(tool_registry=toolbox()), 0
        call = asyncio.create_task(bench.carried_out(executor, InvokeTool("sleeps", {"seconds": 0.3})))
        while not call.done():
            await asyncio.sleep(0.001)
            turns += 1
        assert (await call)[0].value == 0.3
        assert turns > 10, "the loop has hardly turned while the tool slept"

    @on_a_bench("runs_tools")
    async def test_calls_of_one_executor_at_the_same_time_get_each_its_own_outcome(self, bench: Bench) -> None:
        executor = bench.executor(tool_registry=toolbox())
        calls = [bench.carried_out(executor, InvokeTool("add", {"a": number, "b": 1})) for number in range(8)]
        assert [outcomes[0].value for outcomes in await asyncio.gather(*calls)] == [*range(1, 9)]

    @on_a_bench("runs_tools")
    async def test_an_execution_that_is_cancelled_ends_and_the_next_one_is_carried_out(self, bench: Bench) -> None:
        executor = bench.executor(tool_registry=toolbox())
        task = asyncio.create_task(bench.carried_out(executor, InvokeTool("sleeps", {"seconds": 2 * self.patience})))
        await asyncio.sleep(0.05)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=self.patience)
        assert done, "the execution goes on although it was cancelled"
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await bench.carried_out(executor, _ADD))[0].value == 3

    @on_a_bench("runs_tools")
    async def test_each_call_has_a_key_of_its_own_within_the_attempt_at_its_task(self, bench: Bench) -> None:
        task, call = Task(id="t"), InvokeTool("key", task_id="t")
        outcomes = await bench.outcomes(SubmitTask(task), ClaimTask("t"), call, call, tool_registry=toolbox())
        assert [outcome.value for outcome in outcomes[2:]] == ["t:1:1", "t:1:2"]

    @on_a_bench("runs_tools")
    async def test_a_call_for_a_task_that_the_agent_does_not_hold_is_refused(self, bench: Bench) -> None:
        decisions = (SubmitTask(Task(id="t")), InvokeTool("key", task_id="t"), JoinPool("none"))
        assert (await bench.statuses(*decisions, tool_registry=toolbox()))[1] == "refused"
