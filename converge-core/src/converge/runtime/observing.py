"""What can be seen of the agents of a process from outside: how they are, and what was counted."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from attrs import frozen

from converge.observability.metrics import Family, MetricsCollector, Sample
from converge.runtime.threads import StoreThread

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from converge.coordination.task_manager import TaskManager
    from converge.network.transport.base import Transport
    from converge.plugins.lifecycle import Lifecycle
    from converge.runtime.inbox import Inbox
    from converge.runtime.loop import AgentRuntime

__all__ = ["MAX_NAMED", "Health", "Observed", "Report"]

MAX_NAMED = 50
"""How many agents that are not well a report names."""

_PROGRESS_TIMEOUT_SEC = 0.5
_STARTED_AT = time.time()


@frozen
class Health:
    """Whether all is well; if not, `problems` says of whom, at most `MAX_NAMED`. `agents` is how many there are."""

    ok: bool
    agents: int
    problems: tuple[str, ...] = ()


@frozen
class Report:
    """What one process says of itself."""

    health: Health
    ready: Health
    families: list[Family]

    def to_plain(self) -> dict[str, Any]:
        """As JSON can have it."""
        return {
            "health": [self.health.ok, self.health.agents, list(self.health.problems)],
            "ready": [self.ready.ok, self.ready.agents, list(self.ready.problems)],
            "families": self.families,
        }

    @classmethod
    def from_plain(cls, data: Any) -> Report:  # noqa: ANN401  # JSON of our own child
        """The report in what `to_plain` gave."""
        health, ready = (Health(ok, agents, tuple(names)) for ok, agents, names in (data["health"], data["ready"]))
        families = [
            Family(name, kind, [(tuple((key, text) for key, text in labels), value) for labels, value in series])
            for name, kind, series in data["families"]
        ]
        return cls(health, ready, families)


class Observed:
    """The agents of one process, by name. Their counters are added up: no series is that of one agent.

    Adds itself to `metrics` as a source; `close` takes it away.
    """

    def __init__(
        self,
        metrics: MetricsCollector,
        runtimes: Mapping[str, AgentRuntime],
        transports: list[Transport],
        inboxes: list[Inbox],
        *,
        tasks: TaskManager | None = None,
        lifecycle: Lifecycle | None = None,
        parts: Mapping[str, Any] | None = None,
    ) -> None:
        self._metrics, self._runtimes = metrics, runtimes
        self._transports, self._inboxes, self._tasks, self._lifecycle = transports, inboxes, tasks, lifecycle
        self._parts = dict(parts or {})
        self._tasks_now: dict[str, int] = {}
        self._store_thread = StoreThread()
        self._store_thread.open()
        self._remove = metrics.add_source(self._samples)

    def close(self) -> None:
        """Be seen no more."""
        self._remove()
        self._store_thread.close()

    def health(self) -> Health:
        """Whether every agent is healthy."""
        return self._judged({name: runtime.is_healthy() for name, runtime in self._runtimes.items()})

    def ready(self) -> Health:
        """Whether every agent takes work."""
        return self._judged({name: runtime.is_ready() for name, runtime in self._runtimes.items()})

    async def report(self) -> Report:
        """How all is now. Waits for the store for half a second at most; what it has not said is left out."""
        await self._look_at_tasks()
        return Report(self.health(), self.ready(), self._metrics.collect())

    def _judged(self, well: Mapping[str, bool]) -> Health:
        problems = [name for name, is_well in well.items() if not is_well]
        return Health(not problems, len(well), tuple(problems[:MAX_NAMED]))

    async def _look_at_tasks(self) -> None:
        tasks = self._tasks
        if tasks is None:
            return
        self._tasks_now = {}
        with suppress(TimeoutError):
            async with asyncio.timeout(_PROGRESS_TIMEOUT_SEC):
                progress = await self._store_thread.run(tasks.progress) if tasks.blocking else tasks.progress()
                self._tasks_now = {"pending": progress.pending, "claimed": progress.claimed}

    def _samples(self) -> Iterator[Sample]:
        runtimes = list(self._runtimes.values())
        yield Sample("converge_start_time_seconds", _STARTED_AT, "gauge")
        yield Sample("converge_info", 1, "gauge", (("version", version("converge-core")),))
        for state, count in Counter(runtime.agent.state.value for runtime in runtimes).items():
            yield Sample("converge_agents", count, "gauge", (("state", state),))
        yield Sample("converge_agents_healthy", sum(runtime.is_healthy() for runtime in runtimes), "gauge")
        yield Sample("converge_agents_ready", sum(runtime.is_ready() for runtime in runtimes), "gauge")
        yield Sample("converge_inbox_messages", sum(map(len, self._inboxes)), "gauge")
        yield Sample("converge_inbox_dropped_total", sum(inbox.dropped for inbox in self._inboxes))
        yield Sample("converge_parked_messages", sum(len(runtime.parked) for runtime in runtimes), "gauge")
        for state, count in self._tasks_now.items():
            yield Sample("converge_tasks", count, "gauge", (("state", state),))
        events: Counter[str] = Counter()
        for transport in self._transports:
            events.update(transport.counters)
        yield from _events("transport", events)
        for part, counted in self._parts.items():
            yield from _events(part, counted.counters)
        if self._lifecycle is not None:
            for plugin, count in self._lifecycle.failures.items():
                yield Sample("converge_listener_failures_total", count, labels=(("plugin", plugin),))


def _events(part: str, counters: Mapping[str, float]) -> Iterator[Sample]:
    for event, count in counters.items():
        yield Sample(f"converge_{part}_events_total", count, labels=(("event", event),))
