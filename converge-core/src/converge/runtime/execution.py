"""How a configuration names what carries out decisions: executors, tools, and handlers of further decisions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from converge.core.decisions import Decision
from converge.core.errors import ToolNotImportable
from converge.core.tool_source import ToolSource
from converge.core.tools import Tool, ToolRegistry
from converge.plugins.building import takes
from converge.runtime.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from converge.plugins import PluginManager
    from converge.runtime.config import AgentConfig, Config
    from converge.runtime.executor import Executor, Handler
    from converge.runtime.tools.sources import ToolSources

__all__ = ["check_execution", "executor_factory", "handlers_of", "tools_of"]

_NEEDED = {
    "approvals": "decisions that a person has to allow",
    "custom_handlers": "the handlers of [run] handlers",
    "limits": "limits",
    "tool_registry": "tools",
}
"""What an executor must not leave out in silence when the configuration asks for it."""


def check_execution(plugins: PluginManager, config: Config) -> None:
    """Raise what is wrong with the names and options of executors, tools and handlers; imports them, makes none."""
    for agent in config.agents:
        table, where = _executor_of(config, agent)
        driver = plugins.check_options("executor", table, where=where)
        needed = {"custom_handlers": config.run.handlers, "tool_registry": agent.tools}
        _check_takes(driver, [name for name, given in needed.items() if given], where)
        for index, tool in enumerate(agent.tools):
            plugins.check_options("tool", tool, where=f"{agent.place} tools {index}")
    for index, handlers in enumerate(config.run.handlers):
        plugins.check_options("handlers", handlers, where=config.place(f"[run] handlers {index}"))


def tools_of(plugins: PluginManager, agent: AgentConfig, agent_id: str, sources: ToolSources) -> ToolRegistry:
    """The tools that an entry names, made for one of its agents; those of a source when `sources` is opened."""
    registry = ToolRegistry()
    for index, table in enumerate(agent.tools):
        where = f"{agent.place} tools {index}"
        made = plugins.build("tool", table, where=where, agent_id=agent_id)
        if isinstance(made, ToolSource) and not isinstance(made, Tool):
            own = takes(plugins.check_options("tool", table, where=where), "agent_id")
            sources.add(made, table, registry, where, agent_id if own else None)
            continue
        try:
            registry.register(cast("Tool", made))  # it looks for itself
        except (TypeError, ValueError) as error:
            raise ConfigError(where, str(error)) from None
    return registry


def handlers_of(plugins: PluginManager, config: Config, **context: object) -> dict[type[Decision], Handler]:
    """What the plugins of `[run] handlers` give, with `context` at hand to make it, for one agent."""
    handlers: dict[type[Decision], Handler] = {}
    for index, table in enumerate(config.run.handlers):
        where = config.place(f"[run] handlers {index}")
        for kind, handler in _mapping(plugins.build("handlers", table, where=where, **context), where).items():
            if handlers.setdefault(kind, handler) is not handler:
                raise ConfigError(where, f"another of the handlers takes {kind.__name__} already; name one of them")
    return handlers


def executor_factory(plugins: PluginManager, config: Config, agent: AgentConfig) -> Callable[..., Executor]:
    """What makes the executor of an agent of this entry, to be given to its runtime."""
    table, where = _executor_of(config, agent)

    def make(agent_id: str, network: object, task_manager: object, pool_manager: object, **context: Any) -> Executor:
        needed = [name for name in _NEEDED if context.get(name) or (name == "tool_registry" and agent.tools)]
        _check_takes(plugins.check_options("executor", table, where=where), needed, where)
        context |= {"network": network, "task_manager": task_manager, "pool_manager": pool_manager}
        try:
            made = plugins.build("executor", table, where=where, agent_id=agent_id, **context)
        except ToolNotImportable as error:
            raise ConfigError(where, str(error)) from error
        if not callable(getattr(made, "execute", None)):
            raise ConfigError(where, f"it made a {type(made).__name__}, which has no execute(decisions)")
        return cast("Executor", made)

    return make


def _executor_of(config: Config, agent: AgentConfig) -> tuple[str | dict[str, object], str]:
    if agent.executor is None:
        return config.run.executor, config.place("[run] executor")
    return agent.executor, f"{agent.place} executor"


def _check_takes(driver: object, names: Iterable[str], where: str) -> None:
    for name in names:
        if not takes(driver, name):
            raise ConfigError(where, f"this executor does not take {name}, so it would leave out {_NEEDED[name]}")


def _mapping(made: object, where: str) -> Mapping[type[Decision], Handler]:
    if not isinstance(made, Mapping):
        raise ConfigError(where, f"it made a {type(made).__name__}, not a mapping from decision classes to functions")
    for kind, handler in made.items():
        if not isinstance(kind, type) or not issubclass(kind, Decision):
            raise ConfigError(where, f"it has a handler for {kind!r}, which is no class of decisions")
        if not callable(handler):
            raise ConfigError(where, f"what it has for {kind.__name__} is {handler!r:.80}, which cannot be called")
    return made
