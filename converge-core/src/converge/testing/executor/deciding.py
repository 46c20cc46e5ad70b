"""Decisions that an executor carries out, and those it does not."""
# these are tests, shipped to authors
# the name of a test is its sentence

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING

from converge.core.decisions import (
    ClaimTask,
    CreatePool,
    Decision,
    JoinPool,
    LeavePool,
    ReportTask,
    SendMessage,
    SubmitTask,
)
from converge.core.message import Message
from converge.core.task import Task, TaskState
from converge.testing.executor.fixtures import Bench, ExecutorFixtures, Shout, on_a_bench

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DecidingContract"]


class DecidingContract(ExecutorFixtures):
    """There is an outcome for each decision, in order, and one that fails does not stop the rest."""

    @on_a_bench()
    async def test_a_task_is_submitted_claimed_and_reported(self, bench: Bench) -> None:
        submitted, claimed, reported = await bench.outcomes(
            SubmitTask(Task(id="t")), ClaimTask("t"), ReportTask("t", {"sum": 3})
        )
        assert (submitted.status, submitted.value) == ("done", "t")
        assert (claimed.status, reported.status) == ("done", "done")
        assert claimed.value, "the outcome of a claim has the claim"
        task = bench.tasks.get_task("t")
        assert task is not None
        assert (task.state, task.result) == (TaskState.COMPLETED, {"sum": 3})

    @on_a_bench()
    async def test_one_that_fails_does_not_stop_the_rest(self, bench: Bench) -> None:
        statuses = await bench.statuses(
            SubmitTask(Task(id="t")), ReportTask("t", 1), ClaimTask("unknown"), ClaimTask("t"), ReportTask("t", 2)
        )
        assert [status == "done" for status in statuses] == [True, False, False, True, True]
        task = bench.tasks.get_task("t")
        assert task is not None
        assert task.result == 2

    @on_a_bench()
    async def test_the_agent_claims_and_reports_in_its_own_name(self, bench: Bench) -> None:
        bench.tasks.submit(Task(id="mine"))
        bench.tasks.submit(Task(id="theirs"))
        assert bench.tasks.claim(bench.peer.id, "theirs")
        statuses = await bench.statuses(ClaimTask("mine"), ClaimTask("theirs"), ReportTask("theirs", 1))
        assert [status == "done" for status in statuses] == [True, False, False]
        task = bench.tasks.get_task("mine")
        assert task is not None
        assert task.assigned_to == bench.agent.id

    @on_a_bench()
    async def test_pools_are_created_joined_and_left(self, bench: Bench) -> None:
        closed = {"id": "closed", "admission_policy": {"use": "whitelist", "agents": []}}
        decisions: list[Decision] = [
            CreatePool({"id": "p"}), JoinPool("p"), CreatePool(closed), JoinPool("closed"), JoinPool("none"),
        ]  # fmt: skip
        statuses = await bench.statuses(*decisions)
        assert [status == "done" for status in statuses] == [True, True, True, False, False]
        assert bench.pools.get_pools_for_agent(bench.agent.id) == ["p"]
        assert await bench.statuses(LeavePool("p")) == ["done"]
        assert bench.pools.get_pools_for_agent(bench.agent.id) == []

    @on_a_bench()
    async def test_messages_are_sent_in_order_and_signed_by_the_agent(self, bench: Bench) -> None:
        messages = [Message(recipient=bench.peer.id, payload={"n": number}) for number in range(3)]
        assert await bench.statuses(*map(SendMessage, messages)) == ["done"] * 3
        for number in range(3):
            heard = await bench.hearing.receive_verified(timeout=self.patience)
            assert heard is not None, "the message was not signed"
            assert (heard.sender, heard.payload) == (bench.agent.id, {"n": number})

    @on_a_bench()
    async def test_a_message_in_the_name_of_another_is_not_sent(self, bench: Bench) -> None:
        forged = Message(recipient=bench.peer.id, sender=bench.peer.id)
        honest = Message(recipient=bench.peer.id, payload={"n": 1})
        statuses = await bench.statuses(SendMessage(forged), SendMessage(honest))
        assert [status == "done" for status in statuses] == [False, True]
        assert (await bench.hearing.receive(self.patience)).payload == {"n": 1}

    @on_a_bench()
    async def test_a_message_that_reaches_nobody_has_not_been_sent(self, bench: Bench) -> None:
        statuses = await bench.statuses(SendMessage(Message(recipient="nobody")), SubmitTask(Task()))
        assert statuses == ["failed", "done"]

    @on_a_bench()
    async def test_a_decision_that_nothing_carries_out_is_refused_with_the_reason(self, bench: Bench) -> None:
        refused, done = await bench.outcomes(Shout("x"), SubmitTask(Task()))
        assert (refused.status, done.status) == ("refused", "done")
        assert "Shout" in str(refused.error)

    @on_a_bench()
    async def test_what_is_no_decision_is_not_done_and_does_not_stop_the_rest(self, bench: Bench) -> None:
        for garbage in (None, 5, "ClaimTask", ClaimTask, object(), []):
            statuses = await bench.statuses(garbage, SubmitTask(Task()), garbage)
            assert [status == "done" for status in statuses] == [False, True, False]

    @on_a_bench()
    async def test_without_decisions_there_is_nothing_to_do(self, bench: Bench) -> None:
        assert await bench.outcomes() == []

    @on_a_bench()
    async def test_decisions_may_come_from_any_iterable(self, bench: Bench) -> None:
        executor = bench.executor()
        outcomes = await executor.execute(SubmitTask(Task(id=name)) for name in "ab")
        assert [outcome.value for outcome in outcomes or ()] == ["a", "b"]

    @on_a_bench()
    async def test_executions_at_the_same_time_do_not_mix(self, bench: Bench) -> None:
        executor = bench.executor()
        ids = [f"t{number}" for number in range(8)]
        found = await asyncio.gather(*(bench.carried_out(executor, SubmitTask(Task(id=each))) for each in ids))
        assert [outcomes[0].value for outcomes in found] == ids

    @on_a_bench()
    async def test_closing_twice_is_no_error_if_it_can_be_closed(self, bench: Bench) -> None:
        executor = bench.executor()
        await bench.carried_out(executor, SubmitTask(Task()))
        close: Callable[[], object] = getattr(executor, "close", lambda: None)
        for _ in range(2):
            closed = close()
            if inspect.isawaitable(closed):
                await closed
