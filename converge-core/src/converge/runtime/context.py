"""What an agent can reach while it runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

from converge.network.discovery import DiscoveryQuery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from converge.coordination.ballot import BallotBox
    from converge.coordination.pool_manager import PoolManager
    from converge.coordination.task_manager import TaskManager
    from converge.core.store import Store
    from converge.core.task import Task
    from converge.core.tools import ToolRegistry
    from converge.network.discovery import AgentDescriptor
    from converge.network.network import AgentNetwork
    from converge.observability.metrics import MetricsCollector
    from converge.runtime.threads import StoreThread
    from converge.runtime.turns import Turns

__all__ = ["AgentContext"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


class AgentContext:
    """The network, the managers, the ballot box and the tools of an agent's runtime, as `agent.context`.

    Managers on a store that blocks must not be called from the event loop: an async `decide` awaits
    `context.run(manager.method, …)`; one that is `blocking = True` calls them directly. A manager that the runtime was
    not given is None, and so are `store`, where an agent keeps what is to survive a restart (under keys that end in its
    id), and `metrics`.
    """

    __slots__ = (  # one an agent
        "_store_thread",
        "_turns",
        "ballots",
        "metrics",
        "network",
        "pools",
        "store",
        "tasks",
        "tools",
    )

    def __init__(
        self,
        network: AgentNetwork,
        tasks: TaskManager | None,
        pools: PoolManager | None,
        ballots: BallotBox | None,
        store_thread: StoreThread,
        tools: ToolRegistry,
    ) -> None:
        self.network, self.tasks, self.pools, self.ballots = network, tasks, pools, ballots
        self.tools = tools
        self._store_thread = store_thread
        self.store: Store | None = None
        self.metrics: MetricsCollector | None = None
        self._turns: Turns | None = None

    def lend(self, store: Store | None, metrics: MetricsCollector | None, turns: Turns | None) -> Self:
        """Let the agent use these too; for the runtime."""
        self.store, self.metrics, self._turns = store, metrics, turns
        return self

    async def run(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """What `call` returns, from the store thread."""
        return await self._store_thread.run(call, *args, **kwargs)

    def call_again(self, after_sec: float) -> None:
        """Have `decide` called in `after_sec` seconds, also if nothing is new then; the earliest of several counts.

        For `decide` and the hooks: an agent that puts something off (until a budget allows it, until a service is
        back) is woken by it.
        """
        if self._turns is not None:
            self._turns.call_again(after_sec)

    async def peers(self) -> list[AgentDescriptor]:
        """The other agents that can be discovered now, in every process that shares the store."""
        found = await self.discover(DiscoveryQuery())
        return [descriptor for descriptor in found if descriptor.id != self.network.transport.agent_id]

    async def discover(self, query: DiscoveryQuery) -> list[AgentDescriptor]:
        """The agents that fit `query` now, in every process that shares the store."""
        return await self.run(self.network.discover, query)

    async def wait_for_tasks(self, task_ids: Iterable[str]) -> list[Task]:
        """The tasks, once every one of them has ended; unknown ids are left out.

        Costs one look at the open tasks for each change, and no timer. Raises `RuntimeError` without a task manager.
        """
        tasks = self.tasks
        if tasks is None:
            raise RuntimeError("this runtime has no task manager")
        ids = list(task_ids)
        changed = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(changed.set)

        remove = tasks.add_listener(wake)
        try:
            waiting = set(ids)
            while waiting := await self.run(tasks.open_among, waiting):
                await changed.wait()
                changed.clear()
        finally:
            remove()
        found = await self.run(lambda: [tasks.get_task(task_id) for task_id in ids])
        return [task for task in found if task is not None]
