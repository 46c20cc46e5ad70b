"""Decisions of an agent that a person has to allow: they wait in the store, and are carried out when one has."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from converge.coordination.approval_record import ApprovalState
from converge.coordination.errors import ApprovalRefused
from converge.core.agent import Outcome
from converge.core.decision_data import BUILT_IN, decision_from_plain
from converge.core.decisions import Decision, InvokeTool, SendMessage
from converge.runtime.calls import described

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from converge.coordination.approval_record import ApprovalRecord
    from converge.coordination.approvals import Approvals
    from converge.policy.approval import ApprovalPolicy

__all__ = ["ApprovalGate", "gate_of"]

_MAX_ABOUT = 200
_log = logging.getLogger(__name__)


class ApprovalGate:
    """Holds back those decisions of one agent that `policy` asks a person about, and brings them back when answered.

    `kinds` are the classes of decisions of the application's own that may wait, besides those of Converge.
    """

    def __init__(
        self,
        agent_id: str,
        approvals: Approvals,
        policy: ApprovalPolicy,
        kinds: Mapping[str, type[Decision]] | None = None,
    ) -> None:
        self.agent_id, self.approvals, self.policy = agent_id, approvals, policy
        self._kinds = {**BUILT_IN, **(kinds or {})}
        self._allowed: list[Decision] = []  # being carried out now, a person having allowed it
        self._noticed = True  # after a start, whatever happened before it

    @property
    def blocking(self) -> bool:
        """Whether `hold` may wait for a disk or a network."""
        return self.approvals.blocking

    def allowed(self, decision: object) -> bool:
        """Whether this very decision is being carried out because a person has allowed it."""
        return any(decision is allowed for allowed in self._allowed)

    def needs(self, name: str, decision: Decision) -> bool:
        """Whether a person has to allow `decision`, carried out as a `name`; yes when the policy fails to say."""
        if self.allowed(decision):
            return False
        try:
            return self.policy.asks(name, decision) is not False
        except BaseException:  # noqa: BLE001  # whatever a policy raises, it does not allow; nothing awaits here
            _log.warning("the approval policy failed on %s of %s, so it asks", name, self.agent_id, exc_info=True)
            return True

    def hold(self, name: str, decision: Decision) -> Outcome:
        """Let `decision` wait for a person from now on, or refuse it when it cannot wait."""
        if isinstance(decision, SendMessage) and decision.message.signature:
            error = "a signed message would be too old when somebody has allowed it; send it unsigned"
            return Outcome(decision, "refused", error=error)
        try:
            about, timeout = _about(name, decision), self.policy.timeout_sec
            approval_id = self.approvals.ask(self.agent_id, decision, about=about, timeout_sec=timeout)
        except (ApprovalRefused, TypeError, ValueError) as error:
            return Outcome(decision, "refused", error=f"it needs approval and cannot wait for it: {error}")
        return Outcome(decision, "waiting", value=approval_id)

    def notice(self) -> None:
        """Let the next `settle` look at the store."""
        self._noticed = True

    async def settle(
        self, execute: Callable[[Sequence[Decision]], Awaitable[Sequence[Outcome]]], on_store: Callable[..., Any]
    ) -> dict[str, Outcome]:
        """Deal with what was answered, or not in time; the outcomes that the agent does not know of yet, by approval.

        A decision that was allowed is carried out by `execute` now; `on_store` makes the calls that may block.
        """
        outcomes: dict[str, Outcome] = {}
        if not self._noticed:
            return outcomes
        for found in await on_store(self.approvals.of_agent, self.agent_id):
            record = found
            if record.standing is ApprovalState.WAITING:
                record = await on_store(self.approvals.expire, record.id)
            outcome = await self._settled(record, execute, on_store)
            if outcome is not None:
                outcomes[record.id] = outcome
        self._noticed = False
        return outcomes

    async def _settled(
        self, record: ApprovalRecord, execute: Callable[..., Awaitable[Sequence[Outcome]]], on_store: Callable[..., Any]
    ) -> Outcome | None:
        if record.standing is ApprovalState.WAITING:
            return None
        decision = self._decision(record)
        if record.standing is ApprovalState.APPROVED:
            return await self._carried_out(record, decision, execute, on_store)
        if record.standing is ApprovalState.STARTED:  # not by this call, so what did it was cut off
            error = "it was approved and begun, and its process ended; nobody knows how far it came"
            await on_store(self.approvals.finish, record.id, self.agent_id, "failed", error)
            return None if decision is None else Outcome(decision, "failed", error=error)
        await on_store(self.approvals.tell, record.id, self.agent_id)
        return None if decision is None else Outcome(decision, "refused", error=_why(record))

    async def _carried_out(
        self,
        record: ApprovalRecord,
        decision: Decision | None,
        execute: Callable[..., Awaitable[Sequence[Outcome]]],
        on_store: Callable[..., Any],
    ) -> Outcome | None:
        try:
            await on_store(self.approvals.start, record.id, self.agent_id)
        except ApprovalRefused as refused:
            _log.warning("%s", refused)
            return None
        if decision is None:
            error = "this version cannot read the decision"
            await on_store(self.approvals.finish, record.id, self.agent_id, "failed", error)
            return None
        self._allowed.append(decision)
        try:
            (outcome,) = await execute([decision])
        finally:
            self._allowed.remove(decision)
        await on_store(self.approvals.finish, record.id, self.agent_id, outcome.status, outcome.error)
        return outcome

    def _decision(self, record: ApprovalRecord) -> Decision | None:
        try:
            decision = decision_from_plain(record.decision, self._kinds)
        except ValueError as error:
            _log.error("approval %s of %s cannot be carried out: %s", record.id, self.agent_id, described(error))
            return None
        if isinstance(decision, SendMessage):  # a receiver refuses one that is as old as the wait was long
            return SendMessage(decision.message.evolve(timestamp=int(time.time() * 1000)))
        return decision


def gate_of(
    agent_id: str,
    approvals: Approvals | None,
    policy: ApprovalPolicy | None,
    handlers: Mapping[type[Decision], Any] | None,
) -> ApprovalGate | None:
    """The gate of an agent that was given both; None without, `ValueError` with one of them."""
    if (approvals is None) is not (policy is None):
        raise ValueError("approvals and approval_policy go together: where to wait, and what for")
    if approvals is None or policy is None:
        return None
    return ApprovalGate(agent_id, approvals, policy, {kind.__name__: kind for kind in handlers or ()})


def _about(name: str, decision: Decision) -> str:
    if isinstance(decision, InvokeTool):
        return f"{name} {decision.tool_name} {decision.params!r}"[:_MAX_ABOUT]
    return f"{name} {decision!r}"[:_MAX_ABOUT]


def _why(record: ApprovalRecord) -> str:
    if record.standing is ApprovalState.EXPIRED:
        return f"nobody allowed it within {record.deadline - record.asked_at:.0f} s"
    return f"{record.decided_by} has denied it" + (f": {record.reason}" if record.reason else "")
