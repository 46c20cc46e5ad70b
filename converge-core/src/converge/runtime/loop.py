"""The execution loop of one agent."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from converge.coordination.ballot import BallotBox
from converge.core.agent import Agent, AgentState
from converge.core.message import Message
from converge.network.network import AgentNetwork
from converge.runtime.agent_tools import AgentTools
from converge.runtime.approving import gate_of
from converge.runtime.calls import contained, end_all, settled, undo_cancel, within
from converge.runtime.closing import Step, undo
from converge.runtime.context import AgentContext
from converge.runtime.executor import Executor, StandardExecutor
from converge.runtime.inbox import Inbox
from converge.runtime.life import Life
from converge.runtime.parking import ParkedMessage, Parking
from converge.runtime.presence import Presence
from converge.runtime.scheduler import Scheduler
from converge.runtime.shared.approvals import ApprovalWatch
from converge.runtime.shared.claims import ClaimRenewer
from converge.runtime.shared.tasks import TaskWatch
from converge.runtime.telling import Teller
from converge.runtime.threads import StoreThread
from converge.runtime.turns import Turns
from converge.runtime.upkeep import FailureStreak, Upkeep

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping

    from converge.coordination.approvals import Approvals
    from converge.coordination.pool_manager import PoolManager
    from converge.coordination.task_manager import TaskManager
    from converge.core.store import Store
    from converge.core.tools import ToolRegistry
    from converge.network.discovery import AgentDescriptor, DiscoveryService
    from converge.network.identity_registry import IdentityRegistry
    from converge.network.transport.base import Transport
    from converge.observability.metrics import MetricsCollector
    from converge.observability.replay import ReplayLog
    from converge.plugins.lifecycle import Lifecycle
    from converge.policy.approval import ApprovalPolicy

__all__ = ["AgentRuntime", "Inbox"]

_MESSAGES_AT_ONCE = 64
# A stop lets what was decided be carried out for a moment, cancels the loop, then takes five steps; each has this long.
# With the grace for what ignores being cancelled that is less than STOP_TIMEOUT_SEC.
_FINISH_SEC = 0.5
_LOOP_END_SEC = 0.25
_STEP_SEC = 1.5
_log = logging.getLogger(__name__)


class AgentRuntime(Life):
    """Runs one agent: waits for work, shows it to the agent, and carries out what the agent decides.

    One turn of the loop: wait for work (a message, a tool result, a change of tasks, or `receive_timeout_sec`) → drain
    the inbox → list the tasks the agent holds and could claim (its pools, its capabilities; at most 32 pending ones) →
    `on_tick` → `decide` → execute. `decide` is called at the start, and then when there are messages, tool results or
    a changed set of tasks; and again, after pauses that grow from 1 to 30 s, while submitting, claiming or reporting a
    task fails, or a store that was away for a moment would leave work undone for good.

    Claims, and the lease in discovery, are renewed at a third of their TTL while the agent runs, and given back when it
    stops. A `decide` that fails (raises, or returns no list) is counted as `converge_decide_failures_total`; its
    messages are shown again one by one. One that fails alone (`converge_messages_failed_total`) is shown again after
    0.1, 0.5, 2.5 and 12.5 s, while the others go on, and is parked at its fifth failure: acknowledged, counted as
    `converge_messages_parked_total`, and kept with the reason in `parked`, also beyond this process if `parking` has a
    store. Failures of different causes back off; five in a row put the agent into ERROR, in which it is unhealthy,
    until one succeeds.

    With `identity_registry` only verified messages of the senders in it are taken; without one, unsigned ones too, but
    never a forged one. `claim_ttl_interval_sec` makes this runtime release expired claims, of any agent, at that
    interval. With `checkpoint_store`, the Unix time of the last activity is written to `checkpoint:<agent id>` every
    `checkpoint_interval_sec`. `store`, by default the same, is the agent's to use (`agent.context.store`).

    Decisions that `approval_policy` asks a person about wait in `approvals`; one is no use without the other
    (docs/approvals.md). The listeners of `lifecycle` are told what happens (docs/hooks.md).

    `health_check` and `ready_check` are asked besides. `executor_factory` is called with the arguments of
    `StandardExecutor`, those of `executor_kwargs` included. For one event loop; an `async with` block starts and stops.
    """

    __slots__ = (  # one an agent; the dict is made only for what somebody adds
        "__dict__", "__weakref__", "_ballots", "_checkpoint_interval", "_checkpoints", "_executor", "_gate",
        "_health_check", "_inbox", "_metrics", "_network", "_pools", "_presence", "_reached", "_reader", "_ready_check",
        "_receive_timeout", "_receiving", "_registry", "_release_interval", "_replay_log", "_scheduler", "_store",
        "_store_thread", "_tasks", "_teller", "_tools", "_turns", "agent", "transport",
    )  # fmt: skip

    def __init__(
        self,
        agent: Agent,
        transport: Transport,
        pool_manager: PoolManager | None = None,
        task_manager: TaskManager | None = None,
        metrics_collector: MetricsCollector | None = None,
        discovery_service: DiscoveryService | None = None,
        agent_descriptor: AgentDescriptor | None = None,
        identity_registry: IdentityRegistry | None = None,
        replay_log: ReplayLog | None = None,
        tool_registry: ToolRegistry | None = None,
        checkpoint_store: Store | None = None,
        checkpoint_interval_sec: float = 60.0,
        inbox: Inbox | None = None,
        inbox_kwargs: Mapping[str, Any] | None = None,
        scheduler: Scheduler | None = None,
        executor_factory: Callable[..., Executor] | None = None,
        executor_kwargs: Mapping[str, Any] | None = None,
        health_check: Callable[[], bool] | None = None,
        ready_check: Callable[[], bool] | None = None,
        receive_timeout_sec: float = 30.0,
        claim_ttl_interval_sec: float | None = None,
        lifecycle: Lifecycle | None = None,
        parking: Parking | None = None,
        approvals: Approvals | None = None,
        approval_policy: ApprovalPolicy | None = None,
        store: Store | None = None,
    ) -> None:
        super().__init__()
        self.agent, self.transport, self._store = agent, transport, checkpoint_store if store is None else store
        self._pools, self._tasks, self._metrics = pool_manager, task_manager, metrics_collector
        self._registry, self._replay_log = identity_registry, replay_log
        self._checkpoints, self._checkpoint_interval = checkpoint_store, checkpoint_interval_sec
        self._inbox = Inbox(**(inbox_kwargs or {})) if inbox is None else inbox
        self._scheduler = Scheduler() if scheduler is None else scheduler
        self._health_check, self._ready_check = health_check, ready_check
        self._receive_timeout, self._release_interval = receive_timeout_sec, claim_ttl_interval_sec
        self._teller = Teller(agent, lifecycle)
        self._network = AgentNetwork(transport, discovery_service, on_sent=self._teller.sent if lifecycle else None)
        self._network.read = self._receive
        self._presence = Presence(agent, self._network, agent_descriptor, self._on_store)
        self._store_thread = StoreThread()
        kwargs = {
            "metrics_collector": metrics_collector,
            "replay_log": replay_log,
            "store_thread": self._store_thread,
            "capabilities": self._capabilities,
            **(executor_kwargs or {}),
        }
        self._tools = AgentTools(kwargs.get("tool_registry", tool_registry))
        self._tools.take(agent.tools)
        kwargs["tool_registry"] = self._tools
        self._gate = gate_of(agent.id, approvals, approval_policy, kwargs.get("custom_handlers"))
        if self._gate is not None:
            kwargs["approvals"] = self._gate
        make = StandardExecutor if executor_factory is None else executor_factory
        self._executor: Executor = make(agent.id, self._network, task_manager, pool_manager, **kwargs)
        votes = kwargs.get("votes_store")
        self._ballots = None if votes is None else BallotBox(votes)
        self._reached = Step.NONE
        self._receiving = FailureStreak()
        self._reader: asyncio.Task[None] | None = None
        self._turns = Turns(
            agent,
            self._executor,
            self._inbox,
            self._scheduler,
            self._teller,
            transport,
            task_manager,
            pool_manager,
            Parking(agent.id) if parking is None else parking,
            approvals=self._gate,
            on_store=self._on_store,
            count=self._count,
            claimed=self._has_claimed,
            ending=self._is_ending,
        )

    # -- life

    @property
    def name(self) -> str:
        """The id of its agent."""
        return self.agent.id

    def is_healthy(self) -> bool:
        """Whether the loop runs, messages can be received, the agent is not in ERROR, and `health_check` agrees; one
        that raises does not.

        True within a second of what it says. A `decide` that takes long is no failure, however long; one that blocks
        the event loop also blocks who asks this, so ask from outside with a timeout.
        """
        return self.is_receiving and self.agent.state is not AgentState.ERROR and self._agrees(self._health_check)

    def is_ready(self) -> bool:
        """Whether the agent takes work, and `ready_check` agrees; one that raises does not."""
        return self.is_receiving and self._agrees(self._ready_check)

    @property
    def is_receiving(self) -> bool:
        """Whether it runs, and its transport does not fail again and again at receiving."""
        return self.running and not self._receiving.lasts

    @property
    def parked(self) -> tuple[ParkedMessage, ...]:
        """The messages that failed five times, the oldest first: at most 100, unless `parking` says otherwise."""
        return self._turns.parking.messages

    async def requeue(self, message_id: str) -> int:
        """Show parked messages of this id to the agent again, as if they had never failed; how many there were."""
        messages = self._turns.parking.requeue(message_id)
        self._turns.requeue(messages)
        return len(messages)

    async def drop_parked(self, message_id: str) -> int:
        """Forget parked messages of this id for good; how many there were. Raises what the store raises."""
        return await self._turns.parking.drop(message_id, self._on_store)

    def _capabilities(self) -> Collection[str]:
        return self.agent.capabilities.names()  # of the set that the agent has now: it may be replaced

    def _agrees(self, check: Callable[[], bool] | None) -> bool:
        try:
            return check is None or bool(check())
        except (Exception, SystemExit):  # noqa: BLE001  # user code; an unknown state is not a healthy one
            _log.exception("%s: its health or ready check failed", self.agent.id)
            return False

    async def _open(self) -> None:
        agent, self._receiving = self.agent, FailureStreak()
        await self._teller.tell("runtime_starting")
        self._turns.begin()
        self._store_thread.open()
        self._reached = Step.TRANSPORT  # the thread is open, and the executor is there
        await settled(self.transport.bind_identity, agent.identity)
        await settled(self.transport.start)
        context = AgentContext(self._network, self._tasks, self._pools, self._ballots, self._store_thread, self._tools)
        agent.bind(context.lend(self._store, self._metrics, self._turns))
        self._reached = Step.CONTEXT
        if self._tasks is not None:
            self._reached = Step.RENEWING  # all of these at once: what has not begun is undone as well
            await settled(TaskWatch.of(self._tasks).open, self, self._scheduler.notify)
            ClaimRenewer.of(self._tasks).open(agent.id, self._renewing_failed)
        self._turns.parking.adopt(await self._on_store(self._take_up))
        if self._gate is not None:
            self._reached = Step.APPROVALS
            ApprovalWatch.of(self._gate.approvals).open(agent.id, self._answered)
        self._reached = Step.PRESENCE
        await settled(self._presence.announce)  # before on_start, so that what it sends is signed
        agent.state = AgentState.IDLE
        self._reached = Step.ON_STOP
        await settled(agent.on_start)
        self._tools.take(agent.tools)  # on_start may have added some
        await settled(self._presence.announce)  # on_start may have added topics and capabilities
        await self._teller.tell("agent_started")

    def _take_up(self) -> dict[str, ParkedMessage]:
        """What an earlier life of this agent has left in the store, in one hop."""
        if self._tasks is not None:
            self._tasks.take_over(self.agent.id)
        return self._turns.parking.stored()

    def _answered(self) -> None:
        assert self._gate is not None  # only registered with one
        self._gate.notice()
        self._scheduler.notify()

    async def _guarded(self, what: str, step: Callable[[], Awaitable[object] | None]) -> None:
        """One step of stopping: neither its failure nor its hanging keeps the others from being done."""
        try:
            await within(_STEP_SEC, what, step)
        except Exception:  # noqa: BLE001  # counted and logged; the other steps follow
            self._count("converge_stop_failures_total")
            _log.exception("%s: %s failed", self.agent.id, what)

    def _beside(self) -> list[Coroutine[Any, Any, None]]:
        upkeep = Upkeep(self.agent.id, self._count, self._on_store, self._is_ending)
        jobs = []
        self._network.is_read = True
        if not self.transport.call_when_waiting(self._read):
            jobs.append(self._receive_on(upkeep))
        elif self.transport.waiting or self._network.has_unread:
            self._read()
        if self._tasks is not None and self._release_interval is not None:
            jobs.append(upkeep.releasing(self._tasks, self._release_interval))
        if self._checkpoints is not None:
            jobs.append(
                upkeep.checkpoints(self._checkpoints, self._checkpoint_interval, lambda: self._turns.last_activity)
            )
        return jobs

    async def _finish(self, tasks: list[asyncio.Task[None]]) -> None:
        if self._reader is not None:
            tasks.append(self._reader)
        if self._turns.carrying_out:
            await asyncio.wait(tasks[:1], timeout=_FINISH_SEC)
        await end_all(tasks, _LOOP_END_SEC)
        self._turns.put_away()
        self._network.is_read = False
        self.transport.call_when_waiting(None)

    async def _undo(self) -> None:
        try:
            await undo(self)
        finally:
            self.agent.state = AgentState.OFFLINE
            await self._teller.tell("runtime_stopped")

    # -- the loop

    async def _work(self) -> None:
        turns, at_once = self._turns, True
        if isinstance(self._scheduler, Scheduler):
            self._scheduler.rests = self._rests
        while self.agent.state is not AgentState.OFFLINE and not self._is_ending():
            try:
                if not at_once:
                    work = await self._scheduler.wait_for_work(turns.patience(self._receive_timeout))
                    if work is False and turns.is_at_rest():
                        continue
                await turns.take()
                at_once = turns.has_more
                if at_once:
                    await asyncio.sleep(0)
            except asyncio.CancelledError:
                if self._is_ending() or self._is_cut_off():
                    raise
                undo_cancel()  # a plain `decide` has cancelled the task that it runs in
                _log.warning("%s: its loop was cancelled, and not by a stop; it goes on", self.agent.id)
            except SystemExit as error:  # of a scheduler that somebody else wrote; it would end the process
                raise contained(error) from error

    def _rests(self) -> float:
        return self._receive_timeout if self._turns.is_at_rest() and not self._is_ending() else 0.0

    def _has_claimed(self) -> None:
        if self._tasks is not None:
            ClaimRenewer.of(self._tasks).look(self.agent.id)

    def _renewing_failed(self) -> None:
        self._count("converge_renew_failures_total")

    # -- beside the loop: each is one step of a job

    def _read(self) -> None:
        """Take what waits in the transport, with a task that ends when nothing does; the transport calls this."""
        if (self._reader is None or self._reader.done()) and not self._is_ending():
            upkeep = Upkeep(self.agent.id, self._count, self._on_store, self._is_ending)
            self._reader = asyncio.create_task(self._read_all(upkeep))

    async def _read_all(self, upkeep: Upkeep) -> None:
        try:
            await self._receive_on(upkeep, lambda: self.transport.waiting > 0)
        finally:
            self._reader = None

    def _receive_on(self, upkeep: Upkeep, more: Callable[[], bool] = lambda: True) -> Coroutine[Any, Any, None]:
        what, counter = "receiving", "converge_receive_failures_total"
        return upkeep.forever(what, counter, self._listen, self._receiving, more)

    async def _listen(self) -> None:
        """Take the next message, and what has come with it, before the loop is woken."""
        if unread := self._network.unread():  # which came while on_start waited for an answer
            for message in unread:
                await self._take(message)
            return
        await self._take(await self._receive())
        for _ in range(min(self.transport.waiting, _MESSAGES_AT_ONCE - 1)):
            await self._take(await self._receive())

    def _receive(self) -> Awaitable[Message | None]:
        return self.transport.receive_verified(self._registry, allow_unsigned=self._registry is None)

    async def _take(self, message: Message | None) -> None:
        if message is None:
            self._count("converge_messages_refused_total")
            return
        if not isinstance(message, Message):
            raise TypeError(f"receive_verified() of {type(self.transport).__name__} gave a {type(message).__name__}")
        if self._replay_log is not None:
            self._record(self._replay_log, message)
        if self._network.requests.take(message):
            self._count("converge_answers_received_total")
            await self._turns.acknowledge([message])
            return
        if self._turns.parking.holds(message):
            await self._turns.acknowledge([message])
            return
        await self._inbox.push(message)
        self._scheduler.notify()
        self._count("converge_messages_received_total")
        if self._teller.listens("message_received"):
            await self._teller.tell("message_received", message=message)

    def _record(self, log: ReplayLog, message: Message) -> None:
        try:
            log.record_message(message)
        except Exception:  # noqa: BLE001  # a log that fails, say on one of another make, costs no message
            self._count("converge_replay_failures_total")
            _log.exception("%s: message %r could not be recorded", self.agent.id, message.id)

    async def _on_store(self, call: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401  # passes through
        parts = (
            self._tasks,
            self._pools,
            self._checkpoints,
            self._network.shared_discovery,
            self._gate,
            self._turns.parking,
        )
        if any(part is not None and part.blocking for part in parts):
            return await self._store_thread.run(call, *args)
        try:
            return call(*args)
        except BaseException as error:
            if (failure := contained(error)) is error:
                raise
            raise failure from error  # a SystemExit would end the process

    def _count(self, name: str, value: int = 1) -> None:
        if self._metrics is not None and value:
            self._metrics.inc(name, value)
