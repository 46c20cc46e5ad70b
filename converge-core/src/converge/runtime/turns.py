"""What an agent does once it is awake: it looks, decides, and has its decisions carried out."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from converge.core.agent import AgentState, Outcome
from converge.core.decisions import ClaimTask, Decision, InvokeTool, JoinPool, ReportTask, SubmitTask
from converge.runtime.calls import backoff, described, settled
from converge.runtime.threads import in_own_thread

if TYPE_CHECKING:
    from converge.coordination.pool_manager import PoolManager
    from converge.coordination.task_manager import TaskManager
    from converge.core.agent import Agent
    from converge.core.message import Message
    from converge.core.task import Task
    from converge.network.transport.base import Transport
    from converge.runtime.approving import ApprovalGate
    from converge.runtime.executor import Executor
    from converge.runtime.inbox import Inbox
    from converge.runtime.scheduler import Scheduler
    from converge.runtime.telling import Teller

__all__ = ["Turns"]

_PENDING_SHOWN = 32
_MESSAGES_AT_ONCE = 64
_FAILURES_BEFORE_ERROR = 5
_MAX_BACKOFF_SEC = 30.0
_log = logging.getLogger(__name__)


class Turns:
    """The turns of one agent, one after the other; what it has seen, and what it could not deal with yet.

    `on_store` makes a call that may block where that harms nobody; `count` adds to a metric; `claimed` is set when the
    agent holds a task that it did not hold at the turn before.
    """

    def __init__(
        self,
        agent: Agent,
        executor: Executor,
        inbox: Inbox,
        scheduler: Scheduler,
        teller: Teller,
        transport: Transport,
        tasks: TaskManager | None,
        pools: PoolManager | None,
        *,
        approvals: ApprovalGate | None = None,
        on_store: Callable[..., Awaitable[Any]],
        count: Callable[[str], None],
        claimed: asyncio.Event,
    ) -> None:
        self._agent, self._executor, self._inbox, self._scheduler = agent, executor, inbox, scheduler
        self._teller, self._transport, self._tasks, self._pools = teller, transport, tasks, pools
        self._approvals = approvals
        self._on_store, self._count, self._claimed = on_store, count, claimed
        self._alone: deque[Message] = deque()  # of a batch that failed, to be shown one by one
        self._held: set[tuple[str, int]] = set()
        self.last_activity = 0.0
        self.begin()

    def begin(self) -> None:
        """Start anew: the agent has seen nothing, and nothing has failed."""
        self._seen: object = None
        self._failures = 0
        self._undone = 0  # calls of `decide` in a row after which a task decision failed
        self._again_at: float | None = None
        self._wished_at: float | None = None
        self._agent.outcomes = ()

    @property
    def has_more(self) -> bool:
        """Whether there is something to do that no notice will come for."""
        return bool(self._alone) or len(self._inbox) > 0 or self._tool_results() or self._seen is None

    def patience(self, most: float) -> float:
        """How many seconds to wait for work before the next turn, at most `most`."""
        moments = [at for at in (self._again_at, self._wished_at) if at is not None]
        return min([most, *(max(at - time.monotonic(), 0.0) for at in moments)])

    def call_again(self, after_sec: float) -> None:
        """Call `decide` in so many seconds, also if nothing is new then; the earliest of several wishes counts."""
        at = time.monotonic() + max(after_sec, 0.0)
        self._wished_at = at if self._wished_at is None else min(at, self._wished_at)

    async def take(self) -> None:
        """One turn: look, decide if there is something new, and carry out what was decided."""
        if self._again_at is not None and time.monotonic() >= self._again_at:
            self._seen, self._again_at = None, None  # shown as if it were new
        if self._wished_at is not None and time.monotonic() >= self._wished_at:
            self._seen, self._wished_at = None, None
        agent, changed = self._agent, False
        messages: list[Message] = []
        answered = self._approvals is not None and await self._settle(self._approvals)
        try:
            tasks, changed = await self._look()
            messages = [self._alone.popleft()] if self._alone else self._inbox.poll(_MESSAGES_AT_ONCE)
            await settled(agent.on_tick, list(messages), tasks)
            if agent.state is not AgentState.OFFLINE and (messages or changed or answered or self._tool_results()):
                await self._decide(list(messages), tasks)
                await self.acknowledge(messages)
        except Exception as error:  # noqa: BLE001  # user code; reported, counted, backed off
            await self._failed(error, messages, changed=changed)

    async def _settle(self, approvals: ApprovalGate) -> bool:
        """Whether the agent learns what became of decisions that a person had to allow."""
        try:
            outcomes = await approvals.settle(self._execute, self._on_store)
        except Exception:  # noqa: BLE001  # a store that is away; the watch wakes the agent again
            self._count("converge_approval_failures_total")
            _log.exception("%s: dealing with approvals failed", self._agent.id)
            return False
        others = [one for one in self._agent.outcomes if one.status != "waiting" or one.value not in outcomes]
        self._agent.outcomes = (*others, *outcomes.values())
        await self._teller.outcomes(outcomes.values())
        return bool(outcomes)

    async def _look(self) -> tuple[list[Task], bool]:
        tasks = [] if self._tasks is None else await self._on_store(self._list_tasks, self._tasks)
        held = {(task.id, task.attempt) for task in tasks if task.assigned_to == self._agent.id}
        if not held <= self._held:
            self._claimed.set()
        self._held = held
        seen = [(task.id, task.state, task.attempt) for task in tasks]
        changed = seen != self._seen
        self._seen = seen
        return tasks, changed

    def _list_tasks(self, tasks: TaskManager) -> list[Task]:
        agent = self._agent
        pools = None if self._pools is None else self._pools.get_pools_for_agent(agent.id)
        pending = tasks.list_pending_tasks_for_agent(
            agent.id, pools, agent.capabilities.names(), agent.topics or None, _PENDING_SHOWN
        )
        return tasks.list_held_tasks(agent.id) + pending

    def _tool_results(self) -> bool:
        return _has([one for one in self._agent.outcomes if one.status != "waiting"], InvokeTool)

    async def _decide(self, messages: list[Message], tasks: list[Task]) -> None:
        agent = self._agent
        self.last_activity = time.time()
        if agent.state is not AgentState.ERROR:
            agent.state = AgentState.BUSY
        decisions = await self._ask_and_tell(messages, tasks)
        self._failures = 0
        if agent.state is not AgentState.OFFLINE:
            agent.state = AgentState.IDLE
        agent.outcomes = ()
        agent.outcomes = await self._execute(decisions)
        await self._teller.outcomes(agent.outcomes)
        if _left_undone(agent.outcomes):
            self._again_at = time.monotonic() + min(2.0**self._undone, _MAX_BACKOFF_SEC)
            self._undone = min(self._undone + 1, 10)
            _log.warning("%s: a task decision failed; decide is called again in a while", agent.id)
        else:
            self._undone, self._again_at = 0, None
        if _has(agent.outcomes, JoinPool):
            self._scheduler.notify()  # the pool may have tasks, and nothing about them has changed

    async def _ask_and_tell(self, messages: list[Message], tasks: list[Task]) -> Sequence[Decision]:
        await self._teller.tell("decide_starting", messages=messages, tasks=tasks)
        try:
            decisions = await settled(self._ask, messages, tasks)
            if isinstance(decisions, str | bytes) or not isinstance(decisions, Sequence):
                raise TypeError(f"decide() returned {type(decisions).__name__}; it returns a list of decisions")
        except Exception as error:
            await self._teller.tell("decide_finished", decisions=(), error=error)
            raise
        await self._teller.tell("decide_finished", decisions=decisions, error=None)
        return decisions

    async def _ask(self, messages: list[Message], tasks: list[Task]) -> object:
        agent = self._agent
        if not agent.blocking or inspect.iscoroutinefunction(agent.decide):
            answer: object = agent.decide(messages, tasks)
        else:
            answer = await in_own_thread(f"converge-decide-{agent.id[:8]}", agent.decide, messages, tasks)
        return await answer if inspect.isawaitable(answer) else answer

    async def _execute(self, decisions: Sequence[Decision]) -> tuple[Outcome, ...]:
        if not decisions:
            return ()
        try:
            outcomes: Any = await settled(self._executor.execute, decisions)
            return tuple(outcomes or ())
        except Exception as error:  # noqa: BLE001  # an executor is a plugin; the agent sees what became of it
            self._count("converge_execute_failures_total")
            _log.exception("the executor of %s has failed", self._agent.id)
            return tuple(Outcome(decision, "failed", error=described(error)) for decision in decisions)

    async def _failed(self, error: Exception, messages: list[Message], *, changed: bool) -> None:
        agent = self._agent
        self._failures += 1
        if len(messages) > 1:
            self._alone.extend(messages)
        elif messages:
            self._count("converge_messages_failed_total")
            await self.acknowledge(messages)
        else:
            agent.outcomes = ()
        if changed or not messages:
            self._seen = None  # what there was to see has not been dealt with
        self._count("converge_decide_failures_total")
        await self._teller.tell("agent_failed", error=error)
        _log.error("%s failed (%d in a row)", agent.id, self._failures, exc_info=error)
        if agent.state is not AgentState.OFFLINE and self._failures >= _FAILURES_BEFORE_ERROR:
            agent.state = AgentState.ERROR
        elif agent.state is AgentState.BUSY:
            agent.state = AgentState.IDLE
        await asyncio.sleep(0 if self._failures == 1 else backoff(self._failures, _MAX_BACKOFF_SEC))

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        """What was handled is not to come again; if the transport cannot note that, it may, after a restart."""
        try:
            if messages:
                await self._transport.acknowledge(messages)
        except Exception:  # noqa: BLE001  # the messages are handled, whatever the transport raises
            self._count("converge_acknowledge_failures_total")
            _log.exception("%s: %d messages could not be acknowledged", self._agent.id, len(messages))


def _has(outcomes: Iterable[Outcome], *kinds: type[Decision]) -> bool:
    """Whether one of `outcomes` is that of a decision of one of these kinds. There may be many, of few classes."""
    return any(issubclass(kind, kinds) for kind in {type(outcome.decision) for outcome in outcomes})


def _left_undone(outcomes: Sequence[Outcome]) -> bool:
    """Whether a task decision raised: the set of tasks may be as it was, and nothing else would call `decide` again."""
    return _has([outcome for outcome in outcomes if outcome.status == "failed"], SubmitTask, ClaimTask, ReportTask)
