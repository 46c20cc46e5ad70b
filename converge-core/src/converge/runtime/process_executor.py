"""The executor named "process": every tool runs in a process that can be killed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from converge.core.errors import ToolNotImportable
from converge.core.tool_reference import ToolReference
from converge.runtime.executor import StandardExecutor
from converge.runtime.executor_options import ProcessExecutorOptions
from converge.runtime.tools.linux import can_isolate

if TYPE_CHECKING:
    from converge.coordination.pool_manager import PoolManager
    from converge.coordination.task_manager import TaskManager
    from converge.core.tools import Tool, ToolRegistry
    from converge.network.network import AgentNetwork

__all__ = ["ProcessExecutor"]


class ProcessExecutor(StandardExecutor):
    """A `StandardExecutor` whose tools all run in processes, async ones too, whatever they say of their isolation.

    A tool that another process cannot import is not called: one that the registry has already is a
    `ToolNotImportable` here, one that comes later has that as its outcome. So is a system without such processes
    (they take Linux). `options` are those of `StandardExecutor` but `tool_isolation`.
    """

    converge_options: ClassVar[type] = ProcessExecutorOptions

    def __init__(
        self,
        agent_id: str,
        network: AgentNetwork | None = None,
        task_manager: TaskManager | None = None,
        pool_manager: PoolManager | None = None,
        *,
        tool_registry: ToolRegistry | None = None,
        **options: Any,
    ) -> None:
        _check(tool_registry)
        super().__init__(
            agent_id,
            network,
            task_manager,
            pool_manager,
            tool_registry=tool_registry,
            tool_isolation="process",
            **options,
        )


def _check(registry: ToolRegistry | None) -> None:
    if not can_isolate():
        raise ToolNotImportable(
            'the executor "process" runs tools in processes that can be killed, which takes Linux; '
            'here, executor = "standard" runs plain ones in threads'
        )
    tools = [] if registry is None else [registry.get(name) for name in registry.list_names()]
    problems = [problem for tool in tools if tool is not None and (problem := _problem(tool)) is not None]
    if problems:
        raise ToolNotImportable("; ".join(problems))


def _problem(tool: Tool) -> str | None:
    try:
        ToolReference.of(tool)
    except ToolNotImportable as error:
        return str(error)
    return None
