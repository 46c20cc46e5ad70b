from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from converge.core.agent import Agent, AgentState, Outcome
from converge.core.capability import Capability, CapabilitySet
from converge.core.decisions import ClaimTask, Decision, JoinPool
from converge.core.errors import SigningError
from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.task import Task
from converge.core.topic import Topic
from converge.network.transport.local import LocalTransport, LocalTransportRegistry
from converge.runtime.loop import AgentRuntime

ALICE = Identity.generate()


def test_a_new_agent_has_its_id_and_nothing_else() -> None:
    agent = Agent(ALICE)
    assert agent.id == ALICE.fingerprint
    assert agent.identity is ALICE
    assert (list(agent.capabilities), agent.topics, agent.outcomes) == ([], [], ())
    assert agent.state is AgentState.OFFLINE
    assert [state.value for state in AgentState] == ["idle", "busy", "offline", "error"]


def test_the_base_decides_nothing_and_its_hooks_do_nothing() -> None:
    agent = Agent(ALICE)
    assert agent.decide([], []) == []
    assert (agent.on_start(), agent.on_stop(), agent.on_tick([], [])) == (None, None, None)


def test_agents_do_not_share_capabilities_or_topics() -> None:
    one, other = Agent(ALICE), Agent(ALICE)
    one.capabilities.add("read")
    one.topics.append(Topic("news"))
    assert (list(other.capabilities), other.topics) == ([], [])


def test_capabilities_can_be_assigned_as_a_list() -> None:
    agent = Agent(ALICE)
    agent.capabilities = ["read", Capability("write", "2.0")]
    assert agent.capabilities.has("write", "2.0")
    mine = CapabilitySet(["fly"])
    agent.capabilities = mine
    assert agent.capabilities is mine


def test_a_message_is_signed_as_the_agents() -> None:
    signed = Agent(ALICE).sign_message(Message(payload={"x": 1}))
    assert (signed.sender, signed.verify()) == (ALICE.fingerprint, True)
    with pytest.raises(SigningError):
        Agent(ALICE).sign_message(Message(sender="somebody else"))


def test_the_context_before_a_start_is_an_error_that_says_where_it_comes_from() -> None:
    with pytest.raises(RuntimeError, match=r"gets one from AgentRuntime\.start\(\)"):
        _ = Agent(ALICE).context


def test_an_outcome_tells_what_became_of_a_decision() -> None:
    done, refused = Outcome(JoinPool("p"), "done", True), Outcome(ClaimTask("t"), "refused", error="no")
    assert (done.status, done.value, done.error) == ("done", True, None)
    assert (refused.value, refused.error) == (None, "no")


class Plain(Agent):
    def __init__(self, identity: Identity) -> None:
        super().__init__(identity)
        self.calls: list[str] = []

    def on_start(self) -> None:
        self.calls.append("start")

    def on_stop(self) -> None:
        self.calls.append("stop")

    def on_tick(self, messages: list[Message], tasks: list[Task]) -> None:
        self.calls.append("tick")

    def decide(self, messages: list[Message], tasks: list[Task]) -> list[Decision]:
        self.calls.append("decide")
        self.state = AgentState.OFFLINE
        return []


class Async(Plain):
    async def on_start(self) -> None:  # type: ignore[override]  # this test has both kinds in one family
        await asyncio.sleep(0)
        super().on_start()

    async def on_stop(self) -> None:  # type: ignore[override]  # as above
        await asyncio.sleep(0)
        super().on_stop()

    async def on_tick(self, messages: list[Message], tasks: list[Task]) -> None:  # type: ignore[override]  # as above
        await asyncio.sleep(0)
        super().on_tick(messages, tasks)

    async def decide(self, messages: list[Message], tasks: list[Task]) -> Sequence[Decision]:  # type: ignore[override]  # as above
        await asyncio.sleep(0)
        return super().decide(messages, tasks)


@pytest.mark.parametrize("kind", [Plain, Async])
async def test_decide_and_hooks_may_be_plain_or_async(kind: type[Plain]) -> None:
    agent = kind(ALICE)
    runtime = AgentRuntime(agent, LocalTransport(agent.id, LocalTransportRegistry()))
    await runtime.start()
    await runtime.wait_stopped()
    assert agent.calls == ["start", "tick", "decide", "stop"]
