"""The contract of executors fails for an executor with a mistake: each promise has its mutant."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
import pytest

from converge.core.agent import Outcome
from converge.core.decisions import ClaimTask, Decision, InvokeTool, JoinPool, SendMessage, SubmitTask
from converge.core.tools import ToolRegistry
from converge.policy.safety import ActionPolicy
from converge.runtime.executor import StandardExecutor
from converge.testing.executor import ExecutorContract
from converge.testing.executor.fixtures import Shout


class Sound:
    """Does what the standard executor does; subclasses make mistakes."""

    def __init__(self, *context: Any, **options: Any) -> None:
        self.inner = StandardExecutor(*context, **self.options(options))

    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        return options

    def outcomes(self, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        return outcomes

    async def execute(self, decisions: Iterable[Decision]) -> Sequence[Outcome]:
        return self.outcomes(await self.inner.execute(decisions))

    async def close(self) -> None:
        await self.inner.close()


class StopsAtTheFirstFailure(Sound):
    async def execute(self, decisions: Iterable[Decision]) -> Sequence[Outcome]:
        done: list[Outcome] = []
        for decision in decisions:
            done += await self.inner.execute([decision])
            if done[-1].status != "done":
                break
        return done


class LosesValues(Sound):
    def outcomes(self, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        return [attrs.evolve(outcome, value=None) for outcome in outcomes]


class ActsForAnother(Sound):
    def __init__(self, agent_id: str, *context: Any, **options: Any) -> None:
        super().__init__("other", *context, **options)


class SaysAllIsDone(Sound):
    def outcomes(self, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        return [Outcome(outcome.decision, "done", outcome.value) for outcome in outcomes]


class SaysItHasJoined(Sound):
    def outcomes(self, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        return [Outcome(one.decision, "done") if isinstance(one.decision, JoinPool) else one for one in outcomes]


class LatestFirst(Sound):
    async def execute(self, decisions: Iterable[Decision]) -> Sequence[Outcome]:
        return list(reversed(await self.inner.execute(list(decisions)[::-1])))


class SendsInItsOwnNameInstead(Sound):
    async def execute(self, decisions: Iterable[Decision]) -> Sequence[Outcome]:
        given = list(decisions)
        own = [SendMessage(one.message.evolve(sender="")) if isinstance(one, SendMessage) else one for one in given]
        done = await self.inner.execute(own)
        return [attrs.evolve(outcome, decision=decision) for outcome, decision in zip(done, given, strict=True)]


class RaisesForGarbage(Sound):
    async def execute(self, decisions: Iterable[Decision]) -> Sequence[Outcome]:
        given = list(decisions)
        if not all(isinstance(decision, Decision) for decision in given):
            raise TypeError("no decision")
        return await self.inner.execute(given)


class MakesOneUp(Sound):
    def outcomes(self, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        return outcomes or [Outcome(ClaimTask("t"), "done")]


class WantsAList(Sound):
    async def execute(self, decisions: Iterable[Decision]) -> Sequence[Outcome]:
        assert isinstance(decisions, list)
        return await self.inner.execute(decisions)


class Mixes(Sound):
    async def execute(self, decisions: Iterable[Decision]) -> Sequence[Outcome]:
        self.now = list(decisions)
        await asyncio.sleep(0.01)
        return await self.inner.execute(self.now)


class ClosesOnceOnly(Sound):
    closed = False

    async def close(self) -> None:
        assert not self.closed
        self.closed = True
        await super().close()


class ForgetsThePolicies(Sound):
    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        return options | {"safety_policy": None}


class _Trusting(ActionPolicy):
    inner: Any = None

    def is_allowed(self, name: str) -> bool:
        try:
            return bool(self.inner.is_allowed(name))
        except LookupError:
            return True


class TrustsAPolicyThatRaises(Sound):
    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        policy = _Trusting()
        object.__setattr__(policy, "inner", options["safety_policy"][1])
        return options | {"safety_policy": (None, policy)}


class HandlesOneClassOnly(Sound):
    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        handlers: Mapping[type, Any] = options["custom_handlers"]

        def exactly(decision: Any) -> object:
            if type(decision) not in handlers:
                raise LookupError("another class")
            return handlers[type(decision)](decision)

        return options | {"custom_handlers": dict.fromkeys(handlers, exactly)}


class NeverAwaits(Sound):
    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        def dropped(decision: Any) -> object:
            answer = options["custom_handlers"][Shout](decision)
            answer.close()
            return "a coroutine"

        return options | {"custom_handlers": {Shout: dropped}}


class BuiltInFirst(Sound):
    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in options.items() if key != "custom_handlers"}


class CallsARefusalAFailure(Sound):
    def outcomes(self, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        return [attrs.evolve(one, status="failed") if one.status == "refused" else one for one in outcomes]


class LetsItOut(Sound):
    def outcomes(self, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        for outcome in outcomes:
            if "SystemExit" in str(outcome.error):
                raise SystemExit(3)
        return outcomes


class HidesTheReason(Sound):
    def outcomes(self, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        return [attrs.evolve(one, error="it failed") if one.status == "failed" else one for one in outcomes]


class KnowsTheToolsOfTheStart(Sound):
    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        registry = ToolRegistry()
        for name in options["tool_registry"].list_names():
            registry.register(options["tool_registry"].get(name))
        return options | {"tool_registry": registry}


class CallsOnTheLoop(Sound):
    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        return options | {"tool_isolation": "inline"}


class IgnoresThatItIsCancelled(Sound):
    async def execute(self, decisions: Iterable[Decision]) -> Sequence[Outcome]:
        work = asyncio.ensure_future(self.inner.execute(decisions))
        while not work.done():
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:
                continue
        return work.result()


class HasOneKey(Sound):
    def outcomes(self, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        return [attrs.evolve(one, value="t:1:1") if isinstance(one.decision, InvokeTool) else one for one in outcomes]


class ForgetsTheTask(Sound):
    async def execute(self, decisions: Iterable[Decision]) -> Sequence[Outcome]:
        given = list(decisions)
        free = [attrs.evolve(one, task_id=None) if isinstance(one, InvokeTool) else one for one in given]
        done = await self.inner.execute(free)
        return [attrs.evolve(outcome, decision=decision) for outcome, decision in zip(done, given, strict=True)]


class SubmitsInSilence(Sound):
    def outcomes(self, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        return [one for one in outcomes if not isinstance(one.decision, SubmitTask)]


MISTAKES: list[tuple[type[Sound], str]] = [
    (LosesValues, "a_task_is_submitted_claimed_and_reported"),
    (SubmitsInSilence, "a_task_is_submitted_claimed_and_reported"),
    (StopsAtTheFirstFailure, "one_that_fails_does_not_stop_the_rest"),
    (SaysAllIsDone, "one_that_fails_does_not_stop_the_rest"),
    (ActsForAnother, "the_agent_claims_and_reports_in_its_own_name"),
    (SaysItHasJoined, "pools_are_created_joined_and_left"),
    (LatestFirst, "messages_are_sent_in_order_and_signed_by_the_agent"),
    (SendsInItsOwnNameInstead, "a_message_in_the_name_of_another_is_not_sent"),
    (SaysAllIsDone, "a_message_that_reaches_nobody_has_not_been_sent"),
    (SaysAllIsDone, "a_decision_that_nothing_carries_out_is_refused_with_the_reason"),
    (RaisesForGarbage, "what_is_no_decision_is_not_done_and_does_not_stop_the_rest"),
    (MakesOneUp, "without_decisions_there_is_nothing_to_do"),
    (WantsAList, "decisions_may_come_from_any_iterable"),
    (Mixes, "executions_at_the_same_time_do_not_mix"),
    (ClosesOnceOnly, "closing_twice_is_no_error_if_it_can_be_closed"),
    (ForgetsThePolicies, "what_the_policy_does_not_allow_is_refused_and_not_done"),
    (ForgetsThePolicies, "a_task_beyond_the_limits_is_refused"),
    (TrustsAPolicyThatRaises, "a_policy_that_raises_denies"),
    (HandlesOneClassOnly, "a_handler_carries_out_decisions_of_its_class_and_of_subclasses"),
    (NeverAwaits, "a_handler_may_be_async"),
    (BuiltInFirst, "a_handler_goes_before_what_is_built_in"),
    (CallsARefusalAFailure, "a_handler_may_refuse_and_its_reason_is_told"),
    (LetsItOut, "a_handler_that_raises_has_failed_whatever_it_raises"),
    (LosesValues, "what_a_tool_returns_is_the_value_of_its_outcome"),
    (HidesTheReason, "a_tool_that_raises_has_failed_and_the_text_says_what_it_raised"),
    (LetsItOut, "a_tool_that_ends_the_program_ends_only_its_call"),
    (SaysAllIsDone, "params_that_do_not_fit_have_failed"),
    (CallsARefusalAFailure, "a_tool_that_is_not_there_is_refused"),
    (KnowsTheToolsOfTheStart, "a_tool_that_is_registered_later_is_found"),
    (CallsOnTheLoop, "a_tool_that_blocks_does_not_hold_up_the_event_loop"),
    (Mixes, "calls_of_one_executor_at_the_same_time_get_each_its_own_outcome"),
    (IgnoresThatItIsCancelled, "an_execution_that_is_cancelled_ends_and_the_next_one_is_carried_out"),
    (HasOneKey, "each_call_has_a_key_of_its_own_within_the_attempt_at_its_task"),
    (ForgetsTheTask, "a_call_for_a_task_that_the_agent_does_not_hold_is_refused"),
]  # fmt: skip
FOUND = (AssertionError, TypeError, SystemExit, TimeoutError, ValueError)


class Impatient(ExecutorContract):
    patience = 1.0


@pytest.mark.parametrize(("executor", "test"), MISTAKES)
def test_a_mistake_is_found(executor: type[Sound], test: str) -> None:
    contract = Impatient() if executor is IgnoresThatItIsCancelled else ExecutorContract()
    with pytest.raises(FOUND):
        getattr(contract, f"test_{test}")(executor)


@pytest.mark.parametrize("test", sorted({test for _, test in MISTAKES}))
def test_a_sound_executor_passes_the_same_tests(test: str) -> None:
    getattr(ExecutorContract(), f"test_{test}")(Sound)


def test_each_test_of_the_contract_has_a_mutant() -> None:
    tests = {name.removeprefix("test_") for name in dir(ExecutorContract) if name.startswith("test_")}
    assert tests == {test for _, test in MISTAKES}
