"""`use = "llm"`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from converge.core.identity import Identity
from converge.extensions.llm.agent import LLMAgent
from converge.plugins import PluginError, PluginManager
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


def test_the_package_offers_what_it_names(tmp_path: Path) -> None:
    import converge.extensions.llm as package

    assert all(getattr(package, name) is not None for name in package.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = package.Nothing
