"""Policies that an executor asks, and handlers that it is given."""
# these are tests, shipped to authors
# the name of a test is its sentence

from __future__ import annotations

import asyncio
from typing import NoReturn

from converge.core.decisions import JoinPool, SubmitTask
from converge.core.task import Task
from converge.policy.safety import ActionPolicy, ResourceLimits
from converge.runtime.errors import Refused
from converge.testing.executor.fixtures import Bench, ExecutorFixtures, Shout, on_a_bench

__all__ = ["ExtendingContract"]


class _Loud(Shout):
    """A kind of it."""


class _Raising(ActionPolicy):
    def is_allowed(self, name: str) -> bool:
        raise LookupError(name)


class ExtendingContract(ExecutorFixtures):
    """A policy that does not say yes says no, and a handler is as good as what is built in."""

    @on_a_bench("takes_policies")
    async def test_what_the_policy_does_not_allow_is_refused_and_not_done(self, bench: Bench) -> None:
        policy = (None, ActionPolicy(["JoinPool"]))
        assert await bench.statuses(SubmitTask(Task(id="t")), safety_policy=policy) == ["refused"]
        assert bench.tasks.get_task("t") is None
        assert await bench.statuses(SubmitTask(Task(id="t")), safety_policy=(None, ActionPolicy([]))) == ["refused"]
        assert await bench.statuses(SubmitTask(Task(id="t")), safety_policy=(None, ActionPolicy())) == ["done"]

    @on_a_bench("takes_policies")
    async def test_a_policy_that_raises_denies(self, bench: Bench) -> None:
        assert await bench.statuses(SubmitTask(Task(id="t")), safety_policy=(None, _Raising())) == ["refused"]
        assert bench.tasks.get_task("t") is None

    @on_a_bench("takes_policies")
    async def test_a_task_beyond_the_limits_is_refused(self, bench: Bench) -> None:
        limits = ResourceLimits(max_cpu_tokens=1.0, max_memory_mb=100)
        tasks = [Task(id=f"t{number}", constraints={"memory_mb": number}) for number in (100, 101)]
        statuses = await bench.statuses(*map(SubmitTask, tasks), safety_policy=(limits, None))
        assert statuses == ["done", "refused"]

    @on_a_bench("takes_handlers")
    async def test_a_handler_carries_out_decisions_of_its_class_and_of_subclasses(self, bench: Bench) -> None:
        def shout(decision: Shout) -> str:
            return decision.text.upper()

        outcomes = await bench.outcomes(Shout("a"), _Loud("b"), custom_handlers={Shout: shout})
        assert [(outcome.status, outcome.value) for outcome in outcomes] == [("done", "A"), ("done", "B")]

    @on_a_bench("takes_handlers")
    async def test_a_handler_may_be_async(self, bench: Bench) -> None:
        async def shout(decision: Shout) -> str:
            await asyncio.sleep(0)
            return decision.text.upper()

        (outcome,) = await bench.outcomes(Shout("a"), custom_handlers={Shout: shout})
        assert outcome.value == "A"

    @on_a_bench("takes_handlers")
    async def test_a_handler_goes_before_what_is_built_in(self, bench: Bench) -> None:
        (outcome,) = await bench.outcomes(JoinPool("p"), custom_handlers={JoinPool: lambda decision: decision.pool_id})
        assert (outcome.status, outcome.value) == ("done", "p")

    @on_a_bench("takes_handlers")
    async def test_a_handler_may_refuse_and_its_reason_is_told(self, bench: Bench) -> None:
        def shout(decision: Shout) -> NoReturn:
            raise Refused("it is night")

        (outcome,) = await bench.outcomes(Shout("a"), custom_handlers={Shout: shout})
        assert (outcome.status, outcome.error) == ("refused", "it is night")

    @on_a_bench("takes_handlers")
    async def test_a_handler_that_raises_has_failed_whatever_it_raises(self, bench: Bench) -> None:
        for error in (LookupError("x"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()):

            def shout(decision: Shout, error: BaseException = error) -> NoReturn:
                raise error

            statuses = await bench.statuses(Shout(), SubmitTask(Task()), custom_handlers={Shout: shout})
            assert statuses == ["failed", "done"]
