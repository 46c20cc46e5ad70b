"""What happens in a runtime, for those who want to know: ordered listeners, each behind a guard.

This module needs pluggy; import it lazily.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import pluggy

from converge.plugins.kinds import did_you_mean
from converge.plugins.specs import PROJECT, hookspec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from converge.coordination.claims import Claim
    from converge.core.agent import Agent, Outcome
    from converge.core.decisions import Decision
    from converge.core.message import Message
    from converge.core.task import Task

__all__ = ["EVENTS", "LISTENER_TIMEOUT_SEC", "Lifecycle", "LifecycleSpecs"]

LISTENER_TIMEOUT_SEC = 5.0
"""An async listener that takes longer is cancelled; the agent waits for it that long at most."""

_PREFIX = "converge_"
_log = logging.getLogger(__name__)


class LifecycleSpecs:
    """One hook for each event. A listener implements those it wants, with the arguments it wants, and returns nothing.

    It may be `async`. It is called in the event loop of the agents, and the agent waits for it: be quick. One that
    raises, or is cancelled after 5 s, is logged and counted, and changes nothing for the agent or the other listeners.
    What it is given is the agent's own: look, do not touch.
    """

    @hookspec
    def converge_runtime_starting(self, agent: Agent) -> None:
        """The runtime of `agent` begins to start: nothing is open yet."""

    @hookspec
    def converge_agent_started(self, agent: Agent) -> None:
        """`on_start` has returned; the agent can be found and takes work from now on."""

    @hookspec
    def converge_message_received(self, agent: Agent, message: Message) -> None:
        """A message was taken: it has passed all checks and waits in the inbox."""

    @hookspec
    def converge_decide_starting(self, agent: Agent, messages: Sequence[Message], tasks: Sequence[Task]) -> None:
        """`decide` is about to be called with these."""

    @hookspec
    def converge_decide_finished(self, agent: Agent, decisions: Sequence[Decision], error: Exception | None) -> None:
        """`decide` has returned `decisions`, or raised `error` (there are none then). Nothing is carried out yet."""

    @hookspec
    def converge_decision_executed(self, agent: Agent, outcome: Outcome) -> None:
        """A decision was carried out; `outcome.value` is what came of it."""

    @hookspec
    def converge_decision_failed(self, agent: Agent, outcome: Outcome) -> None:
        """A decision was refused or has failed; `outcome.status` and `outcome.error` say which and why."""

    @hookspec
    def converge_decision_waiting(self, agent: Agent, outcome: Outcome) -> None:
        """A person has to allow a decision; `outcome.value` is the id of the approval. What comes of it follows."""

    @hookspec
    def converge_message_sent(self, agent: Agent, message: Message) -> None:
        """The transport has taken `message`, signed, to its receivers."""

    @hookspec
    def converge_task_claimed(self, agent: Agent, claim: Claim) -> None:
        """A ClaimTask succeeded: `claim` is the lease, with its fencing token."""

    @hookspec
    def converge_task_reported(self, agent: Agent, task_id: str, result: object) -> None:
        """A ReportTask succeeded: the result is stored."""

    @hookspec
    def converge_tool_called(self, agent: Agent, outcome: Outcome) -> None:
        """An InvokeTool is over, whatever came of it; `outcome.decision` has the tool's name and parameters."""

    @hookspec
    def converge_agent_failed(self, agent: Agent, error: Exception) -> None:
        """`decide` or `on_tick` has raised, or `decide` returned no list."""

    @hookspec
    def converge_message_parked(self, agent: Agent, message: Message, error: str, failures: int) -> None:
        """A message has failed that often and is set aside; `error` is the last failure, and may quote the payload."""

    @hookspec
    def converge_agent_stopped(self, agent: Agent) -> None:
        """`on_stop` is over: the agent takes no more work."""

    @hookspec
    def converge_runtime_stopped(self, agent: Agent) -> None:
        """Everything is closed: claims are given back, the transport is stopped."""


class _Listener(NamedTuple):
    plugin: str
    call: Callable[..., object]
    wanted: tuple[str, ...]


EVENTS = tuple(name.removeprefix(_PREFIX) for name in vars(LifecycleSpecs) if name.startswith(_PREFIX))
"""The events, by the names of their hooks without `converge_`, in the order in which a life has them."""


class Lifecycle:
    """The listeners of a process, each a plugin object with methods marked `hookimpl`, and what they are told.

    They are called in the order in which they were added (`tryfirst` and `trylast` of pluggy go before that). What is
    added is compiled to plain calls, so that an event that nobody listens to costs a look-up. `failures` counts, by
    plugin, the calls that raised or took too long. For the coroutines of one event loop.
    """

    def __init__(self, timeout: float = LISTENER_TIMEOUT_SEC) -> None:
        self.failures: Counter[str] = Counter()
        self._timeout = timeout
        self._plugins: list[tuple[str, object]] = []
        self._listeners: dict[str, tuple[_Listener, ...]] = {}

    def add(self, plugin: object, name: str | None = None) -> None:
        """Let `plugin` be told from now on, after those that are there already.

        Raises `TypeError` when it implements no hook, one that does not exist, or arguments that the hook does not
        have, and `ValueError` when there is a plugin of this name.
        """
        label = name or type(plugin).__name__
        if label in dict(self._plugins):
            raise ValueError(f"there is a lifecycle plugin {label!r} already; give this one another name")
        added = [*self._plugins, (label, plugin)]
        self._listeners = _compiled(added)
        self._plugins = added

    def listens(self, event: str) -> bool:
        """Whether anybody wants to know of `event`."""
        return event in self._listeners

    async def notify(self, event: str, **what: Any) -> None:  # the arguments of the event's hook
        """Tell the listeners of `event`, one after the other. Raises only when it is cancelled."""
        for listener in self._listeners.get(event, ()):
            try:
                answer = listener.call(*[what[name] for name in listener.wanted])
                if inspect.isawaitable(answer):
                    await self._bounded(answer)
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                self._failed(listener, event, error)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001  # a listener must not change what it listens to
                self._failed(listener, event, error)

    async def _bounded(self, answer: Awaitable[object]) -> None:
        async with asyncio.timeout(self._timeout):
            await answer

    def _failed(self, listener: _Listener, event: str, error: BaseException) -> None:
        self.failures[listener.plugin] += 1
        _log.warning("the lifecycle plugin %r failed at %s and is passed over", listener.plugin, event, exc_info=error)


def _compiled(plugins: Sequence[tuple[str, object]]) -> dict[str, tuple[_Listener, ...]]:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(LifecycleSpecs)
    for label, plugin in reversed(plugins):  # pluggy calls who came last first
        _check(manager, plugin)
        try:
            manager.register(plugin, label)
        except pluggy.PluginValidationError as error:
            raise TypeError(f"{plugin!r} does not fit the lifecycle hooks: {error}") from None
    listeners = {}
    for event in EVENTS:
        found = reversed(getattr(manager.hook, _PREFIX + event).get_hookimpls())
        if calls := tuple(_Listener(each.plugin_name, each.function, each.argnames) for each in found):
            listeners[event] = calls
    return listeners


def _check(manager: pluggy.PluginManager, plugin: object) -> None:
    known, found = [_PREFIX + event for event in EVENTS], False
    for attribute in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, attribute)
        if options is None:
            continue
        found = True
        hook = options.get("specname") or attribute
        if hook not in known:
            raise TypeError(f"{plugin!r}: {hook!r} is no lifecycle hook.{did_you_mean(hook, known)}")
        if options.get("wrapper") or options.get("hookwrapper"):
            raise TypeError(f"{plugin!r}: {hook!r} is a wrapper; a lifecycle hook has no answer to wrap")
    if not found:
        raise TypeError(f"{plugin!r} implements no lifecycle hook; mark methods like {known[1]} with hookimpl")
