"""The lifecycle listener named "log": one structured line for each event."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from converge.core.decisions import InvokeTool
from converge.observability.logging import log_struct
from converge.plugins import hookimpl

if TYPE_CHECKING:
    from converge.coordination.claims import Claim
    from converge.core.agent import Agent, Outcome
    from converge.core.message import Message

__all__ = ["LogHooks"]

_log = logging.getLogger("converge.lifecycle")


class LogHooks:
    """Logs what happens to the logger `converge.lifecycle`, never a payload: failures at WARNING, all else at INFO.

    A refused decision is no failure: of several agents that claim one task, all but one are refused.
    """

    @hookimpl
    def converge_agent_started(self, agent: Agent) -> None:
        """Log it."""
        log_struct(_log, logging.INFO, "agent started", agent=agent.id)

    @hookimpl
    def converge_agent_stopped(self, agent: Agent) -> None:
        """Log it."""
        log_struct(_log, logging.INFO, "agent stopped", agent=agent.id)

    @hookimpl
    def converge_agent_failed(self, agent: Agent, error: Exception) -> None:
        """Log it."""
        log_struct(_log, logging.WARNING, "agent failed", agent=agent.id, error=type(error).__name__)

    @hookimpl
    def converge_message_received(self, agent: Agent, message: Message) -> None:
        """Log it."""
        log_struct(_log, logging.INFO, "message received", agent=agent.id, message=message.id, sender=message.sender)

    @hookimpl
    def converge_message_sent(self, agent: Agent, message: Message) -> None:
        """Log it."""
        log_struct(_log, logging.INFO, "message sent", agent=agent.id, message=message.id, recipient=message.recipient)

    @hookimpl
    def converge_message_parked(self, agent: Agent, message: Message, failures: int) -> None:
        """Log it."""
        log_struct(
            _log, logging.WARNING, "message parked", agent=agent.id, message=message.id, sender=message.sender,
            failures=failures,
        )  # fmt: skip

    @hookimpl
    def converge_decision_failed(self, agent: Agent, outcome: Outcome) -> None:
        """Log it."""
        log_struct(
            _log,
            logging.WARNING if outcome.status == "failed" else logging.INFO,
            f"decision {outcome.status}",
            agent=agent.id,
            decision=type(outcome.decision).__name__,
            error=outcome.error,
        )

    @hookimpl
    def converge_decision_waiting(self, agent: Agent, outcome: Outcome) -> None:
        """Log it."""
        kind = type(outcome.decision).__name__
        log_struct(_log, logging.INFO, "decision waits", agent=agent.id, decision=kind, approval=outcome.value)

    @hookimpl
    def converge_task_claimed(self, agent: Agent, claim: Claim) -> None:
        """Log it."""
        log_struct(_log, logging.INFO, "task claimed", agent=agent.id, task=claim.task_id, attempt=claim.attempt)

    @hookimpl
    def converge_task_reported(self, agent: Agent, task_id: str) -> None:
        """Log it."""
        log_struct(_log, logging.INFO, "task reported", agent=agent.id, task=task_id)

    @hookimpl
    def converge_tool_called(self, agent: Agent, outcome: Outcome) -> None:
        """Log it."""
        name = outcome.decision.tool_name if isinstance(outcome.decision, InvokeTool) else None
        log_struct(_log, logging.INFO, "tool called", agent=agent.id, tool=name, status=outcome.status)
