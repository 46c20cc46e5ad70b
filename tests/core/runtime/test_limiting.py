"""Limits on what agents do: each decision is asked for, refused with the reason, and counted."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import pytest

from converge.coordination.approvals import Approvals
from converge.coordination.pool_manager import PoolManager
from converge.coordination.task_manager import TaskManager
from converge.core.decisions import ClaimTask, Decision, InvokeTool, SendMessage, SubmitTask, Vote
from converge.core.message import Message
from converge.core.task import Task
from converge.core.tools import ToolRegistry
from converge.extensions.storage.memory import MemoryStore
from converge.network.network import AgentNetwork
from converge.network.transport.local import LocalTransport, LocalTransportRegistry
from converge.observability.metrics import MetricsCollector
from converge.policy.approval import ApprovalPolicy
from converge.policy.limits import Limiter, Limits
from converge.policy.rates import Limit
from converge.policy.safety import ActionPolicy
from converge.policy.shared_limits import SharedLimiter
from converge.runtime.application import Application
from converge.runtime.approving import ApprovalGate
from converge.runtime.config import load_config
from converge.runtime.errors import ConfigError
from converge.runtime.executor import StandardExecutor
from converge.runtime.keys import members
from converge.runtime.limiting import DecisionLimits, limits_of, pool_limiters
from tests.core.runtime.conftest import until

if TYPE_CHECKING:
    from pathlib import Path

    from converge.runtime.config import Config


def clock() -> float:
    return 5.0


def limited(*limiters: Limiter, **options: Any) -> StandardExecutor:
    return StandardExecutor(
        "me", None, TaskManager(), PoolManager(), votes_store={}, limits=DecisionLimits(limiters), **options
    )


def agent(**limits: Any) -> Limiter:
    return Limiter(Limits(**limits), "agent me", clock=clock)


async def statuses(executor: StandardExecutor, *decisions: Decision) -> list[str]:
    return [outcome.status for outcome in await executor.execute(decisions)]


def votes(count: int, name: str = "v") -> list[Decision]:
    return [Vote(f"{name}{number}", 1) for number in range(count)]


async def test_a_decision_over_a_limit_is_refused_with_the_reason_and_counted() -> None:
    metrics = MetricsCollector()
    executor = limited(agent(decisions=Limit(per_second=2)), metrics_collector=metrics)
    outcomes = await executor.execute(votes(4))
    assert [outcome.status for outcome in outcomes] == ["done", "done", "refused", "refused"]
    assert outcomes[2].error == (
        "over the limit decisions of agent me: 2 per second, 2 at once; possible again in 0.5 s"
    )
    counters = metrics.snapshot()["counters"]
    assert counters['converge_limited_total{limit="decisions",scope="agent"}'] == 2
    assert counters["converge_decisions_refused_total"] == 2


async def test_each_kind_of_decision_has_its_own_limit() -> None:
    executor = limited(agent(tasks=Limit(total=1), claims=Limit(total=2)))
    submits = [SubmitTask(Task(id=f"t{number}")) for number in range(2)]
    claims = [ClaimTask("t0") for _ in range(3)]
    outcomes = await executor.execute([*submits, *claims, *votes(2)])
    assert [outcome.error is not None and "over the limit" in outcome.error for outcome in outcomes] == [
        False, True, False, False, True, False, False,
    ]  # fmt: skip


async def test_tools_have_a_limit_together_and_each_its_own() -> None:
    class Tool:
        def __init__(self, name: str) -> None:
            self.name, self.description, self.schema = name, "", {"type": "object"}

        async def run(self, params: dict[str, Any]) -> int:
            return 1

    tools = ToolRegistry()
    tools.register(Tool("search"))
    tools.register(Tool("other"))
    executor = limited(agent(tool_calls=Limit(total=3), tools={"search": Limit(total=1)}), tool_registry=tools)
    search, other = InvokeTool("search", {}), InvokeTool("other", {})
    assert await statuses(executor, search, search, other, other, other) == [
        "done", "refused", "done", "done", "refused",
    ]  # fmt: skip


class Greeting(SendMessage):
    """A kind of message with a class of its own."""


@pytest.mark.parametrize("kind", [SendMessage, Greeting])
async def test_messages_that_would_share_a_signature_are_limited_one_by_one(kind: type[SendMessage]) -> None:
    registry = LocalTransportRegistry()
    transport = LocalTransport("me", registry)
    receiver = LocalTransport("you", registry)
    await transport.start()
    await receiver.start()
    network = AgentNetwork(transport)
    limits = DecisionLimits([agent(messages=Limit(total=3))])
    executor = StandardExecutor("me", network, limits=limits)
    assert (
        await statuses(executor, *(kind(Message(recipient="you")) for _ in range(5))) == ["done"] * 3 + ["refused"] * 2
    )
    await transport.stop()
    await receiver.stop()


async def test_one_call_of_decide_may_decide_so_much_and_the_next_as_much_again() -> None:
    executor = limited(agent(decisions_per_turn=2))
    outcomes = await executor.execute(votes(3, "a"))
    assert [outcome.status for outcome in outcomes] == ["done", "done", "refused"]
    assert outcomes[2].error == (
        "over the limit decisions_per_turn of agent me: 2 of each call of decide; possible again in the next one"
    )
    assert await statuses(executor, *votes(3, "b")) == ["done", "done", "refused"]


async def test_the_members_of_a_pool_share_its_limit_and_each_has_its_own_besides() -> None:
    pool = Limiter(Limits(decisions=Limit(total=4)), "pool p", "pool", clock=clock)
    metrics = MetricsCollector()
    one, two = (limited(agent(decisions=Limit(total=3)), pool, metrics_collector=metrics) for _ in range(2))
    assert await statuses(one, *votes(4)) == ["done"] * 3 + ["refused"]
    assert await statuses(two, *votes(4)) == ["done"] + ["refused"] * 3
    counters = metrics.snapshot()["counters"]
    assert counters['converge_limited_total{limit="decisions",scope="agent"}'] == 1
    assert counters['converge_limited_total{limit="decisions",scope="pool"}'] == 3


async def test_what_the_action_policy_refuses_uses_up_nothing() -> None:
    executor = limited(agent(decisions=Limit(total=1)), safety_policy=(None, ActionPolicy(["Vote"])))
    assert await statuses(executor, ClaimTask("t"), ClaimTask("t"), *votes(1)) == ["refused", "refused", "done"]


async def test_a_limit_that_raises_refuses() -> None:
    def broken() -> float:
        raise OSError("no clock")

    metrics = MetricsCollector()
    executor = limited(Limiter(Limits(decisions=Limit(total=9)), "me", clock=broken), metrics_collector=metrics)
    (outcome,) = await executor.execute(votes(1))
    assert (outcome.status, outcome.error) == ("refused", "the limits failed: OSError: no clock")
    assert metrics.snapshot()["counters"]['converge_limited_total{limit="failed",scope="agent"}'] == 1


async def test_what_a_person_allowed_was_counted_when_it_was_held_back() -> None:
    approvals = Approvals(MemoryStore())
    gate = ApprovalGate("me", approvals, ApprovalPolicy(["Vote"], 60))
    executor = limited(agent(decisions=Limit(total=1)), approvals=gate)
    held, refused = await executor.execute(votes(2))
    assert (held.status, refused.status) == ("waiting", "refused")
    (waiting,) = approvals.waiting()
    approvals.approve(waiting.id, by="a person")

    async def on_store(call: Any, *args: Any) -> object:
        return call(*args)

    settled = await gate.settle(executor.execute, on_store)
    assert [outcome.status for outcome in settled.values()] == ["done"]
    assert await statuses(executor, ClaimTask("t")) == ["refused"]


CONFIG = """
[limits]
decisions = { total = 1 }
[[pools]]
id = "p"
[pools.limits]
decisions = { total = 3 }
[[agents]]
name = "a"
class = "converge.core.agent:Agent"
pools = ["p"]
count = 2
[[agents]]
name = "b"
class = "converge.core.agent:Agent"
limits.decisions = { per_minute = 2, burst = 2 }
pools = ["p"]
[[agents]]
name = "free"
class = "converge.core.agent:Agent"
limits = {}
"""


def config(folder: Path, text: str) -> Config:
    file = folder / "converge.toml"
    file.write_text(text)
    return load_config(file, environment={})


async def test_a_config_limits_each_agent_and_each_pool(tmp_path: Path) -> None:
    loaded = await asyncio.to_thread(config, tmp_path, CONFIG)
    pools = pool_limiters(loaded.pools, MemoryStore())
    done: dict[str, list[str]] = {}
    for member in await asyncio.to_thread(members, loaded, 0):
        executor = StandardExecutor(member.name, votes_store={}, limits=limits_of(member, loaded, pools))
        done[member.name] = await statuses(executor, *votes(3))
    assert done == {
        "a-1": ["done", "refused", "refused"],
        "a-2": ["done", "refused", "refused"],
        "b": ["done", "refused", "refused"],  # its own limit is 2, of the pool's 3 one is left
        "free": ["done"] * 3,
    }


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[limits]\ndecisions = { per_second = 0 }", r"converge.toml \[limits\]: decisions.per_second"),
        ("[limits]\ntools.x = { total = -1 }", r"converge.toml \[limits\]: tools"),
        ("[limits]\nmesages = { total = 1 }", r"converge.toml \[limits\]: mesages"),
        ('[[pools]]\nid = "p"\nlimits.claims = { burst = 1 }', r"converge.toml \[\[pools\]\] 0: limits.claims"),
        ('[[agents]]\nclass = "a:A"\nlimits.tasks = {}', r"converge.toml \[\[agents\]\] 0: limits.tasks"),
    ],
)
def test_a_limit_that_makes_no_sense_is_an_error_with_its_place(tmp_path: Path, text: str, place: str) -> None:
    with pytest.raises(ConfigError, match=place):
        config(tmp_path, text)


EAGER = """
from converge.core.agent import Agent
from converge.core.decisions import SubmitTask
from converge.core.task import Task

SEEN = []

class Eager(Agent):
    def decide(self, messages, tasks):
        SEEN.append([outcome.status for outcome in self.outcomes])
        return [SubmitTask(Task(id=f"{self.id}-{number}")) for number in range(3)] if len(SEEN) == 1 else []
"""


async def test_a_run_holds_its_agents_to_the_limits_of_its_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "eager_agent.py").write_text(EAGER)
    text = '[limits]\ntasks = { total = 2 }\n[[agents]]\nclass = "eager_agent:Eager"\n'
    stop = asyncio.Event()
    running = asyncio.create_task(Application(config(tmp_path, text)).run(stop=stop))
    await until(lambda: running.done() or len(getattr(sys.modules.get("eager_agent"), "SEEN", ())) > 1)
    stop.set()
    await running
    assert sys.modules.pop("eager_agent").SEEN[1] == ["done", "done", "refused"]


async def test_members_in_several_executors_on_one_store_share_the_limits_of_their_pool() -> None:
    store = MemoryStore()
    pools = [SharedLimiter(Limits(decisions=Limit(total=3)), "pool p", store) for _ in range(2)]
    one, two = (limited(pool) for pool in pools)
    assert await statuses(one, *votes(2, "a")) == ["done", "done"]
    assert await statuses(two, *votes(2, "b")) == ["done", "refused"]
    assert await statuses(one, *votes(1, "c")) == ["refused"]


async def test_a_store_that_is_away_refuses_what_is_limited_by_it() -> None:
    class Away(MemoryStore):
        def get_versioned(self, key: str) -> Any:
            raise OSError("the disk is away")

    metrics = MetricsCollector()
    executor = limited(SharedLimiter(Limits(decisions=Limit(total=3)), "pool p", Away()), metrics_collector=metrics)
    (outcome,) = await executor.execute(votes(1))
    assert (outcome.status, outcome.error) == ("refused", "the limits failed: OSError: the disk is away")
    assert metrics.snapshot()["counters"]['converge_limited_total{limit="failed",scope="agent"}'] == 1
