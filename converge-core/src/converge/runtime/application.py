"""A configuration brought to life: the store, the managers, and the agents of one process."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, NamedTuple

from converge.coordination.approvals import Approvals
from converge.coordination.bidding import StoredAuctions
from converge.coordination.delegation import DelegationProtocol
from converge.coordination.errors import PoolExists
from converge.coordination.negotiation import NegotiationProtocol
from converge.coordination.pool_manager import PoolManager
from converge.coordination.pool_outcomes import TaskTrust
from converge.coordination.task_index import TaskProgress
from converge.coordination.task_manager import TaskManager
from converge.core.agent import Agent
from converge.core.capability import Capability
from converge.core.store import Store
from converge.core.topic import Topic
from converge.network.discovery import DiscoveryService
from converge.network.transport.base import Transport
from converge.observability.metrics import MetricsCollector
from converge.plugins import PluginManager, default_manager
from converge.policy.approval import ApprovalPolicy
from converge.policy.errors import PolicyOptionError
from converge.runtime.endpoint import check_address
from converge.runtime.errors import AgentFailed, ConfigError
from converge.runtime.execution import check_execution, executor_factory, handlers_of, tools_of
from converge.runtime.inbox import Inbox
from converge.runtime.keys import Member, members
from converge.runtime.limiting import limits_of, pool_limiters
from converge.runtime.loop import AgentRuntime
from converge.runtime.observing import Observed
from converge.runtime.parking import Parking
from converge.runtime.together import alike, start_together, stop_together
from converge.runtime.tools.sources import ToolSources

if TYPE_CHECKING:
    from pathlib import Path

    from converge.plugins.lifecycle import Lifecycle
    from converge.policy.limits import Limiter
    from converge.runtime.config import AgentConfig, Config

__all__ = ["Application", "OnProgress", "Watch", "check", "open_store", "reporting"]

OnProgress = Callable[[TaskProgress], None]
"""Called a few times a second with how far the work is."""

_PROGRESS_INTERVAL_SEC = 0.1
_log = logging.getLogger(__name__)


def check(config: Config) -> None:
    """Raise what is wrong with `config` as far as it can be seen without starting: names, classes, pools, processes.

    Imports the plugins that the configuration names and the user's own agent classes, and nothing else. Raises
    `ConfigError` or a `PluginError`.
    """
    plugins = _plugins(config)
    place = config.place
    _find(plugins, "transport", config.transport, place("[transport]"))
    store = _find(plugins, "store", config.store, place("[store]"))
    if config.run.processes > 1 and not getattr(store, "shared", False):
        raise ConfigError(
            place("[run] processes"),
            f"{config.run.processes} processes cannot share the store {config.store['use']!r}, which lives in one; "
            'use one that they can, such as [store] use = "sqlite"',
        )
    check_address(config)
    _lifecycle(plugins, config, None)
    check_execution(plugins, config)
    for member in config.agents:
        _approval_policy(config, member)
    if not config.agents:
        raise ConfigError(config.file.name, "there are no [[agents]] to run")
    for index, pool in enumerate(config.pools):
        for kind, table in (("admission", pool.admission), ("governance", pool.governance), ("trust", pool.trust)):
            if table is not None:
                plugins.build(kind, table, where=place(f"[[pools]] {index} {kind}"))
    pools = {pool.id for pool in config.pools}
    for agent in config.agents:
        _agent_class(plugins, config, agent)
        for name in agent.pools:
            if name not in pools:
                raise ConfigError(f"{agent.place} pools", f"there is no pool {name!r}; add [[pools]] with this id")
    if config.run.until is not None and all(agent.name != config.run.until for agent in config.agents):
        names = ", ".join(agent.name for agent in config.agents)
        raise ConfigError(place("[run] until"), f"no agent is named {config.run.until!r}; there is {names}")


def open_store(config: Config) -> Store:
    """The store of `config`; a relative `path` is taken from the folder of the config file."""
    table = dict(config.store)
    if isinstance(table.get("path"), str):
        table["path"] = str(config.folder / str(table["path"]))
    store = _plugins(config).build("store", table, where=config.place("[store]"))
    if not isinstance(store, Store):
        raise ConfigError(
            config.place("[store]"), f"the plugin {table['use']!r} made a {type(store).__name__}, not a Store"
        )
    return store


class _Shared(NamedTuple):
    """What all agents of a process use."""

    store: Store
    tasks: TaskManager
    pools: PoolManager
    discovery: DiscoveryService
    approvals: Approvals
    metrics: MetricsCollector
    pool_limiters: dict[str, Limiter]


Watch = Callable[[Observed], AbstractAsyncContextManager[object]]
"""What is entered as long as the agents of a process run, to see how they are."""


class Application:
    """Runs the agents of process number `process` (from 0) of `config`; `watch` is entered before they start."""

    def __init__(self, config: Config, process: int = 0, watch: Watch | None = None) -> None:
        self._config, self._plugins, self._watch = config, _plugins(config), watch
        self._transports: list[Transport] = []
        self._inboxes: list[Inbox] = []
        self._mine = members(config, process)
        self._listeners: Lifecycle | None = None
        self._tool_sources = ToolSources()

    async def run(self, on_progress: OnProgress | None = None, stop: asyncio.Event | None = None) -> bool:
        """Run until the agents named by `until` have ended (True) or `stop` is set (False).

        Raises `ConfigError` or a `PluginError` for what cannot be built and `AgentFailed` when the runtime of an agent
        died. Agents, managers and store are closed in every case.
        """
        async with AsyncExitStack() as stack:
            store = stack.enter_context(open_store(self._config))
            tasks, pools = TaskManager(store), PoolManager(store, plugins=self._plugins)
            stack.callback(tasks.close)
            self._create_pools(pools)
            if any(pool.trust is not None for pool in self._config.pools):
                trust = TaskTrust(store, pools=pools)
                stack.callback(trust.close)
                stack.callback(tasks.add_listener(trust))
            shared = _Shared(
                store,
                tasks,
                pools,
                DiscoveryService(store),
                Approvals(store),
                MetricsCollector(),
                pool_limiters(self._config.pools, store),
            )
            self._listeners = _lifecycle(self._plugins, self._config, shared.metrics)
            runtimes = {
                member.name: self._runtime(member, shared, first=member is self._mine[0]) for member in self._mine
            }
            stack.push_async_callback(self._tool_sources.close)
            stack.push_async_callback(_stop_all, runtimes)
            await self._be_watched(stack, runtimes, shared)
            stop = asyncio.Event() if stop is None else stop
            if not await self._started(runtimes, pools, stop):
                return False
            if on_progress is not None:
                stack.push_async_callback(reporting(tasks, on_progress))
            return await self._until_over(runtimes, stop)

    async def _be_watched(self, stack: AsyncExitStack, runtimes: dict[str, AgentRuntime], shared: _Shared) -> None:
        observed = Observed(
            shared.metrics,
            runtimes,
            self._transports,
            self._inboxes,
            tasks=shared.tasks,
            lifecycle=self._listeners,
            parts={"tasks": shared.tasks, "pools": shared.pools, "discovery": shared.discovery},
        )
        stack.callback(observed.close)
        if self._watch is not None:
            await stack.enter_async_context(self._watch(observed))

    async def _started(self, runtimes: dict[str, AgentRuntime], pools: PoolManager, stop: asyncio.Event) -> bool:
        """Start the agents; False when `stop` is set meanwhile, however long one of them takes to start."""
        starting = asyncio.create_task(self._start(runtimes, pools))
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                return True
            return False
        finally:
            stopped.cancel()
            if not starting.done():
                starting.cancel()
                await asyncio.gather(_stop_all(runtimes), asyncio.wait({starting}))

    async def _start(self, runtimes: dict[str, AgentRuntime], pools: PoolManager) -> None:
        await self._tool_sources.open()
        for group in alike(self._mine):
            for member in group:
                self._join(pools, member)
            await start_together([runtimes[member.name] for member in group])

    def _create_pools(self, pools: PoolManager) -> None:
        for index, pool in enumerate(self._config.pools):
            spec = {
                "id": pool.id,
                "topics": [Topic(name) for name in pool.topics],
                "admission_policy": pool.admission,
                "governance": pool.governance,
                "trust_model": pool.trust,
                "trust_threshold": pool.trust_threshold,
            }
            try:
                pools.create_pool(spec)
            except PoolExists as error:
                raise ConfigError(self._config.place(f"[[pools]] {index}"), str(error)) from None

    def _runtime(self, member: Member, shared: _Shared, *, first: bool) -> AgentRuntime:
        store = shared.store
        transport = self._plugins.build(
            "transport",
            self._config.transport,
            where=self._config.place("[transport]"),
            agent_id=member.identity.fingerprint,
            identity=member.identity,
            store=store,
        )
        if not isinstance(transport, Transport):
            raise ConfigError(
                self._config.place("[transport]"), f"the plugin made a {type(transport).__name__}, not a Transport"
            )
        policy = _approval_policy(self._config, member.config)
        agent, inbox = self._agent(member), Inbox()
        self._transports.append(transport)
        self._inboxes.append(inbox)
        return AgentRuntime(
            agent,
            transport,
            shared.pools,
            shared.tasks,
            shared.metrics,
            inbox=inbox,
            discovery_service=shared.discovery,
            tool_registry=tools_of(self._plugins, member.config, agent.id, self._tool_sources),
            executor_factory=executor_factory(self._plugins, self._config, member.config),
            executor_kwargs={
                "custom_handlers": handlers_of(
                    self._plugins,
                    self._config,
                    agent=agent,
                    agent_id=agent.id,
                    store=store,
                    task_manager=shared.tasks,
                    pool_manager=shared.pools,
                    discovery_service=shared.discovery,
                ),
                "votes_store": store,
                "bidding_protocols": StoredAuctions(store),
                "negotiation_protocol": NegotiationProtocol(store),
                "delegation_protocol": DelegationProtocol(store),
                "limits": limits_of(member, self._config, shared.pool_limiters),
            },
            claim_ttl_interval_sec=self._config.run.release_interval_sec if first else None,
            lifecycle=self._listeners,
            parking=Parking(member.identity.fingerprint, shared.store),
            approvals=None if policy is None else shared.approvals,
            approval_policy=policy,
            store=store,
        )

    def _agent(self, member: Member) -> Agent:
        config = member.config
        driver = _agent_class(self._plugins, self._config, config)
        with self._plugins.override("agent", config.driver, driver):
            table = {"use": config.driver, **config.options}
            agent = self._plugins.build("agent", table, where=config.place, identity=member.identity)
        if not isinstance(agent, Agent):
            raise ConfigError(config.place, f"{config.driver} made a {type(agent).__name__}, not an Agent")
        for name in config.capabilities:
            agent.capabilities.add(Capability(name))
        return agent

    def _join(self, pools: PoolManager, member: Member) -> None:
        for pool in member.config.pools:
            if not pools.join_pool(member.identity.fingerprint, pool):
                raise ConfigError(
                    f"{member.config.place} pools",
                    f"pool {pool!r} does not admit {member.name}, whose id is {member.identity.fingerprint}",
                )

    async def _until_over(self, runtimes: dict[str, AgentRuntime], stop: asyncio.Event) -> bool:
        """Wait for the end of the agents that `until` names and are here; an agent that dies raises at once."""
        until = self._config.run.until
        ending = {member.name for member in self._mine if member.config.name == until}
        ends_here = bool(ending)
        waiting: set[asyncio.Task[object]] = {
            asyncio.create_task(runtime.wait_stopped(), name=name) for name, runtime in runtimes.items()
        }
        stopped: asyncio.Task[object] = asyncio.create_task(stop.wait())
        try:
            while True:
                done, waiting = await asyncio.wait({*waiting, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if stopped in done:
                    return False
                waiting.discard(stopped)
                for task in done:
                    if (error := task.exception()) is not None:
                        raise AgentFailed(f"agent {task.get_name()} has failed: {error}") from error
                    ending.discard(task.get_name())
                if (ends_here and not ending) or not waiting:
                    return True
        finally:
            for task in {*waiting, stopped}:
                task.cancel()


async def _stop_all(runtimes: dict[str, AgentRuntime]) -> None:
    await stop_together([*runtimes.values()])


def reporting(tasks: TaskManager, on_progress: OnProgress) -> Callable[[], Awaitable[None]]:
    """Report now and then from a task; what is returned ends that, with a last report."""

    async def report() -> None:
        while True:
            on_progress(tasks.progress())
            await asyncio.sleep(_PROGRESS_INTERVAL_SEC)

    job = asyncio.create_task(report(), name="converge-progress")

    async def end() -> None:
        job.cancel()
        await asyncio.wait({job})
        on_progress(tasks.progress())

    return end


def _lifecycle(plugins: PluginManager, config: Config, metrics: MetricsCollector | None) -> Lifecycle | None:
    """The listeners that `[plugins] hooks` names, in that order; None, and nothing imported, when it names none."""
    if not config.plugins.hooks:
        return None
    from converge.plugins.lifecycle import Lifecycle

    lifecycle = Lifecycle()
    for index, table in enumerate(config.plugins.hooks):
        where = config.place(f"[plugins] hooks {index}")
        listener = plugins.build("hooks", table, where=where, metrics_collector=metrics)
        try:
            lifecycle.add(listener, str(table["use"] if isinstance(table, dict) else table))
        except (TypeError, ValueError) as error:
            raise ConfigError(where, str(error)) from None
    return lifecycle


def _approval_policy(config: Config, agent: AgentConfig) -> ApprovalPolicy | None:
    """What a person has to allow of an entry's agents; None when that is nothing."""
    given = config.approvals if agent.approvals is None else agent.approvals
    try:
        policy = ApprovalPolicy(given.needed_for, given.timeout_sec)
    except PolicyOptionError as error:
        where = config.place("[approvals]") if agent.approvals is None else f"{agent.place} approvals"
        raise ConfigError(where, f"{error.option} {error.reason}") from None
    return policy if policy.needed_for else None


def _plugins(config: Config) -> PluginManager:
    manager = default_manager()
    manager.disable(config.plugins.disabled, source=config.place("[plugins] disabled"))
    return manager


def _find(plugins: PluginManager, kind: str, table: dict[str, object], where: str) -> object:
    from converge.plugins import PluginError

    try:
        return plugins.find(kind, str(table["use"]))
    except PluginError as error:
        error.where = where
        raise


def _agent_class(plugins: PluginManager, config: Config, agent: AgentConfig) -> object:
    """The plugin that an entry of `[[agents]]` uses, or the user's own class: imported with the config's folder first
    on `sys.path`.
    """
    if not agent.is_class:
        return _find(plugins, "agent", {"use": agent.driver}, agent.place)
    module_name, _, class_name = agent.driver.partition(":")
    folder = str(config.folder)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name.partition(".")[0]:
            raise ConfigError(f"{agent.place} class", f"importing {module_name!r} fails: {error}") from error
        raise ConfigError(
            f"{agent.place} class", f"there is no module {module_name!r} in {_shown(config.folder)} or installed"
        ) from None
    except Exception as error:
        raise ConfigError(
            f"{agent.place} class", f"importing {module_name!r} fails: {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type) or not issubclass(found, Agent):
        raise ConfigError(f"{agent.place} class", f"{module_name} has no Agent class {class_name!r}")
    return found


def _shown(folder: Path) -> str:
    return os.path.relpath(folder)
