"""Carrying out decisions: outcomes, policies, custom handlers, and what keeps one failure from the rest."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from attrs import frozen

from converge.coordination.pool_manager import PoolManager
from converge.coordination.task_manager import Claim, TaskManager
from converge.core.agent import Agent, Outcome
from converge.core.decisions import (
    AcceptProposal,
    ClaimTask,
    CreatePool,
    Decision,
    Delegate,
    InvokeTool,
    JoinPool,
    LeavePool,
    Propose,
    RejectProposal,
    ReportTask,
    RevokeDelegation,
    SendMessage,
    SubmitBid,
    SubmitTask,
    Vote,
)
from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.task import Task
from converge.core.tools import ToolRegistry
from converge.extensions.storage.memory import MemoryStore
from converge.network.network import AgentNetwork
from converge.network.transport.local import LocalTransport, LocalTransportRegistry
from converge.observability.metrics import MetricsCollector
from converge.observability.replay import ReplayLog
from converge.policy.safety import ActionPolicy, ResourceLimits
from converge.runtime.executor import Refused, StandardExecutor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from converge.core.store import Write


@frozen
class Shout(Decision):
    """A decision of an application's own."""

    text: str


@frozen
class LoudShout(Shout):
    """One that is a kind of it."""


class Silent(ValueError):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def executor(**options: Any) -> StandardExecutor:
    return StandardExecutor("me", None, TaskManager(), PoolManager(), votes_store={}, **options)


async def one(carrier: StandardExecutor, decision: Any) -> Outcome:
    (outcome,) = await carrier.execute([decision])
    return outcome


async def test_each_decision_has_its_outcome_in_order_and_a_failure_does_not_stop_the_rest() -> None:
    outcomes = await executor().execute(
        [
            CreatePool({"id": "p"}),
            JoinPool("p"),
            JoinPool("unknown"),
            SubmitTask(Task(id="t", pool_id="p")),
            ClaimTask("t"),
            ReportTask("t", 1),
            ReportTask("t", 2),
            Vote("v", "yes"),
            Vote("v", "no"),
            LeavePool("p"),
            ClaimTask("absent"),
        ]
    )
    assert [outcome.status for outcome in outcomes] == [
        "done", "done", "failed", "done", "done", "done", "failed", "done", "failed", "done", "refused",
    ]  # fmt: skip
    assert outcomes[3].value == "t"
    assert isinstance(outcomes[4].value, Claim)
    assert "UnknownPool" in str(outcomes[2].error)
    assert "the first vote counts" in str(outcomes[8].error)
    assert str(outcomes[10].error).startswith("task absent is not to be had: held, ended, unknown, of another pool")
    assert all((outcome.error is None) == (outcome.status == "done") for outcome in outcomes)


async def test_a_task_of_a_pool_i_am_not_in_is_refused() -> None:
    outcomes = await executor().execute(
        [CreatePool({"id": "p"}), SubmitTask(Task(id="t", pool_id="p")), ClaimTask("t")]
    )
    assert outcomes[2].status == "refused"


@pytest.mark.parametrize("garbage", [None, 5, "ClaimTask", SendMessage, object(), [], Exception("x")])
async def test_what_is_no_decision_is_refused_and_the_rest_is_done(garbage: Any) -> None:
    outcomes = await executor().execute([garbage, Vote("v", 1), garbage])
    assert [outcome.status for outcome in outcomes] == ["refused", "done", "refused"]
    assert outcomes[0].error == f"{type(garbage).__name__} is no Decision"


@pytest.mark.parametrize(
    ("decision", "reason"),
    [
        (SubmitBid("x", 1), "this executor has no auction 'x'; give it in bidding_protocols"),
        (Propose("s", 1), "this executor has no negotiations; give it a negotiation_protocol"),
        (AcceptProposal("s"), "this executor has no negotiations; give it a negotiation_protocol"),
        (RejectProposal("s"), "this executor has no negotiations; give it a negotiation_protocol"),
        (Delegate("b", ["x"]), "this executor has no delegations; give it a delegation_protocol"),
        (RevokeDelegation("d"), "this executor has no delegations; give it a delegation_protocol"),
        (Shout("x"), "nothing here carries out Shout; give the executor a handler in custom_handlers"),
        (ClaimTask("t"), "this executor has no task manager"),
        (JoinPool("p"), "this executor has no pool manager"),
        (Vote("v", 1), "this executor has no votes_store"),
        (SendMessage(Message(recipient="x")), "this executor has no network to send with"),
        (InvokeTool("hammer"), "there is no tool 'hammer'; there is none"),
    ],
)
async def test_without_the_part_it_needs_a_decision_is_refused_with_the_reason(decision: Decision, reason: str) -> None:
    assert await one(StandardExecutor("me"), decision) == Outcome(decision, "refused", error=reason)


# -- several messages under one signature


async def test_neighbouring_messages_share_a_signature_and_one_that_cannot_be_sent_is_the_only_one_that_is_not() -> (
    None
):
    me, you, registry = Identity.generate(), Identity.generate().fingerprint, LocalTransportRegistry()
    log = ReplayLog()
    async with LocalTransport(me.fingerprint, registry) as mine, LocalTransport(you, registry) as theirs:
        network = AgentNetwork(mine)
        network.register_agent(Agent(me))
        numbered = [SendMessage(Message(recipient=you, payload={"n": n})) for n in range(3)]
        foreign = SendMessage(Message(sender=you, recipient=you))
        absent = SendMessage(Message(recipient="absent"))
        formless: Any = SendMessage(None)  # type: ignore[arg-type]  # an agent may have put anything there
        carrier = StandardExecutor(me.fingerprint, network, replay_log=log)
        decisions = [numbered[0], foreign, numbered[1], absent, formless, numbered[2]]
        outcomes = await carrier.execute(decisions)
        came = [await theirs.receive(0) for _ in range(theirs.waiting)]
    assert [outcome.decision for outcome in outcomes] == decisions
    assert [outcome.status for outcome in outcomes] == ["done", "refused", "done", "failed", "failed", "done"]
    assert "sends in its own name only" in str(outcomes[1].error)
    assert "no agent of that id runs in this process" in str(outcomes[3].error)
    assert [message.payload["n"] for message in came] == [0, 1, 2]
    assert all(message.verify(me.public_key) for message in came)
    assert len({message.signature[:64] for message in came}) == 1
    assert len(log.events) == 3


async def test_messages_without_a_network_are_refused_whoever_they_are_from() -> None:
    decisions = [SendMessage(Message(sender=sender, recipient="x")) for sender in ("me", "", "me")]
    reason = "this executor has no network to send with"
    assert await StandardExecutor("me").execute(decisions) == [
        Outcome(decision, "refused", error=reason) for decision in decisions
    ]


async def test_messages_that_a_custom_handler_sends_come_to_it_one_by_one() -> None:
    sent: list[SendMessage] = []
    decisions = [SendMessage(Message(payload={"n": n})) for n in range(3)]
    outcomes = await executor(custom_handlers={SendMessage: sent.append}).execute(decisions)
    assert sent == decisions
    assert [outcome.status for outcome in outcomes] == ["done"] * 3


# -- several tasks in one commit


async def test_what_neighbouring_decisions_do_to_tasks_is_one_commit() -> None:
    class Counting(MemoryStore):
        commits = 0

        def compare_and_set_many(self, writes: Iterable[Write]) -> list[int | None]:
            self.commits += 1
            return super().compare_and_set_many(writes)

    store = Counting()
    tasks = TaskManager(store)
    tasks.submit_many([Task(id="mine"), Task(id="next")])
    tasks.claim("me", "mine")
    store.commits = 0
    decisions = [ReportTask("mine", 1), *(SubmitTask(Task(id=f"t{n}")) for n in range(9)), ClaimTask("next")]
    outcomes = await StandardExecutor("me", None, tasks).execute(decisions)
    assert [outcome.status for outcome in outcomes] == ["done"] * 11
    assert [outcome.value for outcome in outcomes[:10]] == [None, *(f"t{n}" for n in range(9))]
    assert store.commits == 1
    assert [task.id for task in tasks.list_held_tasks("me")] == ["next"]


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (Task(id="known", objective="another"), "TaskConflict"),
        (Task(id="x", inputs={"o": object()}), "TypeError"),  # type: ignore[dict-item]  # not plain
        (None, "TypeError: a Task is submitted, not NoneType"),
        (5, "TypeError: a Task is submitted, not int"),
    ],
)
async def test_a_task_that_cannot_be_submitted_fails_alone(bad: Any, error: str) -> None:
    tasks = TaskManager()
    tasks.submit(Task(id="known"))
    decisions = [SubmitTask(Task(id="a")), SubmitTask(bad), SubmitTask(Task(id="b"))]
    outcomes = await StandardExecutor("me", None, tasks).execute(decisions)
    assert [outcome.status for outcome in outcomes] == ["done", "failed", "done"]
    assert str(outcomes[1].error).startswith(error)
    assert {task.id for task in tasks.list_pending_tasks()} == {"known", "a", "b"}


async def test_a_refused_task_among_others_is_the_only_one_refused() -> None:
    tasks = TaskManager()
    carrier = StandardExecutor("me", None, tasks, safety_policy=(ResourceLimits(max_cpu_tokens=1), None))
    greedy = SubmitTask(Task(id="greedy", constraints={"cpu": 2}))
    outcomes = await carrier.execute([SubmitTask(Task(id="a")), greedy, SubmitTask(Task(id="b"))])
    assert [outcome.status for outcome in outcomes] == ["done", "refused", "done"]
    assert "cpu 2" in str(outcomes[1].error)
    assert tasks.get_task("greedy") is None


# -- policies


async def test_an_action_policy_allows_what_it_names_and_nothing_else() -> None:
    carrier = executor(safety_policy=(None, ActionPolicy(["Vote"])))
    outcomes = await carrier.execute([Vote("v", 1), JoinPool("p"), InvokeTool("t"), SubmitTask(Task())])
    assert [outcome.status for outcome in outcomes] == ["done", "refused", "refused", "refused"]
    assert outcomes[1].error == "the action policy does not allow JoinPool"


async def test_an_empty_action_policy_allows_nothing_and_none_allows_all() -> None:
    assert (await one(executor(safety_policy=(None, ActionPolicy([]))), Vote("v", 1))).status == "refused"
    assert (await one(executor(safety_policy=(None, ActionPolicy(None))), Vote("v", 1))).status == "done"
    assert (await one(executor(safety_policy=(None, None)), Vote("v", 1))).status == "done"


async def test_a_decision_that_calls_itself_by_an_allowed_name_is_judged_by_what_carries_it_out() -> None:
    disguised = type("Vote", (InvokeTool,), {})("hammer")
    honest = type("Ballot", (Vote,), {})("v", 1)
    outcomes = await executor(safety_policy=(None, ActionPolicy(["Vote"]))).execute([disguised, honest])
    assert [outcome.status for outcome in outcomes] == ["refused", "done"]
    assert outcomes[0].error == "the action policy does not allow InvokeTool"


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(1), KeyboardInterrupt(), Silent()])
async def test_a_policy_that_raises_denies(error: BaseException) -> None:
    class Broken(ActionPolicy):
        def is_allowed(self, name: str) -> bool:
            raise error

    outcomes = await executor(safety_policy=(None, Broken())).execute([Vote("v", 1), InvokeTool("t")])
    assert [outcome.status for outcome in outcomes] == ["refused", "refused"]
    assert "the safety policy failed" in str(outcomes[0].error)


async def test_a_policy_that_answers_with_anything_but_true_denies() -> None:
    async def eventually() -> bool:
        return True

    for answer in (eventually, lambda: "yes", lambda: 1, lambda: None, lambda: False):

        class Odd(ActionPolicy):
            def is_allowed(self, name: str, answer: Any = answer) -> Any:
                return answer()

        assert (await one(executor(safety_policy=(None, Odd())), Vote("v", 1))).status == "refused"


@pytest.mark.parametrize("asked", [2, float("nan"), float("inf"), -1, "1", None, True])
async def test_tasks_beyond_the_limits_or_of_no_amount_are_neither_submitted_nor_claimed(asked: Any) -> None:
    tasks = TaskManager()
    carrier = StandardExecutor("me", None, tasks, safety_policy=(ResourceLimits(1.0, 512), None))
    assert (await one(carrier, SubmitTask(Task(id="t", constraints={"cpu": asked})))).status == "refused"
    assert tasks.get_task("t") is None


async def test_a_task_of_others_beyond_my_limits_is_not_claimed() -> None:
    tasks = TaskManager()
    tasks.submit_many(
        [Task(id="big", constraints={"memory_mb": 513}), Task(id="small", constraints={"memory_mb": 512})]
    )
    carrier = StandardExecutor("me", None, tasks, safety_policy=(ResourceLimits(1.0, 512), None))
    outcomes = await carrier.execute([ClaimTask("big"), ClaimTask("small"), Vote("v", 1)])
    assert [outcome.status for outcome in outcomes] == ["refused", "done", "refused"]


async def test_limits_without_a_task_manager_refuse_with_the_real_reason() -> None:
    carrier = StandardExecutor("me", safety_policy=(ResourceLimits(), None))
    assert (await one(carrier, ClaimTask("t"))).error == "this executor has no task manager"


# -- handlers of an application's own


async def test_custom_handlers_may_be_plain_or_async_take_subclasses_and_go_before_the_built_in_ones() -> None:
    async def slowly(decision: Shout) -> str:
        await asyncio.sleep(0)
        return decision.text.upper()

    carrier = executor(custom_handlers={Shout: slowly, Vote: lambda decision: f"not counted: {decision.option}"})
    outcomes = await carrier.execute([Shout("a"), LoudShout("b"), Vote("v", 1)])
    assert [(outcome.status, outcome.value) for outcome in outcomes] == [
        ("done", "A"),
        ("done", "B"),
        ("done", "not counted: 1"),
    ]


async def test_a_handler_of_a_subclass_goes_before_that_of_its_base_and_gives_it_its_name() -> None:
    handlers = {Shout: lambda decision: "base", LoudShout: lambda decision: "own"}
    carrier = executor(custom_handlers=handlers, safety_policy=(None, ActionPolicy(["LoudShout"])))
    outcomes = await carrier.execute([LoudShout("x"), Shout("x")])
    assert [(outcome.status, outcome.value) for outcome in outcomes] == [("done", "own"), ("refused", None)]


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (Refused("not on sundays"), "refused", "not on sundays"),
        (ValueError("x"), "failed", "ValueError: x"),
        (KeyError(), "failed", "KeyError"),
        (Silent(), "failed", "Silent: an error without a text"),
        (SystemExit(3), "failed", "CallFailed: it raised SystemExit: 3"),
        (KeyboardInterrupt(), "failed", "CallFailed: it raised KeyboardInterrupt"),
        (asyncio.CancelledError(), "failed", "CallFailed: it raised CancelledError"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_handler_that_raises_is_an_outcome_and_the_rest_is_done(
    error: BaseException, status: str, text: str, is_async: bool
) -> None:
    def plain(decision: Shout) -> None:
        raise error

    async def slow(decision: Shout) -> None:
        raise error

    carrier = executor(custom_handlers={Shout: slow if is_async else plain})
    outcomes = await carrier.execute([Shout("x"), Vote("v", 1)])
    assert (outcomes[0].status, outcomes[0].error) == (status, text)
    assert outcomes[1].status == "done"


async def test_cancelling_the_execution_is_not_taken_for_a_failing_handler() -> None:
    inside = asyncio.Event()

    async def hang(decision: Shout) -> None:
        inside.set()
        await asyncio.Event().wait()

    job = asyncio.create_task(executor(custom_handlers={Shout: hang}).execute([Shout("x")]))
    await inside.wait()
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job


async def test_outcomes_are_counted() -> None:
    metrics = MetricsCollector()
    await executor(metrics_collector=metrics).execute([Vote("v", 1), Vote("v", 2), Shout("x"), Vote("w", 1)])
    assert metrics.snapshot()["counters"] == {
        "converge_decisions_done_total": 2.0,
        "converge_decisions_failed_total": 1.0,
        "converge_decisions_refused_total": 1.0,
    }


async def test_a_message_that_reaches_nobody_is_a_failed_outcome_and_a_wrong_one_too() -> None:
    async with LocalTransport("me", LocalTransportRegistry()) as transport:
        carrier = StandardExecutor("me", AgentNetwork(transport))
        outcomes = await carrier.execute([SendMessage(Message(recipient="nobody")), SendMessage(None)])  # type: ignore[arg-type]  # wrong
    assert [outcome.status for outcome in outcomes] == ["failed", "failed"]
    assert str(outcomes[0].error).startswith("Undeliverable: ")


async def test_a_lone_str_is_no_allow_list() -> None:
    with pytest.raises(TypeError, match=r"write \['search_web'\]"):
        StandardExecutor("me", tool_registry=ToolRegistry(), tool_allowlist="search_web")
