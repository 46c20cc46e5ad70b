"""Which trace a turn of an agent belongs to, and its span."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING

from attrs import frozen

from converge.core.decisions import InvokeTool
from converge.observability.trace_context import SpanContext, parse_traceparent
from converge.observability.tracing import continuing, end_span, get_current_traceparent, is_tracing, start_span

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from converge.core.agent import Agent
    from converge.core.decisions import Decision
    from converge.core.message import Message
    from converge.core.task import Task
    from converge.observability.tracing import Span

__all__ = ["Turn", "TurnTrace", "current_turn"]

_UNTRACED = nullcontext()
_NEW = ""  # as a parent: a trace of its own, whatever was open where the runtime was started


@frozen
class Turn:
    """What whoever carries out the decisions of a turn needs to know of it: `traceparents` are those of the tasks that
    the agent was shown, by their ids.
    """

    agent_id: str
    traceparents: Mapping[str, str]


_turn: ContextVar[Turn | None] = ContextVar("converge_turn", default=None)


def current_turn() -> Turn | None:
    """The turn that is taken here, if somebody takes spans."""
    return _turn.get()


class TurnTrace:
    """Puts each turn of `agent` into the trace of what has led to it.

    That is, of these the first that belongs to a trace: the messages; the turn before, when its tools have answered;
    the tasks that the agent holds; those that it could claim. When they belong to one trace, `decide` is a span of it,
    and what is decided happens within; of several, it begins a trace with links to them. While nobody takes spans there
    is none, and what is sent and submitted belongs to the one trace that has led to it.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._before: str | None = None
        self._span: Span | None = None

    def turn(self, messages: Sequence[Message], tasks: Sequence[Task]) -> AbstractContextManager[None]:
        """A block for one turn: for deciding and for what comes of it."""
        if is_tracing():
            return self._traced(messages, tasks)
        if self._before is None and not _names_a_trace(messages, tasks):
            return _UNTRACED
        causes = self._causes(messages, tasks)
        self._before = causes[0].traceparent if len({cause.trace_id for cause in causes}) == 1 else None
        return _UNTRACED if self._before is None else continuing(self._before)

    def decided(self, decisions: Sequence[Decision]) -> None:
        """End the span of `decide`, which has returned `decisions`."""
        if self._span is not None:
            self._span.set_attribute("converge.decisions", len(decisions))
            self._end(None)

    @contextmanager
    def _traced(self, messages: Sequence[Message], tasks: Sequence[Task]) -> Iterator[None]:
        self._span = span = self._decide_span(messages, tasks)
        traceparents = {task.id: task.traceparent for task in tasks if task.traceparent is not None}
        token = _turn.set(Turn(self._agent.id, traceparents))
        try:
            with continuing(span):
                self._before = get_current_traceparent()
                yield
        except BaseException as error:
            self._end(error)  # unless it has returned, and what failed comes after
            raise
        finally:
            self._end(None)
            _turn.reset(token)

    def _end(self, error: BaseException | None) -> None:
        span, self._span = self._span, None
        if span is not None:
            end_span(span, error)

    def _decide_span(self, messages: Sequence[Message], tasks: Sequence[Task]) -> Span:
        causes = self._causes(messages, tasks)
        parent: str = _NEW
        if len({cause.trace_id for cause in causes}) == 1:
            parent, causes = causes[0].traceparent, causes[1:]
        return start_span(
            "decide",
            {
                "converge.agent.id": self._agent.id,
                "converge.agent.class": type(self._agent).__qualname__,
                "converge.messages": len(messages),
                "converge.tasks": len(tasks),
            },
            parent=parent,
            kind="consumer" if messages else "internal",
            links=causes,
        )

    def _causes(self, messages: Sequence[Message], tasks: Sequence[Task]) -> list[SpanContext]:
        if causes := _spans(message.traceparent for message in messages if message.headers):
            return causes
        outcomes = self._agent.outcomes
        if self._before is not None and any(
            isinstance(outcome.decision, InvokeTool) and outcome.status != "waiting" for outcome in outcomes
        ):
            return _spans((self._before,))
        if not any(task.traceparent for task in tasks):
            return []
        agent_id = self._agent.id
        held = _spans(task.traceparent for task in tasks if task.assigned_to == agent_id)
        return held or _spans(task.traceparent for task in tasks)


def _names_a_trace(messages: Sequence[Message], tasks: Sequence[Task]) -> bool:
    """Whether there may be a trace to pass on. Asked at each turn of an agent that nobody traces, so it is quick."""
    for message in messages:
        if message.headers:
            return True
    for task in tasks:  # noqa: SIM110  # any() with a generator takes three times as long
        if task.traceparent is not None:
            return True
    return False


def _spans(headers: Iterable[str | None]) -> list[SpanContext]:
    """The spans that well-formed ones of `headers` name, each once."""
    return [span for header in dict.fromkeys(headers) if header and (span := parse_traceparent(header)) is not None]
