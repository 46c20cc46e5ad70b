"""Spans of what agents decide: the moves of tasks, and the calls of tools.

Attributes `gen_ai.*` are those of OpenTelemetry's semantic conventions.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from converge.core.decisions import ClaimTask, InvokeTool, ReportTask, SubmitTask
from converge.observability.trace_context import parse_traceparent
from converge.observability.tracing import end_span, get_current_traceparent, is_tracing, start_span, trace
from converge.runtime.turn_trace import current_turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from converge.core.agent import Outcome
    from converge.core.decisions import Decision
    from converge.observability.tracing import AttributeValue, Span

__all__ = ["MoveTrace", "carrying_out"]

_NAMES = {SubmitTask: "submit task", ClaimTask: "claim task", ReportTask: "report task"}
_MAX_NAME = 1_024  # as long as a task id may be
_UNTRACED = nullcontext()


def carrying_out(decision: Decision) -> AbstractContextManager[object]:
    """A span around the call of a tool, while somebody takes spans; around other decisions there is none."""
    if not is_tracing() or not isinstance(decision, InvokeTool):
        return _UNTRACED
    name = _shown(decision.tool_name)
    attributes: dict[str, AttributeValue] = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name}
    if (turn := current_turn()) is not None:
        attributes["converge.agent.id"] = turn.agent_id
    return trace(f"execute_tool {name}", attributes)


class MoveTrace:
    """The spans of decisions that move tasks, which are made together; begun here, and ended by `end`.

    A move belongs to the trace of its task if that is known, and is linked with the turn if that is of another.
    """

    def __init__(self, decisions: Sequence[Decision]) -> None:
        self._spans = [_begun(decision) for decision in decisions] if is_tracing() else []
        self._here = get_current_traceparent()

    def traceparent(self, index: int) -> str | None:
        """The trace in which the decision number `index` is carried out."""
        return self._spans[index].traceparent if self._spans else self._here

    def end(self, outcomes: Sequence[Outcome]) -> None:
        """End the spans with what became of the decisions."""
        for span, outcome in zip(self._spans, outcomes, strict=bool(self._spans)):
            span.set_attribute("converge.outcome", outcome.status)
            end_span(span, outcome.error if outcome.status == "failed" else None)


def _begun(decision: Decision) -> Span:
    name = next((name for kind, name in _NAMES.items() if isinstance(decision, kind)), type(decision).__name__)
    task_id = _task_id(decision)
    attributes: dict[str, AttributeValue] = {"converge.task.id": task_id}
    turn = current_turn()
    if turn is not None:
        attributes["converge.agent.id"] = turn.agent_id
    if isinstance(decision, SubmitTask):
        return start_span(name, attributes, kind="producer")
    of_task = None if turn is None else turn.traceparents.get(task_id)
    task_span, here = parse_traceparent(of_task or ""), parse_traceparent(get_current_traceparent() or "")
    if task_span is None or (here is not None and here.trace_id == task_span.trace_id):
        return start_span(name, attributes)
    return start_span(name, attributes, parent=of_task, links=() if here is None else (here,))


def _task_id(decision: Decision) -> str:
    if isinstance(decision, SubmitTask):
        return _shown(getattr(decision.task, "id", None))
    return _shown(getattr(decision, "task_id", None))


def _shown(name: object) -> str:
    """A name for an attribute, whatever an agent, or a model, has put there."""
    return name[:_MAX_NAME] if isinstance(name, str) else type(name).__name__
