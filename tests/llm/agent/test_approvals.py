"""What a model decides and a person has to allow: it waits, nothing is spent, and the model is told the end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from converge.coordination.approvals import Approvals
from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.tools import tool
from converge.extensions.llm import LLMAgent, Reply, ScriptedProvider, ToolCall
from converge.extensions.storage.memory import MemoryStore
from converge.network.transport.local import LocalTransport, LocalTransportRegistry
from converge.policy.approval import ApprovalPolicy
from converge.runtime.loop import AgentRuntime

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_SEC = 30.0


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_SEC):
        while not condition():  # noqa: ASYNC110  # there is no event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("allowed", [True, False])
async def test_a_tool_that_needs_a_person_is_called_when_one_has_said_yes(allowed: bool) -> None:
    wired: list[int] = []

    @tool(isolation="inline")
    def wire(euros: int) -> str:
        """Send money."""
        wired.append(euros)
        return "sent"

    call = ToolCall("c1", "wire", {"euros": 10}, '{"euros": 10}')
    provider = ScriptedProvider([Reply("", (call,), finish="tool_calls"), Reply("It is done.")])
    agent = LLMAgent(Identity.generate(), provider, tools=[wire])
    registry, store = LocalTransportRegistry(), MemoryStore()
    boss = Identity.generate()
    mail = LocalTransport(boss.fingerprint, registry)
    await mail.start()
    approvals = Approvals(store)
    policy = ApprovalPolicy(["InvokeTool:wire"])
    transport = LocalTransport(agent.id, registry)
    async with AgentRuntime(agent, transport, approvals=approvals, approval_policy=policy):
        await mail.send(Message(recipient=agent.id, payload={"text": "pay the bill"}).sign(boss))
        await until(lambda: len(approvals.waiting()) == 1)
        await asyncio.sleep(0.6)  # two looks of the watch
        assert (len(provider.asked), wired) == (1, [])
        (waiting,) = approvals.waiting()
        answer = approvals.approve if allowed else approvals.deny
        answer(waiting.id, by="carol", reason="as agreed")
        await until(lambda: len(provider.asked) == 2)
        told = provider.asked[1].messages[-1].content
        assert ("sent" in told, "carol has denied it: as agreed" in told) == (allowed, not allowed)
        assert wired == ([10] if allowed else [])
    await mail.stop()
    provider.assert_consumed()
