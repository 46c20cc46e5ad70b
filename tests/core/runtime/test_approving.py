"""Decisions that a person has to allow, in a runtime: they wait, are answered, and are carried out once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from converge.coordination.approval_record import ApprovalState
from converge.coordination.approvals import Approvals
from converge.coordination.task_manager import TaskManager
from converge.core.agent import Outcome
from converge.core.decisions import ClaimTask, Decision, InvokeTool, SendMessage, SubmitTask
from converge.core.message import Message
from converge.core.task import Task
from converge.core.tools import ToolRegistry, tool
from converge.extensions.storage.memory import MemoryStore
from converge.extensions.storage.sqlite import SQLiteStore
from converge.policy.approval import ApprovalPolicy
from converge.policy.errors import PolicyOptionError
from converge.policy.safety import ActionPolicy
from converge.runtime.loop import AgentRuntime
from tests.core.runtime.conftest import PATIENCE_SEC, Scripted, World, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from converge.core.store import Store

WIRE = InvokeTool("wire", {"euros": 10})


class Bank:
    """Tools that note their calls."""

    def __init__(self) -> None:
        self.wired: list[int] = []
        self.tools = ToolRegistry()

        @tool
        async def wire(euros: int) -> int:
            self.wired.append(euros)
            return euros

        @tool
        async def hang() -> None:
            self.wired.append(0)
            await asyncio.Event().wait()

        self.tools.register(wire)
        self.tools.register(hang)


@pytest.fixture
def bank() -> Bank:
    return Bank()


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "run.db") as store:
        yield store


def options(store: Store, bank: Bank, *needed_for: str, **more: Any) -> dict[str, Any]:
    policy = ApprovalPolicy(needed_for or ["InvokeTool:wire"], more.pop("timeout_sec", 3600.0))
    return {
        "task_manager": TaskManager(store),
        "tool_registry": bank.tools,
        "approvals": Approvals(store),
        "approval_policy": policy,
        **more,
    }


async def asked(agent: Scripted, store: Store) -> str:
    """The id under which the first decision of the agent waits."""
    await until(lambda: len(agent.outcomes) == 1 and agent.outcomes[0].status == "waiting")
    (record,) = Approvals(store).waiting()
    assert agent.outcomes[0].value == record.id
    return record.id


async def last_outcome(agent: Scripted, calls: int = 2) -> Outcome:
    await agent.called(calls)
    (outcome,) = agent.shown[calls - 1][2][-1:]
    return outcome


async def test_what_a_person_allows_is_carried_out_and_the_agent_sees_it(
    store: Store, world: World, bank: Bank
) -> None:
    agent = Scripted([WIRE])
    await world.started(agent, **options(store, bank))
    approval_id = await asked(agent, store)
    assert (bank.wired, agent.calls) == ([], 1), "nothing is done, and waiting calls decide no second time"
    Approvals(store).approve(approval_id, by="carol")
    outcome = await last_outcome(agent)
    assert (outcome.decision, outcome.status, outcome.value, bank.wired) == (WIRE, "done", 10, [10])
    record = Approvals(store).get(approval_id)
    assert record is not None
    assert (record.standing, record.outcome) == (ApprovalState.DONE, "done")
    assert world.counted("converge_decisions_waiting_total") == 1


async def test_what_is_denied_is_refused_with_the_reason(store: Store, world: World, bank: Bank) -> None:
    agent = Scripted([WIRE])
    await world.started(agent, **options(store, bank))
    Approvals(store).deny(await asked(agent, store), by="carol", reason="not today")
    outcome = await last_outcome(agent)
    assert (outcome.status, outcome.error, bank.wired) == ("refused", "carol has denied it: not today", [])
    await asyncio.sleep(0.6)  # two more looks of the watch
    assert agent.calls == 2, "told once"


async def test_what_nobody_answers_in_time_is_refused(store: Store, world: World, bank: Bank) -> None:
    agent = Scripted([WIRE])
    await world.started(agent, **options(store, bank, timeout_sec=0.1))
    outcome = await last_outcome(agent)
    assert (outcome.status, outcome.error, bank.wired) == ("refused", "nobody allowed it within 0 s", [])


async def test_an_answer_given_while_the_agent_was_away_counts_after_its_start(
    store: Store, world: World, bank: Bank
) -> None:
    agent = Scripted([WIRE])
    runtime = await world.started(agent, **options(store, bank))
    approval_id = await asked(agent, store)
    await runtime.stop()
    Approvals(store).approve(approval_id, by="carol")
    again = Scripted()
    again.identity = agent.identity
    await world.started(again, **options(store, bank))
    outcome = await last_outcome(again, calls=1)
    assert (outcome.decision, outcome.status, bank.wired) == (WIRE, "done", [10])


async def test_what_was_begun_when_the_process_ended_is_not_begun_again(store: Store, world: World, bank: Bank) -> None:
    hang = InvokeTool("hang")
    agent = Scripted([hang])
    runtime = await world.started(agent, **options(store, bank, "InvokeTool"))
    Approvals(store).approve(await asked(agent, store), by="carol")
    await until(lambda: bank.wired == [0])
    await runtime.stop()
    again = Scripted()
    again.identity = agent.identity
    await world.started(again, **options(store, bank, "InvokeTool"))
    outcome = await last_outcome(again, calls=1)
    assert (outcome.decision, outcome.status, bank.wired) == (hang, "failed", [0])
    assert "nobody knows how far it came" in str(outcome.error)


async def test_the_other_rules_hold_when_it_is_carried_out(store: Store, world: World, bank: Bank) -> None:
    allowed = {"InvokeTool"}

    class Moody(ActionPolicy):
        def is_allowed(self, name: str) -> bool:
            return name in allowed

    agent = Scripted([WIRE])
    await world.started(agent, **options(store, bank, executor_kwargs={"safety_policy": (None, Moody())}))
    approval_id = await asked(agent, store)
    allowed.clear()
    Approvals(store).approve(approval_id, by="carol")
    outcome = await last_outcome(agent)
    assert (outcome.status, outcome.error) == ("refused", "the action policy does not allow InvokeTool")
    assert bank.wired == []


async def test_what_no_policy_allows_does_not_wait(store: Store, world: World, bank: Bank) -> None:
    agent = Scripted([WIRE])
    await world.started(agent, **options(store, bank, executor_kwargs={"safety_policy": (None, ActionPolicy([]))}))
    assert (await last_outcome(agent)).status == "refused"
    assert Approvals(store).all() == []


async def test_an_unsigned_message_waits_and_arrives_fresh_and_a_signed_one_cannot_wait(
    store: Store, world: World, bank: Bank
) -> None:
    peer = await world.peer()
    late = Message(recipient=peer.id, payload={"n": 1}, timestamp=1)
    agent = Scripted()
    agent.answers = [[SendMessage(late), SendMessage(Message(recipient=peer.id).sign(agent.identity))]]
    await world.started(agent, **options(store, bank, "SendMessage"))
    await until(lambda: len(agent.outcomes) == 2)
    waiting, refused = agent.outcomes
    assert (waiting.status, refused.status) == ("waiting", "refused")
    assert "send it unsigned" in str(refused.error)
    Approvals(store).approve(str(waiting.value), by="carol")
    message = await peer.hear()
    assert (message.payload, message.sender, message.timestamp > 1) == ({"n": 1}, agent.id, True)


async def test_a_task_waits_among_decisions_that_do_not(store: Store, world: World, bank: Bank) -> None:
    held = Task("held", "work", pool_id=None)
    agent = Scripted([InvokeTool("wire", {"euros": 1}), SubmitTask(held), InvokeTool("wire", {"euros": 2})])
    given = options(store, bank, "SubmitTask")
    await world.started(agent, **given)
    await agent.called(2)
    assert bank.wired == [1, 2]
    assert [outcome.status for outcome in agent.shown[1][2]] == ["done", "waiting", "done"]
    assert given["task_manager"].get_task("held") is None
    (record,) = Approvals(store).waiting()
    Approvals(store).approve(record.id, by="carol")
    await until(lambda: given["task_manager"].get_task("held") is not None)


async def test_a_policy_that_fails_asks_a_person(store: Store, world: World, bank: Bank) -> None:
    class Broken(ApprovalPolicy):
        def asks(self, name: str, decision: Decision) -> bool:
            raise SystemExit(name)

    agent = Scripted([ClaimTask("t")])
    await world.started(agent, **options(store, bank) | {"approval_policy": Broken([])})
    await asked(agent, store)


async def test_a_store_that_is_away_for_a_while_delays_an_approval(
    world: World, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    agent = Scripted([WIRE])
    given = options(store, bank)
    await world.started(agent, **given)
    approval_id = await asked(agent, store)
    away = monkeypatch.context()
    with away as patch:

        def fails(*_: object) -> None:
            raise OSError("the disk is away")

        patch.setattr(given["approvals"], "start", fails)
        Approvals(store).approve(approval_id, by="carol")
        await until(lambda: world.counted("converge_approval_failures_total") >= 1)
        assert bank.wired == []
    outcome = await last_outcome(agent)
    assert (outcome.status, bank.wired) == ("done", [10])


async def test_approvals_need_a_policy_and_a_policy_needs_approvals(world: World) -> None:
    agent = Scripted()
    with pytest.raises(ValueError, match="approvals and approval_policy go together"):
        AgentRuntime(agent, world.runtime(agent).transport, approvals=Approvals())


@pytest.mark.parametrize(
    ("needed_for", "timeout", "error"),
    [
        ("InvokeTool", 1, "give a list of decision names"),
        ([3], 1, "contains 3"),
        (["InvokeTool:"], 1, 'write "SubmitTask" or "InvokeTool:NAME"'),
        (["JoinPool:p"], 1, 'only "InvokeTool:NAME" names a part of a kind'),
        ([], 0, "timeout_sec is 0"),
        ([], float("nan"), "timeout_sec is nan"),
        ([], True, "timeout_sec is True"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(needed_for: Any, timeout: Any, error: str) -> None:
    with pytest.raises(PolicyOptionError, match=error):
        ApprovalPolicy(needed_for, timeout)


async def test_the_last_stop_ends_the_watch(store: Store, world: World, bank: Bank) -> None:
    given = options(store, bank)
    runtimes = [await world.started(Scripted(), **given) for _ in range(3)]
    for runtime in runtimes:
        await runtime.stop()
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert "converge-approvals" not in names
    async with asyncio.timeout(PATIENCE_SEC):
        await world.started(Scripted(), **given)
