"""The tools of one agent: those of its runtime, and its own."""

from __future__ import annotations

from typing import Any

import pytest

from converge.core.decisions import InvokeTool
from converge.core.tools import ToolRegistry, tool
from converge.runtime.agent_tools import AgentTools
from tests.core.runtime.conftest import Scripted, World


@tool(isolation="inline")
def add(a: int, b: int) -> int:
    """The sum."""
    return a + b


@tool(name="add")
def other(a: int) -> int:
    """Another tool of that name."""
    return a


class Named:
    """A tool that is called what it is told."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, params: dict[str, Any]) -> str:
        return self.name


def test_own_tools_stand_beside_the_shared_ones_and_stay_out_of_the_shared_registry() -> None:
    shared = ToolRegistry()
    shared.register(add)
    mine, yours = AgentTools(shared), AgentTools(shared)
    mine.take([Named("mine")])
    yours.take([Named("yours")])
    assert mine.list_names() == ["add", "mine"]
    assert yours.list_names() == ["add", "yours"]
    assert (mine.get("add"), mine.get("yours")) == (add, None)
    assert ("add" in mine, "mine" in mine, "yours" in mine, len(mine)) == (True, True, False, 2)
    assert shared.list_names() == ["add"]


def test_a_shared_tool_cannot_be_replaced_and_may_be_named_again() -> None:
    shared = ToolRegistry()
    shared.register(add)
    mine = AgentTools(shared)
    with pytest.raises(ValueError, match="another tool named 'add'; give this one another name"):
        mine.take([other])
    mine.take([add])
    assert mine.list_names() == ["add"]
    with pytest.raises(ValueError, match="there is another tool named 'x'"):
        mine.take([Named("x"), Named("x")])
    with pytest.raises(TypeError, match="is not a Tool"):
        mine.take([5])  # type: ignore[list-item]  # what an agent may have put there


def test_what_is_taken_anew_goes_in_the_place_of_what_was_taken_before() -> None:
    mine = AgentTools()
    mine.register(Named("kept"))
    mine.take([Named("one"), Named("two")])
    mine.take([Named("two"), Named("three")])
    assert mine.list_names() == ["kept", "three", "two"]


async def test_tools_that_an_agent_has_and_those_it_gets_in_on_start_can_be_called(world: World) -> None:
    agent = Scripted([InvokeTool("add", {"a": 1, "b": 2}), InvokeTool("late"), InvokeTool("shared")])
    agent.tools = [add]
    shared = ToolRegistry()
    shared.register(Named("shared"))

    def on_start() -> None:
        agent.tools = [*agent.tools, Named("late")]

    agent.on_start = on_start  # type: ignore[method-assign]  # as a subclass would
    await world.started(agent, tool_registry=shared)
    assert agent.context.tools.list_names() == ["add", "late", "shared"]
    await agent.called(2)
    assert [outcome.value for outcome in agent.shown[1][2]] == [3, "late", "shared"]


async def test_an_agent_whose_tools_clash_does_not_start(world: World) -> None:
    agent = Scripted()
    shared = ToolRegistry()
    shared.register(add)
    runtime = world.runtime(agent, tool_registry=shared)
    agent.tools = [other]
    with pytest.raises(ValueError, match="another tool named 'add'"):
        await runtime.start()
    assert not runtime.running
