"""Telling the lifecycle listeners what happens to one agent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from converge.core.decisions import ClaimTask, InvokeTool, ReportTask

if TYPE_CHECKING:
    from collections.abc import Iterable

    from converge.core.agent import Agent, Outcome
    from converge.core.message import Message
    from converge.plugins.lifecycle import Lifecycle

__all__ = ["Teller"]


class Teller:
    """What the runtime of `agent` tells; to nobody when `lifecycle` is None. Raises only when it is cancelled."""

    __slots__ = ("_agent", "_lifecycle")  # one an agent

    def __init__(self, agent: Agent, lifecycle: Lifecycle | None) -> None:
        self._agent, self._lifecycle = agent, lifecycle

    def listens(self, event: str) -> bool:
        """Whether anybody wants to know of `event`; for what happens so often that even asking has to be cheap."""
        return self._lifecycle is not None and self._lifecycle.listens(event)

    async def tell(self, event: str, **what: Any) -> None:  # the arguments of the event's hook
        """Tell of `event`."""
        if self._lifecycle is not None and self._lifecycle.listens(event):
            await self._lifecycle.notify(event, agent=self._agent, **what)

    async def sent(self, message: Message) -> None:
        """Tell that a message was sent."""
        await self.tell("message_sent", message=message)

    async def outcomes(self, outcomes: Iterable[Outcome]) -> None:
        """Tell what became of the decisions of one batch."""
        if self._lifecycle is None:
            return
        for outcome in outcomes:
            decision, done = outcome.decision, outcome.status == "done"
            if outcome.status == "waiting":
                await self.tell("decision_waiting", outcome=outcome)
                continue
            await self.tell("decision_executed" if done else "decision_failed", outcome=outcome)
            if isinstance(decision, InvokeTool):
                await self.tell("tool_called", outcome=outcome)
            elif done and isinstance(decision, ClaimTask):
                await self.tell("task_claimed", claim=outcome.value)
            elif done and isinstance(decision, ReportTask):
                await self.tell("task_reported", task_id=decision.task_id, result=decision.result)
