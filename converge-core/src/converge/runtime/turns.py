"""What an agent does once it is awake: it looks, decides, and has its decisions carried out."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from converge.core.agent import Agent, AgentState, Outcome
from converge.core.decisions import ClaimTask, Decision, InvokeTool, JoinPool, ReportTask, SubmitTask
from converge.runtime.calls import backoff, contained, described, settled, undo_cancel
from converge.runtime.retries import MAX_FAILURES, MAX_WAITING, Attempt, Retries
from converge.runtime.threads import in_own_thread
from converge.runtime.turn_trace import TurnTrace

if TYPE_CHECKING:
    from converge.coordination.pool_manager import PoolManager
    from converge.coordination.task_manager import TaskManager
    from converge.core.message import Message
    from converge.core.task import Task
    from converge.network.transport.base import Transport
    from converge.runtime.approving import ApprovalGate
    from converge.runtime.executor import Executor
    from converge.runtime.inbox import Inbox
    from converge.runtime.parking import Parking
    from converge.runtime.scheduler import Scheduler
    from converge.runtime.telling import Teller

__all__ = ["Turns"]

_PENDING_SHOWN = 32
_MESSAGES_AT_ONCE = 64
_FAILURES_BEFORE_ERROR = 5
_MAX_BACKOFF_SEC = 30.0
_SAME_MOMENT_SEC = 0.05
_ONE_SENDER_BACKOFF_SEC = 1.0  # it may be the sender's fault; the messages of others wait behind these
_UNSIGNED = "unsigned"
_NOBODY: frozenset[str] = frozenset()  # each empty one takes 216 bytes
_log = logging.getLogger(__name__)


class Turns:
    """The turns of one agent, one after the other; what it has seen, and what it could not deal with yet.

    Messages of a batch that failed are shown one by one; one that fails alone waits for its pause (`Retries`) while the
    others go on, and is parked at its fifth failure.

    `on_store` makes a call that may block where that harms nobody; `count` adds to a metric; `claimed` is called when
    the agent holds a task that it did not hold before; `ending` tells whether it is the runtime that cancels.
    """

    __slots__ = (  # one an agent
        "_again_at",
        "_agent",
        "_alone",
        "_approvals",
        "_avoided",
        "_blamed",
        "_claimed",
        "_count",
        "_ending",
        "_executor",
        "_failures",
        "_held",
        "_inbox",
        "_on_store",
        "_pools",
        "_retried",
        "_retries",
        "_scheduler",
        "_seen",
        "_seen_by",
        "_tasks",
        "_teller",
        "_trace",
        "_transport",
        "_undone",
        "_wished_at",
        "carrying_out",
        "last_activity",
        "parking",
    )

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
        parking: Parking,
        *,
        approvals: ApprovalGate | None = None,
        on_store: Callable[..., Awaitable[Any]],
        count: Callable[..., None],
        claimed: Callable[[], None],
        ending: Callable[[], bool],
    ) -> None:
        self._agent, self._executor, self._inbox, self._scheduler = agent, executor, inbox, scheduler
        self._teller, self._transport, self._tasks, self._pools = teller, transport, tasks, pools
        self.parking, self._retries, self._approvals = parking, Retries(), approvals
        self._on_store, self._count, self._claimed, self._ending = on_store, count, claimed, ending
        self._alone: list[Attempt] = []  # of a batch that failed, to be shown one by one
        self._retried = False  # whether the turn before tried a message again
        self._blamed: frozenset[str] = _NOBODY  # who sent what has failed since a success; "" for tasks
        self._avoided: str | None = None  # whose messages come after those of others for now
        self.carrying_out = False
        self._held: Collection[tuple[str, int]] = ()
        self._trace = TurnTrace(agent)
        self.last_activity = 0.0
        self.begin()

    def begin(self) -> None:
        """Start anew: the agent has seen nothing, and nothing has failed."""
        self._seen: object = None
        self._seen_by: object = None  # what the last look has asked by
        self._failures = 0
        self._blamed = _NOBODY
        self._undone = 0  # calls of `decide` in a row after which a task decision failed
        self._again_at: float | None = None
        self._wished_at: float | None = None
        self._agent.outcomes = ()

    @property
    def has_more(self) -> bool:
        """Whether there is something to do that no notice will come for."""
        waits = bool(self._alone) or (len(self._inbox) > 0 and not self._holds_enough) or self._retries.is_due()
        return waits or self._tool_results() or self._seen is None

    def is_at_rest(self) -> bool:
        """Whether a turn that no notice has asked for would find nothing and do nothing.

        A change of tasks is noticed. So what is left is the agent itself, its `on_tick`, what waits here, and its
        pools, of which nobody tells: that they are unchanged is asked where that is cheap. Raises nothing.
        """
        try:
            return not self._has_own_work() and self._seen_by == self._asks_by() and not self._may_have_other_pools()
        except Exception:  # noqa: BLE001  # of what users may replace; the turn reports it
            return False

    def _has_own_work(self) -> bool:
        agent = self._agent
        planned = self._again_at is not None or self._wished_at is not None or self._failures > 0
        return (
            planned
            or _ticks(agent)
            or self._approvals is not None
            or self.has_more
            or agent.state is AgentState.OFFLINE
        )

    def _may_have_other_pools(self) -> bool:
        return (
            self._tasks is not None
            and self._pools is not None
            and self._pools.may_have_changed(max_age_sec=_SAME_MOMENT_SEC)
        )

    def _asks_by(self) -> object:
        """What decides which tasks an agent is shown, besides the tasks."""
        agent, pools = self._agent, self._pools
        names, generation = agent.capabilities.names(), 0 if pools is None else pools.generation
        return (names, tuple(agent.topics), generation) if names or agent.topics else generation

    def patience(self, most: float) -> float:
        """How many seconds to wait for work before the next turn, at most `most`."""
        if (due_in := self._retries.due_in()) is not None:
            most = min(most, due_in)
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
        changed, attempt = False, None
        messages: list[Message] = []
        answered = self._approvals is not None and await self._settle(self._approvals)
        try:
            tasks, changed = await self._look()
            attempt = self._next_attempt()
            messages = self._next_batch() if attempt is None else [attempt.message]
            if attempt is not None and attempt.failures >= MAX_FAILURES:
                await self._park(attempt)
            else:
                await self._show(messages, tasks, changed or answered)
        except Exception as error:  # noqa: BLE001  # user code; reported, counted, backed off
            await self._failed(error, messages, attempt, changed=changed)
        except asyncio.CancelledError as error:
            if self._ending():
                self._cut_short(messages)
                raise
            undo_cancel()
            await self._failed(contained(error), messages, attempt, changed=changed)
        finally:
            self.carrying_out = False

    def requeue(self, messages: Iterable[Message]) -> None:
        """Show each of `messages` alone, as if none had failed yet."""
        self._alone.extend(Attempt(message) for message in messages)
        self._scheduler.notify()

    def put_away(self) -> None:
        """The runtime has stopped: forget what a transport that redelivers will bring again after the next start."""
        if self._transport.redelivers:
            self._alone.clear()
            self._retries.clear()
            while self._inbox.poll(_MESSAGES_AT_ONCE):
                pass
            self.parking.restore()

    def _next_attempt(self) -> Attempt | None:
        """What is to be shown alone: what is due again, and what else waits, in turns."""
        others = bool(self._alone) or len(self._inbox) > 0
        if self._retries.is_due() and not (self._retried and others):
            self._retried = True
            self._count("converge_messages_retried_total")
            return self._retries.pop()
        self._retried = False
        if not self._alone:
            self._avoided = None
            return None
        if self._failures >= _FAILURES_BEFORE_ERROR and self._blames_one_sender:
            self._avoided = min(self._blamed)
        return self._alone.pop(0) if self._avoided is None else self._from_another_sender(self._avoided)

    @property
    def _blames_one_sender(self) -> bool:
        return len(self._blamed) == 1 and "" not in self._blamed

    def _from_another_sender(self, avoided: str) -> Attempt:
        """A message of another sender, if there is one: the poison of one must not keep all others waiting."""
        while batch := self._next_batch():
            self._alone.extend(Attempt(message) for message in batch)
        for index, attempt in enumerate(self._alone):
            if (attempt.message.sender or _UNSIGNED) != avoided:
                del self._alone[index]
                return attempt
        return self._alone.pop(0)

    @property
    def _holds_enough(self) -> bool:
        """Whether so many failed messages wait that the inbox, and then the transport, have to hold the others."""
        return len(self._retries) + len(self._alone) >= MAX_WAITING

    def _next_batch(self) -> list[Message]:
        return [] if self._holds_enough else self._inbox.poll(_MESSAGES_AT_ONCE)

    async def _show(self, messages: list[Message], tasks: list[Task], changed: bool) -> None:
        agent = self._agent
        if _ticks(agent):
            await self._settled(agent.on_tick, list(messages), tasks)
        if agent.state is AgentState.OFFLINE:
            self._cut_short(messages)
        elif messages or changed or self._tool_results():
            with self._trace.turn(messages, tasks):
                await self._decide(list(messages), tasks)
            await self._handled(messages)

    def _cut_short(self, messages: list[Message]) -> None:
        """The agent ends and has not dealt with `messages`; if nobody brings them again, they are lost."""
        if messages and not self._transport.redelivers:
            self._count("converge_messages_dropped_at_stop_total", len(messages))

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
        if self._tasks is not None:
            tasks, asks_by = await self._on_store(self._list_tasks, self._tasks)
        else:
            tasks, asks_by = [], self._asks_by()
        held = {(task.id, task.attempt) for task in tasks if task.assigned_to == self._agent.id}
        if not held.issubset(self._held):
            self._claimed()
        self._held = held or ()
        seen = tuple((task.id, task.state, task.attempt) for task in tasks)
        changed = seen != self._seen
        self._seen, self._seen_by = seen, asks_by
        return tasks, changed

    def _list_tasks(self, tasks: TaskManager) -> tuple[list[Task], object]:
        agent, asks_by = self._agent, self._asks_by()
        pools = None if self._pools is None else self._pools.get_pools_for_agent(agent.id)
        pending = tasks.list_pending_tasks_for_agent(
            agent.id, pools, agent.capabilities.names(), agent.topics or None, _PENDING_SHOWN
        )
        return tasks.list_held_tasks(agent.id) + pending, asks_by

    def _tool_results(self) -> bool:
        outcomes = self._agent.outcomes
        return bool(outcomes) and _has([one for one in outcomes if one.status != "waiting"], InvokeTool)

    async def _decide(self, messages: list[Message], tasks: list[Task]) -> None:
        agent = self._agent
        self.last_activity = time.time()
        if agent.state is not AgentState.ERROR:
            agent.state = AgentState.BUSY
        decisions = await self._ask_and_tell(messages, tasks)
        self.carrying_out = True  # a stop waits for the end of this for a moment, lest it is done twice
        self._trace.decided(decisions)
        self._failures = 0
        self._blamed = _NOBODY
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
        if self._teller.listens("decide_starting"):
            await self._teller.tell("decide_starting", messages=messages, tasks=tasks)
        try:
            decisions = await self._settled(self._ask, messages, tasks)
            if isinstance(decisions, str | bytes) or not isinstance(decisions, Sequence):
                raise TypeError(f"decide() returned {type(decisions).__name__}; it returns a list of decisions")
        except Exception as error:
            await self._teller.tell("decide_finished", decisions=(), error=error)
            raise
        if self._teller.listens("decide_finished"):
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
            outcomes: Any = await self._settled(self._executor.execute, decisions)
            return tuple(outcomes or ())
        except Exception as error:  # noqa: BLE001  # an executor is a plugin; the agent sees what became of it
            self._count("converge_execute_failures_total")
            _log.exception("the executor of %s has failed", self._agent.id)
            return tuple(Outcome(decision, "failed", error=described(error)) for decision in decisions)

    async def _settled(self, call: Callable[..., object], *args: object) -> object:
        """As `settled`; user code that cancels the task it runs in has failed, and does not end the agent."""
        try:
            return await settled(call, *args)
        except asyncio.CancelledError as error:
            if self._ending():
                raise
            undo_cancel()
            raise contained(error) from error

    async def _failed(
        self, error: Exception, messages: list[Message], attempt: Attempt | None, *, changed: bool
    ) -> None:
        agent, again = self._agent, attempt is not None and attempt.failures > 0
        self._failures += not again  # one message, however often it fails, does not put the agent into ERROR
        if len(messages) > 1:
            self._alone.extend(Attempt(message) for message in messages)
        elif messages:
            await self._failed_alone(error, attempt or Attempt(messages[0]))
        else:
            self._blame("")
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
        await asyncio.sleep(0 if again else self._pause(messages))

    def _pause(self, messages: list[Message]) -> float:
        """How long the agent rests: an agent that fails at all it is shown for long, else the others go on."""
        if self._failures == 1 or (messages and self._failures < _FAILURES_BEFORE_ERROR):
            return 0.0
        most = _ONE_SENDER_BACKOFF_SEC if messages and self._blames_one_sender else _MAX_BACKOFF_SEC
        return backoff(self._failures, min(most, _MAX_BACKOFF_SEC))

    def _blame(self, sender: str) -> None:
        if len(self._blamed) < 2:  # whether it is one is all that is asked, and senders may be as many as they like
            self._blamed |= {sender}

    async def _failed_alone(self, error: Exception, attempt: Attempt) -> None:
        self._count("converge_messages_failed_total")
        self._blame(attempt.message.sender or _UNSIGNED)
        failed = Attempt(attempt.message, attempt.failures + 1, described(error))
        if failed.failures < MAX_FAILURES:
            self._retries.add(failed)
        else:
            await self._park(failed)

    async def _park(self, failed: Attempt) -> None:
        """Give the message up, and only then let the transport forget it; when the store is away, try that again."""
        agent, message = self._agent, failed.message
        try:
            dropped = await self.parking.park(message, failed.error, failed.failures, self._on_store)
        except Exception:  # noqa: BLE001  # whatever a store raises, the message is not lost
            self._count("converge_park_failures_total")
            _log.exception("%s: message %r could not be parked; it is tried again", agent.id, message.id)
            self._retries.add(failed)
            return
        self._count("converge_messages_parked_total")
        self._count("converge_parked_messages_dropped_total", dropped)
        reason = failed.error.partition(":")[0]  # its text may be of the payload
        _log.error("%s: message %r is parked after %d failures: %s", agent.id, message.id, failed.failures, reason)
        if dropped:
            _log.warning("%s: too many messages are parked; %d old ones were dropped", agent.id, dropped)
        await self._teller.tell("message_parked", message=message, error=failed.error, failures=failed.failures)
        await self.acknowledge([message])

    async def _handled(self, messages: list[Message]) -> None:
        if self.parking.awaits:
            for message in messages:
                await self._forget_parked(message)
        await self.acknowledge(messages)

    async def _forget_parked(self, message: Message) -> None:
        try:
            await self.parking.settle(message, self._on_store)
        except Exception:  # noqa: BLE001  # the message is handled; at worst it is parked again after a restart
            self._count("converge_park_failures_total")
            _log.exception("%s: the record of a requeued message could not be removed", self._agent.id)

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        """What was handled is not to come again; if the transport cannot note that, it may, after a restart."""
        try:
            if messages:
                await settled(self._transport.acknowledge, messages)
        except Exception:  # noqa: BLE001  # the messages are handled, whatever the transport raises
            self._count("converge_acknowledge_failures_total")
            _log.exception("%s: %d messages could not be acknowledged", self._agent.id, len(messages))


def _ticks(agent: Agent) -> bool:
    """Whether the agent has an `on_tick` of its own."""
    return getattr(agent.on_tick, "__func__", None) is not Agent.on_tick


def _has(outcomes: Iterable[Outcome], *kinds: type[Decision]) -> bool:
    """Whether one of `outcomes` is that of a decision of one of these kinds. There may be many, of few classes."""
    return any(issubclass(kind, kinds) for kind in {type(outcome.decision) for outcome in outcomes})


def _left_undone(outcomes: Sequence[Outcome]) -> bool:
    """Whether a task decision raised: the set of tasks may be as it was, and nothing else would call `decide` again."""
    return _has([outcome for outcome in outcomes if outcome.status == "failed"], SubmitTask, ClaimTask, ReportTask)
