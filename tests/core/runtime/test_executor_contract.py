"""The contract of executors, over those of core and over one that wraps another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from converge.core.agent import Outcome
from converge.core.decisions import Decision
from converge.plugins import default_manager
from converge.runtime.executor import StandardExecutor
from converge.runtime.process_executor import ProcessExecutor
from converge.testing.executor import ExecutorContract
from converge.testing.executor.fixtures import MakeExecutor


class TestStandardExecutor(ExecutorContract):
    @pytest.fixture
    def make(self) -> MakeExecutor:
        return StandardExecutor


class TestStandardExecutorWithThreads(ExecutorContract):
    @pytest.fixture
    def make(self) -> MakeExecutor:
        def make(agent_id: str, *context: Any, **options: Any) -> StandardExecutor:
            return StandardExecutor(agent_id, *context, tool_isolation="thread", **options)

        return make


class TestProcessExecutor(ExecutorContract):
    @pytest.fixture
    def make(self) -> MakeExecutor:
        return ProcessExecutor


class TestAsAPlugin(ExecutorContract):
    @pytest.fixture
    def make(self) -> MakeExecutor:
        def make(agent_id: str, network: Any, task_manager: Any, pool_manager: Any, **context: Any) -> Any:
            table = {"use": "standard", "tool_timeout_sec": 30, "tool_limits": {"memory_mb": 1024}}
            context |= {"network": network, "task_manager": task_manager, "pool_manager": pool_manager}
            return default_manager().build("executor", table, agent_id=agent_id, **context)

        return make


class Wrapping:
    """Hands everything on to another executor, without tools, policies and handlers."""

    def __init__(self, *context: Any) -> None:
        self._inner = StandardExecutor(*context)

    async def execute(self, decisions: Iterable[Decision]) -> Sequence[Outcome]:
        return await self._inner.execute(decisions)


class TestWrappingExecutor(ExecutorContract):
    takes_handlers = takes_policies = runs_tools = False

    @pytest.fixture
    def make(self) -> MakeExecutor:
        return Wrapping
