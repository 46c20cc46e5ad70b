"""The class that users subclass, and what it learns about its own decisions."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Literal

from attrs import frozen

from converge.core.capability import CapabilitySet
from converge.core.decisions import Decision

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Sequence

    from converge.core.capability import Capability
    from converge.core.identity import Identity
    from converge.core.message import Message
    from converge.core.task import Task
    from converge.core.tools import Tool
    from converge.core.topic import Topic
    from converge.runtime.context import AgentContext

__all__ = ["Agent", "AgentState", "Outcome"]


class AgentState(Enum):
    """IDLE between calls, BUSY in one, ERROR while backing off after failures, OFFLINE when stopped.

    An agent that sets itself OFFLINE is stopped by its runtime once the decisions of that call are executed.
    """

    IDLE = "idle"
    BUSY = "busy"
    OFFLINE = "offline"
    ERROR = "error"


@frozen
class Outcome:
    """What became of one decision.

    `done`: `value` is what the operation returned (a tool's result, a Claim, an id). `refused`: a policy, a limit or
    a rule said no. `failed`: it was tried and raised. For these two, `error` says why. `waiting`: a person has to allow
    it (`value` is the id of the approval); what becomes of it then is an outcome of its own, at a later `decide`.
    """

    decision: Decision
    status: Literal["done", "refused", "failed", "waiting"]
    value: object = None
    error: str | None = None


class Agent:
    """An agent: it looks at messages and tasks and returns decisions.

    Subclass it and override `decide`; it and the three hooks may be plain or async methods. All of them run on the
    event loop, one at a time for one agent. With `blocking = True` a plain `decide` runs in a thread of its own
    instead, so that long computing does not stop the other agents of the process.
    """

    blocking: bool = False
    tools: Sequence[Tool] = ()
    """Tools of its own, which it may call besides those of its runtime; read when it starts, after `on_start`."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self._capabilities = CapabilitySet()
        self.topics: list[Topic] = []
        self.state = AgentState.OFFLINE
        self.outcomes: tuple[Outcome, ...] = ()
        self._context: AgentContext | None = None

    @property
    def id(self) -> str:
        """The fingerprint of the identity."""
        return self.identity.fingerprint

    @property
    def capabilities(self) -> CapabilitySet:
        """What this agent can do. A list of capabilities or names can be assigned too."""
        return self._capabilities

    @capabilities.setter
    def capabilities(self, value: Iterable[Capability | str]) -> None:
        self._capabilities = value if isinstance(value, CapabilitySet) else CapabilitySet(value)

    @property
    def context(self) -> AgentContext:
        """The network, managers and store this agent runs with; `RuntimeError` before a runtime has started it."""
        if self._context is None:
            raise RuntimeError("this agent has no context yet: it gets one from AgentRuntime.start()")
        return self._context

    def bind(self, context: AgentContext | None) -> None:
        """Give the agent its context; called by the runtime."""
        self._context = context

    def decide(self, messages: list[Message], tasks: list[Task]) -> Sequence[Decision] | Awaitable[Sequence[Decision]]:
        """What to do about new messages and the present tasks.

        `tasks` holds the tasks I hold (ASSIGNED to me) first, then the pending ones I could claim. Called once when
        the agent starts, then whenever there are messages, tool results or a changed set of tasks. An exception is
        logged and counted and costs this batch; after several in a row the runtime backs off.
        """
        return []

    def on_start(self) -> Awaitable[None] | None:
        """Called once, before the first `decide`. An exception makes the start fail."""
        return None

    def on_stop(self) -> Awaitable[None] | None:
        """Called once when the runtime stops, while messages can still be sent."""
        return None

    def on_tick(self, messages: list[Message], tasks: list[Task]) -> Awaitable[None] | None:
        """Called before each look at the work, also when `decide` will not be."""
        return None

    def sign_message(self, message: Message) -> Message:
        """`message` signed by this agent."""
        return message.sign(self.identity)

    def sign_messages(self, messages: Sequence[Message]) -> list[Message]:
        """`messages` signed by this agent, with one signature for many (`converge.core.message.sign_batch`).

        An agent that signs in a way of its own overrides both this and `sign_message`.
        """
        from converge.core.message import sign_batch

        return sign_batch(messages, self.identity)
