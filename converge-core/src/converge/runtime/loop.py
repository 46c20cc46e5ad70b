"""The execution loop of one agent."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, Self

from converge.coordination.ballot import BallotBox
from converge.core.agent import Agent, AgentState, Outcome
from converge.core.decisions import ClaimTask, Decision, InvokeTool
from converge.network.network import AgentNetwork, build_descriptor
from converge.runtime.context import AgentContext
from converge.runtime.executor import Executor, StandardExecutor
from converge.runtime.inbox import Inbox
from converge.runtime.scheduler import Scheduler
from converge.runtime.threads import StoreThread, in_own_thread
from converge.runtime.watch import TaskWatch

if TYPE_CHECKING:
    from types import TracebackType

    from converge.coordination.pool_manager import PoolManager
    from converge.coordination.task_manager import TaskManager
    from converge.core.message import Message
    from converge.core.store import Store
    from converge.core.task import Task
    from converge.core.tools import ToolRegistry
    from converge.network.discovery import AgentDescriptor, DiscoveryService
    from converge.network.identity_registry import IdentityRegistry
    from converge.network.transport.base import Transport
    from converge.observability.metrics import MetricsCollector
    from converge.observability.replay import ReplayLog

__all__ = ["AgentRuntime", "Inbox"]

STOP_TIMEOUT_SEC = 10.0
PENDING_SHOWN = 32
_FAILURES_BEFORE_ERROR = 5
_MAX_BACKOFF_SEC = 30.0
_log = logging.getLogger(__name__)


class AgentRuntime:
    """Runs one agent: waits for work, shows it to the agent, and carries out what the agent decides.

    One turn of the loop: wait for work (a message, a tool result, a change of tasks, or `receive_timeout_sec`) → drain
    the inbox → list the tasks the agent holds and could claim (its pools, its capabilities; at most 32 pending ones) →
    `on_tick` → `decide` → execute. `decide` is called at the start, and then when there are messages, tool results or
    a changed set of tasks.

    Claims are renewed at a third of their TTL while the agent runs, and given back when it stops. A failing `decide`
    costs its batch, is counted as `converge_decide_failures_total` and backs off; five in a row put the agent into
    ERROR, in which it is unhealthy, until one succeeds. With `identity_registry` only verified messages of the senders
    in it are taken; without one, unsigned ones too, but never a forged one. `claim_ttl_interval_sec` makes this
    runtime release expired claims, of any agent, at that interval. With `checkpoint_store`, the Unix time of the last
    activity is written to `checkpoint:<agent id>` every `checkpoint_interval_sec`.

    `health_check` and `ready_check` are asked besides. `executor_factory` is called with the arguments of
    `StandardExecutor`, those of `executor_kwargs` included. For one event loop; an `async with` block starts and stops.
    """

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
    ) -> None:
        self.agent, self.transport = agent, transport
        self._pools, self._tasks, self._metrics = pool_manager, task_manager, metrics_collector
        self._descriptor = agent_descriptor
        self._registry, self._replay_log = identity_registry, replay_log
        self._checkpoints, self._checkpoint_interval = checkpoint_store, checkpoint_interval_sec
        self._inbox = Inbox(**(inbox_kwargs or {})) if inbox is None else inbox
        self._scheduler = Scheduler() if scheduler is None else scheduler
        self._health_check, self._ready_check = health_check, ready_check
        self._receive_timeout, self._release_interval = receive_timeout_sec, claim_ttl_interval_sec
        self._network = AgentNetwork(transport, discovery_service)
        self._store_thread = StoreThread()
        kwargs = {
            "metrics_collector": metrics_collector,
            "replay_log": replay_log,
            "tool_registry": tool_registry,
            "store_thread": self._store_thread,
            **(executor_kwargs or {}),
        }
        make = StandardExecutor if executor_factory is None else executor_factory
        self._executor: Executor = make(agent.id, self._network, task_manager, pool_manager, **kwargs)
        votes = kwargs.get("votes_store")
        self._ballots = None if votes is None else BallotBox(votes)
        self._main: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._claimed = asyncio.Event()
        self._seen: object = None
        self._failures = 0
        self._last_activity = 0.0

    # -- life

    @property
    def running(self) -> bool:
        """Whether the agent has started and not yet stopped."""
        return self._main is not None and not self._main.done() and not self._stopping.is_set()

    def is_healthy(self) -> bool:
        """Whether the loop runs, the agent is not in ERROR, and `health_check` agrees."""
        alive = self.running and self.agent.state is not AgentState.ERROR
        return alive and (self._health_check is None or self._health_check())

    def is_ready(self) -> bool:
        """Whether the agent takes work, and `ready_check` agrees."""
        return self.running and (self._ready_check is None or self._ready_check())

    async def start(self) -> None:
        """Start the agent. When this raises, nothing is left running. Starting a running one is a `RuntimeError`."""
        if self._main is not None and not self._main.done():
            raise RuntimeError(f"the runtime of {self.agent.id} runs already; stop it first")
        self._stopping.clear()
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._main = asyncio.create_task(self._serve(started), name=f"converge-agent-{self.agent.id[:8]}")
        await asyncio.wait({self._main, started}, return_when=asyncio.FIRST_COMPLETED)
        if not started.done():
            main, self._main = self._main, None
            await main

    async def stop(self) -> None:
        """Stop the agent and give its claims back; returns within `STOP_TIMEOUT_SEC` seconds and some, also when the
        agent hangs. Stopping twice, or one that never ran, is no error.
        """
        main = self._main
        if main is None:
            return
        self._stopping.set()
        done, _ = await asyncio.wait({main}, timeout=STOP_TIMEOUT_SEC)
        if not done:
            _log.error("%s did not stop within %s s; it is cut off", self.agent.id, STOP_TIMEOUT_SEC)
            main.cancel()
            await asyncio.wait({main}, timeout=1.0)

    async def wait_stopped(self) -> None:
        """Return when the agent has stopped, by `stop`, by itself (OFFLINE), or by an error, which is raised here."""
        if self._main is not None:
            await asyncio.wait({self._main})
            if not self._main.cancelled():
                self._main.result()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def _serve(self, started: asyncio.Future[None]) -> None:
        try:
            async with AsyncExitStack() as stack:
                await self._open(stack)
                started.set_result(None)
                async with asyncio.TaskGroup() as group:
                    jobs = [group.create_task(job) for job in self._jobs()]
                    await asyncio.wait({group.create_task(self._until_done())})
                    for job in jobs:
                        job.cancel()
        except Exception:
            if started.done():
                _log.exception("the runtime of %s has failed", self.agent.id)
            raise
        finally:
            self.agent.state = AgentState.OFFLINE

    async def _open(self, stack: AsyncExitStack) -> None:
        agent = self.agent
        self._store_thread.open()
        stack.callback(self._store_thread.close)
        await self.transport.start()
        stack.push_async_callback(self._guarded, "stopping the transport", self.transport.stop)
        for topic in agent.topics:
            await self.transport.subscribe(topic)
        agent.bind(AgentContext(self._network, self._tasks, self._pools, self._ballots, self._store_thread))
        stack.callback(agent.bind, None)
        if self._tasks is not None:
            stack.callback(self._tasks.add_listener(self._scheduler.notify))
            watch = TaskWatch.of(self._tasks)
            watch.open()
            stack.push_async_callback(watch.close)
            await self._on_store(self._tasks.take_over, agent.id)
            stack.push_async_callback(self._guarded, "giving the claims back", self._give_back)
        agent.state = AgentState.IDLE
        stack.push_async_callback(self._guarded, "on_stop", lambda: _settled(agent.on_stop()))
        await _settled(agent.on_start())
        descriptor = build_descriptor(agent) if self._descriptor is None else self._descriptor
        await self._on_store(self._network.register_agent, agent, descriptor)
        stack.push_async_callback(self._guarded, "unregistering", self._unregister)

    def _jobs(self) -> list[Any]:
        jobs = [self._listen()]
        if self._tasks is not None:
            jobs.append(self._renew(self._tasks))
            if self._release_interval is not None:
                jobs.append(self._release(self._tasks, self._release_interval))
        if self._checkpoints is not None:
            jobs.append(self._checkpoint(self._checkpoints))
        return jobs

    async def _until_done(self) -> None:
        """Run the loop until the agent goes OFFLINE or `stop` is called."""
        loop = asyncio.create_task(self._loop())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({loop, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if loop.done():
                loop.result()
        finally:
            for task in (loop, stopping):
                task.cancel()
            await asyncio.wait({loop, stopping})

    async def _guarded(self, what: str, step: Callable[[], Awaitable[object]]) -> None:
        """One step of stopping: neither its failure nor its hanging keeps the others from being done."""
        try:
            async with asyncio.timeout(STOP_TIMEOUT_SEC / 4):
                await step()
        except Exception:  # noqa: BLE001  # counted and logged; the other steps follow
            self._count("converge_stop_failures_total")
            _log.exception("%s: %s failed", self.agent.id, what)

    async def _unregister(self) -> None:
        await self._on_store(self._network.unregister_agent, self.agent.id)

    async def _give_back(self) -> None:
        tasks = self._tasks
        assert tasks is not None  # only registered with a task manager
        await self._on_store(tasks.release_claims, self.agent.id)

    # -- the loop

    async def _loop(self) -> None:
        more = True
        while True:
            if not more:
                await self._scheduler.wait_for_work(self._receive_timeout)
            messages = self._inbox.poll()
            try:
                tasks, changed = await self._look()
                await _settled(self.agent.on_tick(messages, tasks))
                if messages or changed or self._tool_results():
                    await self._decide(messages, tasks)
            except (Exception, SystemExit) as error:  # noqa: BLE001  # user code; reported, counted, backed off
                await self._failed(error, len(messages))
            if self.agent.state is AgentState.OFFLINE:
                return
            more = bool(len(self._inbox)) or self._tool_results()
            if more:
                await asyncio.sleep(0)

    async def _look(self) -> tuple[list[Task], bool]:
        tasks = [] if self._tasks is None else await self._on_store(self._list_tasks, self._tasks)
        seen = [(task.id, task.state, task.attempt) for task in tasks]
        changed = seen != self._seen
        self._seen = seen
        return tasks, changed

    def _list_tasks(self, tasks: TaskManager) -> list[Task]:
        agent = self.agent
        pools = None if self._pools is None else self._pools.get_pools_for_agent(agent.id)
        pending = tasks.list_pending_tasks_for_agent(
            agent.id, pools, agent.capabilities.names(), agent.topics or None, PENDING_SHOWN
        )
        return tasks.list_held_tasks(agent.id) + pending

    def _tool_results(self) -> bool:
        return any(isinstance(outcome.decision, InvokeTool) for outcome in self.agent.outcomes)

    async def _decide(self, messages: list[Message], tasks: list[Task]) -> None:
        agent = self.agent
        self._last_activity = time.time()
        if agent.state is not AgentState.ERROR:
            agent.state = AgentState.BUSY
        if agent.blocking and not inspect.iscoroutinefunction(agent.decide):
            decisions = await _settled(
                await in_own_thread(f"converge-decide-{agent.id[:8]}", agent.decide, messages, tasks)
            )
        else:
            decisions = await _settled(agent.decide(messages, tasks))
        if isinstance(decisions, str) or not isinstance(decisions, Sequence):
            raise TypeError(f"decide() returned {type(decisions).__name__}; it returns a list of decisions")
        self._failures = 0
        if agent.state is not AgentState.OFFLINE:
            agent.state = AgentState.IDLE
        agent.outcomes = ()
        agent.outcomes = await self._execute(decisions)
        if any(isinstance(outcome.decision, ClaimTask) for outcome in agent.outcomes):
            self._claimed.set()

    async def _execute(self, decisions: Sequence[Decision]) -> tuple[Outcome, ...]:
        return tuple(await self._executor.execute(decisions) or ()) if decisions else ()

    async def _failed(self, error: BaseException, messages: int) -> None:
        agent = self.agent
        self._failures += 1
        agent.outcomes = ()
        self._seen = None
        self._count("converge_decide_failures_total")
        self._count("converge_messages_failed_total", messages)
        _log.error("%s failed (%d in a row), %d messages lost", agent.id, self._failures, messages, exc_info=error)
        if self._failures >= _FAILURES_BEFORE_ERROR:
            agent.state = AgentState.ERROR
        elif agent.state is AgentState.BUSY:
            agent.state = AgentState.IDLE
        await asyncio.sleep(0 if self._failures == 1 else min(0.05 * 2**self._failures, _MAX_BACKOFF_SEC))

    # -- beside the loop

    async def _listen(self) -> None:
        failures = 0
        while True:
            try:
                message = await self._receive()
            except OSError as error:
                failures += 1
                self._count("converge_receive_failures_total")
                _log.warning("%s: receiving failed (%d in a row): %s", self.agent.id, failures, error)
                await asyncio.sleep(min(0.05 * 2**failures, _MAX_BACKOFF_SEC))
                continue
            failures = 0
            if message is None:
                self._count("converge_messages_refused_total")
                continue
            if self._replay_log is not None:
                self._replay_log.record_message(message)
            await self._inbox.push(message)
            self._count("converge_messages_received_total")
            self._scheduler.notify()

    async def _receive(self) -> Message | None:
        """The next message; None when one came and was refused."""
        try:
            if self._registry is not None:
                return await self.transport.receive_verified(self._registry)
            message = await self.transport.receive()
        except ValueError as error:
            _log.warning("%s: what came is no message: %s", self.agent.id, error)
            return None
        return None if message.is_signed and not message.verify() else message

    async def _renew(self, tasks: TaskManager) -> None:
        """Renew the claims of this agent when a third of their TTL is over."""
        while True:
            self._claimed.clear()
            pause = await self._on_store(tasks.renew_claims, self.agent.id)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._claimed.wait()

    async def _release(self, tasks: TaskManager, interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            released = await self._on_store(tasks.release_expired_claims)
            self._count("converge_claims_released_total", len(released))

    async def _checkpoint(self, store: Store) -> None:
        while True:
            await asyncio.sleep(self._checkpoint_interval)
            await self._on_store(store.put, f"checkpoint:{self.agent.id}", self._last_activity)

    async def _on_store(self, call: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401  # passes through
        parts = (self._tasks, self._pools, self._checkpoints, self._network.discovery)
        if any(part is not None and part.blocking for part in parts):
            return await self._store_thread.run(call, *args)
        return call(*args)

    def _count(self, name: str, value: int = 1) -> None:
        if self._metrics is not None and value:
            self._metrics.inc(name, value)


async def _settled(value: Any) -> Any:  # noqa: ANN401  # what a plain or async hook of the user returns
    return await value if inspect.isawaitable(value) else value
