"""Executors, tools and handlers by name, in a configuration."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import field, frozen, validators

from converge.core.agent import Agent, AgentState, Outcome
from converge.core.decisions import Decision, InvokeTool
from converge.core.errors import ToolNotImportable
from converge.core.tools import ToolRegistry, tool
from converge.plugins import PluginError, default_manager
from converge.runtime.application import Application, check
from converge.runtime.config import Config, load_config
from converge.runtime.errors import ConfigError
from converge.runtime.executor import Refused, StandardExecutor
from converge.runtime.process_executor import ProcessExecutor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from converge.core.message import Message
    from converge.core.task import Task


@tool
def where(x: int = 0) -> list[int]:
    """The process that this runs in."""
    return [os.getpid(), x]


@tool(name="where_from_the_loop")
async def where_async() -> int:
    """The same, as a coroutine."""
    return os.getpid()


@frozen
class GreetOptions:
    greeting: str = field(default="hello", validator=validators.min_len(1))


class Greet:
    """A tool with options, and with the agent it was made for."""

    name = "greet"
    converge_options = GreetOptions

    def __init__(self, greeting: str, agent_id: str) -> None:
        self._greeting, self._agent_id = greeting, agent_id

    def run(self, params: dict[str, Any]) -> str:
        return f"{self._greeting} {self._agent_id}"


@frozen
class Shout(Decision):
    text: str


@frozen
class Whisper(Decision):
    text: str


@frozen
class VoiceOptions:
    suffix: str = "!"


class Voices:
    """A plugin of handlers: a factory with options, which is given what it names."""

    converge_options = VoiceOptions

    def __new__(cls, suffix: str, agent: Agent) -> Mapping[type[Decision], Any]:  # type: ignore[misc]  # a factory
        async def shout(decision: Shout) -> str:
            await asyncio.sleep(0)
            return f"{agent.id[:4]}: {decision.text.upper()}{suffix}"

        return {Shout: shout}


def whisper(decision: Whisper) -> str:
    if not decision.text:
        raise Refused("there is nothing to whisper")
    return decision.text.lower()


class Deaf:
    """An executor that takes nothing but the agent's id."""

    def __init__(self, agent_id: str) -> None:
        self.agent_id = agent_id

    async def execute(self, decisions: Any) -> list[Outcome]:
        return [Outcome(decision, "done", self.agent_id) for decision in decisions]


class Once(Agent):
    """Decides once, keeps the outcomes, and ends."""

    answer: list[Decision] = []  # noqa: RUF012  # set for each test
    seen: list[tuple[Outcome, ...]] = []  # noqa: RUF012  # as above
    known: list[str] = []  # noqa: RUF012  # as above

    def decide(self, messages: list[Message], tasks: list[Task]) -> list[Decision]:
        if self.outcomes:
            Once.seen.append(self.outcomes)
            Once.known[:] = self.context.tools.list_names()
            self.state = AgentState.OFFLINE
            return []
        return [*Once.answer, InvokeTool("nothing")]  # the outcome of a tool is what calls decide again


class OnceWithTools(Once):
    tools = (where,)


@pytest.fixture(autouse=True)
def plugins() -> Iterator[None]:
    manager, overrides = default_manager(), []
    for kind, name, driver in (
        ("tool", "where", where), ("tool", "where-async", where_async), ("tool", "greet", Greet),
        ("handlers", "voices", Voices), ("handlers", "whispers", {Whisper: whisper}),
        ("handlers", "more", {Whisper: str}), ("handlers", "list", [1]), ("handlers", "text", {"Shout": str}),
        ("handlers", "none", {Shout: None}), ("executor", "deaf", Deaf), ("executor", "object", ToolRegistry),
        ("agent", "once", Once), ("agent", "tooled", OnceWithTools),
    ):  # fmt: skip
        overrides.append(manager.override(kind, name, driver))
    Once.seen, Once.known = [], []
    yield
    for override in overrides:
        override.close()


def config(folder: Path, run: str = "", agent: str = 'use = "once"') -> Config:
    file = folder / "converge.toml"
    file.write_text(f"[run]\n{run}\n[[agents]]\n{agent}\n")
    return load_config(file, environment={})


async def outcomes(made: Config, *decisions: Decision) -> list[Outcome]:
    """What becomes of `decisions` in a run of a configuration."""
    check(made)
    Once.answer = list(decisions)
    async with asyncio.timeout(60):
        assert await Application(made).run()
    (seen,) = Once.seen
    return list(seen[:-1])


async def test_an_entry_has_the_tools_that_it_names_and_nothing_else(tmp_path: Path) -> None:
    agent = 'use = "once"\ntools = ["where-async", { use = "greet", greeting = "hi" }]'
    made = config(tmp_path, agent=agent)
    found = await outcomes(made, InvokeTool("where_from_the_loop"), InvokeTool("greet"), InvokeTool("where"))
    assert [outcome.status for outcome in found] == ["done", "done", "refused"]
    assert found[0].value == os.getpid()
    assert re.fullmatch(r"hi [0-9a-f]{64}", str(found[1].value))
    assert Once.known == ["greet", "where_from_the_loop"]


async def test_an_agent_has_tools_of_its_own_beside_those_of_its_entry(tmp_path: Path) -> None:
    made = config(tmp_path, agent='use = "tooled"\ntools = ["where-async"]')
    found = await outcomes(made, InvokeTool("where", {"x": 3}), InvokeTool("where_from_the_loop"))
    assert [outcome.status for outcome in found] == ["done", "done"]
    assert Once.known == ["where", "where_from_the_loop"]


async def test_the_process_executor_runs_every_tool_in_another_process(tmp_path: Path) -> None:
    made = config(tmp_path, 'executor = "process"', 'use = "once"\ntools = ["where", "where-async"]')
    plain, coroutine = await outcomes(made, InvokeTool("where", {"x": 1}), InvokeTool("where_from_the_loop"))
    assert (plain.status, coroutine.status) == ("done", "done"), (plain, coroutine)
    assert isinstance(plain.value, list)
    assert os.getpid() not in (plain.value[0], coroutine.value)
    assert plain.value[1] == 1


async def test_the_process_executor_refuses_a_tool_that_no_process_can_import(tmp_path: Path) -> None:
    made = config(tmp_path, 'executor = { use = "process" }', 'use = "once"\ntools = ["greet"]')
    check(made)
    with pytest.raises(ConfigError, match=r"converge\.toml \[run\] executor: the tool 'greet' cannot be found by"):
        await Application(made).run()


async def test_a_tool_that_comes_later_and_cannot_be_imported_is_an_outcome_of_the_process_executor() -> None:
    registry = ToolRegistry()
    executor = ProcessExecutor("a", tool_registry=registry)
    registry.register(Greet("hi", "a"))
    (outcome,) = await executor.execute([InvokeTool("greet")])
    assert outcome.status == "failed"
    assert str(outcome.error).startswith("ToolNotImportable: the tool 'greet'")
    await executor.close()


async def test_the_options_of_the_executor_are_those_of_its_class_and_an_entry_goes_before_the_run(
    tmp_path: Path,
) -> None:
    made = config(
        tmp_path,
        'executor = { use = "standard", tool_allowlist = [] }',
        'use = "once"\ntools = ["where", "greet"]\n'
        'executor = { use = "standard", tool_allowlist = ["where"], tool_isolation = "thread", tool_timeout_sec=inf }',
    )
    allowed, refused = await outcomes(made, InvokeTool("where"), InvokeTool("greet"))
    assert allowed.value == [os.getpid(), 0]
    assert refused.error == "the tool 'greet' is not on the allow-list"


async def test_a_result_that_is_larger_than_the_executor_takes_fails(tmp_path: Path) -> None:
    run = 'executor = { use = "standard", max_result_bytes = 10, tool_isolation = "inline" }'
    (outcome,) = await outcomes(config(tmp_path, run, 'use = "once"\ntools = ["greet"]'), InvokeTool("greet"))
    assert outcome.status == "failed"
    assert "at most 10 are taken" in str(outcome.error)


async def test_handlers_by_name_carry_out_decisions_that_core_does_not_know(tmp_path: Path) -> None:
    made = config(tmp_path, 'handlers = [{ use = "voices", suffix = "?" }, "whispers"]')
    shouted, whispered, refused = await outcomes(made, Shout("hey"), Whisper("HEY"), Whisper(""))
    assert re.fullmatch(r"[0-9a-f]{4}: HEY\?", str(shouted.value))
    assert whispered.value == "hey"
    assert (refused.status, refused.error) == ("refused", "there is nothing to whisper")


async def test_without_a_handler_such_a_decision_is_refused(tmp_path: Path) -> None:
    (outcome,) = await outcomes(config(tmp_path, 'handlers = ["whispers"]'), Shout("hey"))
    assert outcome.status == "refused"
    assert "nothing here carries out Shout" in str(outcome.error)


async def test_an_executor_of_ones_own_is_given_what_it_names(tmp_path: Path) -> None:
    file = config(tmp_path, 'executor = "deaf"')
    (outcome,) = await outcomes(file, Shout("hey"))
    assert re.fullmatch(r"[0-9a-f]{64}", str(outcome.value))


@pytest.mark.parametrize(
    ("run", "agent", "text"),
    [
        ('executor = "standrad"', "", "no executor plugin is named 'standrad'"),
        ("executor = { tool_timeout_sec = 1 }", "", "[run] executor use: is missing"),
        ("executor = 5", "", "[run]: executor"),
        ("", 'executor = "proces"', "Did you mean 'process'?"),
        ("", 'tools = ["wehre"]', "[[agents]] 0 tools 0: no tool plugin is named 'wehre'"),
        ("", 'tools = "where"', "tools expected list["),
        ('handlers = ["voice"]', "", "[run] handlers 0: no handlers plugin is named 'voice'"),
        ('handlers = ["whispers"]\nexecutor = "deaf"', "", "it would leave out the handlers of [run] handlers"),
        ('executor = { use = "standard", tool_timout_sec = 1 }', "", "Did you mean 'tool_timeout_sec'?"),
        ('executor = { use = "standard", tool_timeout_sec = 0 }', "", "it is a number of seconds above 0, or inf"),
        ('executor = { use = "standard", tool_limits = { memory = 5 } }', "", "Did you mean 'memory_mb'?"),
        ('executor = { use = "process", tool_isolation = "thread" }', "", "tool_isolation: is not an option"),
        ("", 'tools = ["where", { use = "greet", greeting = "" }]', "[[agents]] 0 tools 1 greeting"),
        ('executor = "deaf"', 'tools = ["where"]', "this executor does not take tool_registry, so it would leave out"),
    ],
)  # fmt: skip
def test_a_wrong_name_or_option_is_an_error_before_anything_starts(
    tmp_path: Path, run: str, agent: str, text: str
) -> None:
    with pytest.raises((ConfigError, PluginError)) as caught:
        check(config(tmp_path, run, f'use = "once"\n{agent}'))
    assert text in str(caught.value)
    assert "converge.toml [" in str(caught.value)


@pytest.mark.parametrize(
    ("run", "agent", "text"),
    [
        ('executor = "object"', "", "it made a ToolRegistry, which has no execute(decisions)"),
        ("", 'tools = ["greet", "greet"]', "[[agents]] 0 tools 1: there is another tool named 'greet'"),
        ('handlers = ["whispers", "more"]', "", "[run] handlers 1: another of the handlers takes Whisper already"),
        ('handlers = ["list"]', "", "it made a list, not a mapping from decision classes to functions"),
        ('handlers = ["text"]', "", "it has a handler for 'Shout', which is no class of decisions"),
        ('handlers = ["none"]', "", "what it has for Shout is None, which cannot be called"),
    ],
)  # fmt: skip
async def test_what_a_plugin_refuses_ends_the_run_with_its_place(
    tmp_path: Path, run: str, agent: str, text: str
) -> None:
    with pytest.raises((ConfigError, PluginError)) as caught:
        await Application(config(tmp_path, run, f'use = "once"\n{agent}')).run()
    assert text in str(caught.value)
    assert "converge.toml" in str(caught.value)


async def test_approvals_are_not_left_out_by_an_executor_that_does_not_know_them(tmp_path: Path) -> None:
    agent = 'use = "once"\napprovals = { needed_for = ["SubmitTask"] }'
    with pytest.raises(ConfigError, match="it would leave out decisions that a person has to allow"):
        await Application(config(tmp_path, 'executor = "deaf"', agent)).run()


def test_the_executors_of_core_are_found_by_name() -> None:
    manager = default_manager()
    assert manager.find("executor", "standard") is StandardExecutor
    assert manager.find("executor", "process") is ProcessExecutor
    registry = ToolRegistry()
    registry.register(Greet("hi", "a"))
    with pytest.raises(ToolNotImportable):
        manager.build("executor", "process", agent_id="a", tool_registry=registry)
