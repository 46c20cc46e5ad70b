"""`use = "llm"`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from converge.coordination.task_manager import TaskManager
from converge.core.identity import Identity
from converge.core.task import Task
from converge.core.tools import tool
from converge.extensions.llm.agent import LLMAgent
from converge.extensions.llm.chat import Reply, ToolCall, Usage
from converge.plugins import PluginError, PluginManager, default_manager
from converge.runtime.application import Application, check, open_store
from converge.runtime.config import load_config
from tests.llm.agent.conftest import Model, ask


@pytest.fixture
def plugins() -> PluginManager:
    manager = PluginManager()
    manager.override("llm_provider", "test", Model)
    return manager


def build(plugins: PluginManager, **options: Any) -> LLMAgent:
    table = {"use": "llm", "provider": "test", **options}
    made = plugins.build("agent", table, where="converge.toml [[agents]] 0", identity=Identity.generate())
    assert isinstance(made, LLMAgent)
    return made


async def test_an_agent_is_built_from_its_table(plugins: PluginManager) -> None:
    agent = build(
        plugins,
        system_prompt="You review.",
        decisions=["JoinPool"],
        budget={"requests": 5, "requests_per_minute": 2},
        memory={"messages": 3},
        timeout_sec=5,
    )
    assert await ask(agent) == []
    model = agent.provider
    assert isinstance(model, Model)
    assert model.shown[0][0].content.startswith("You review.\n\n")
    assert [spec.name for spec in model.tools[0]] == ["JoinPool"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"provider": {"use": "nothing"}}, "nothing"),
        ({"decisions": "JoinPool"}, "decisions"),
        ({"system_promt": "x"}, "system_promt.*system_prompt"),
        ({"budget": {"request": 1}}, "budget.*request"),
        ({"temperature": "hot"}, "temperature"),
    ],
)
def test_what_is_wrong_in_a_table_is_named(plugins: PluginManager, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(PluginError, match=complaint):
        build(plugins, **options)


@pytest.mark.parametrize(
    "options", [{"decisions": ["Fly"]}, {"budget": {"requests": 0}}, {"memory": {"bytes": -1}}, {"corrections": 7}]
)
def test_a_value_out_of_bounds_is_refused(plugins: PluginManager, options: dict[str, Any]) -> None:
    with pytest.raises((PluginError, ValueError)):
        build(plugins, **options)


@tool
def double(number: int) -> int:
    """Twice a number."""
    return 2 * number


def called(name: str, **arguments: Any) -> Reply:
    return Reply("", (ToolCall("c" + name, name, arguments),), Usage(1, 1))


async def test_a_configuration_runs_it_with_the_tools_of_its_entry(tmp_path: Path) -> None:
    model = Model(
        called("ClaimTask", task_id="t"), called("double", number=21), called("ReportTask", task_id="t", result="42")
    )
    (tmp_path / "converge.toml").write_text(
        '[store]\nuse = "sqlite"\npath = "x.db"\n[[agents]]\nuse = "llm"\nprovider = "test"\ntools = ["double"]\n'
        "[agents.budget]\nrequests = 9\n"
    )
    config = load_config(tmp_path / "converge.toml", (), {})
    stop = asyncio.Event()
    plugins = default_manager()
    with plugins.override("llm_provider", "test", lambda: model), plugins.override("tool", "double", double):
        check(config)
        with open_store(config) as store:
            tasks = TaskManager(store)
            tasks.submit(Task(id="t", objective="twice 21"))
            async with asyncio.timeout(30):
                running = asyncio.create_task(Application(config).run(stop=stop))
                while not (task := tasks.get_task("t")) or not task.state.is_final:  # noqa: ASYNC110  # of another manager
                    await asyncio.sleep(0.05)
                stop.set()
                await running
            tasks.close()
            kept = store.get(next(key for key in store.list("conversation:")))
    assert task.result == "42"
    assert [shown[-1].role for shown in model.shown] == ["user", "tool", "tool"]
    assert '"result":42' in model.shown[2][-1].content
    assert isinstance(kept, dict)


def test_the_package_offers_what_it_names(tmp_path: Path) -> None:
    import converge.extensions.llm as package

    assert all(getattr(package, name) is not None for name in package.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = package.Nothing
