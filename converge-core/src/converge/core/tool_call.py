"""What a tool can know about the call that it is in."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ToolCall", "calling", "current_call"]


@frozen
class ToolCall:
    """One call of a tool by an agent.

    `idempotency_key` names the call for whatever it changes outside, so that a service which has seen the key does
    nothing a second time. It is `<task id>:<epoch>:<number>` when the call belongs to a task that the agent holds; the
    number counts the calls for that claim from 1. Without a task it is a new UUID. `epoch` is the fencing
    token: it grows with every claim of the task, so a service that knows it can refuse an older one. `timeout_sec` is
    how long the call may take (None: no limit). `traceparent` is the span of the call, to be sent on (W3C Trace
    Context).
    """

    tool: str
    agent_id: str
    idempotency_key: str
    task_id: str | None = None
    epoch: int | None = None
    timeout_sec: float | None = None
    traceparent: str | None = None


_current: ContextVar[ToolCall | None] = ContextVar("converge_tool_call", default=None)


def current_call() -> ToolCall:
    """The call that the running tool is in, in whatever thread or process it runs.

    `RuntimeError` outside of a tool that an agent has called, in a thread that the tool has started by itself included.
    """
    call = _current.get()
    if call is None:
        raise RuntimeError("there is no call: current_call() is for tools, while an agent's call runs them")
    return call


@contextmanager
def calling(call: ToolCall) -> Iterator[None]:
    """Let `current_call` give `call` in the block; for executors."""
    token = _current.set(call)
    try:
        yield
    finally:
        _current.reset(token)
