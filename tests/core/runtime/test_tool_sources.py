"""Sources of several tools: opened before the agents start, shared between them, closed after them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from attrs import frozen

from converge.core.agent import Agent, AgentState
from converge.core.decisions import Decision, InvokeTool
from converge.core.message import Message
from converge.core.task import Task
from converge.core.tools import Tool, ToolRegistry, tool
from converge.plugins import default_manager
from converge.runtime.application import Application, check
from converge.runtime.config import Config, load_config
from converge.runtime.errors import ConfigError
from converge.runtime.tools import sources
from converge.runtime.tools.sources import ToolSources

EVENTS: list[str] = []


@frozen
class Options:
    name: str = "one"
    manner: str = "well"


class Source:
    """Has one tool, named as its options say, and notes what happens to it."""

    converge_options = Options

    def __init__(self, name: str, manner: str) -> None:
        self._name, self._manner = name, manner

    async def open(self) -> Sequence[Tool]:
        EVENTS.append(f"open {self._name}")
        if self._manner == "raises":
            raise LookupError("nobody has them")
        if self._manner == "hangs":
            await asyncio.Event().wait()
        return [tool(name=self._name)(self._answer)]

    async def close(self) -> None:
        EVENTS.append(f"close {self._name}")
        if self._manner == "closes badly":
            raise OSError("it is stuck")

    async def _answer(self, text: str) -> str:
        return f"{self._name} {text}"


class OwnSource(Source):
    """One for each agent."""

    def __init__(self, name: str, manner: str, agent_id: str) -> None:
        super().__init__(name, manner)


class Caller(Agent):
    """Calls each of its tools, and ends."""

    def on_start(self) -> None:
        EVENTS.append(f"start {self.context.tools.list_names()}")

    def decide(self, messages: list[Message], tasks: list[Task]) -> list[Decision]:
        if self.outcomes:
            EVENTS.extend(str(outcome.value) for outcome in self.outcomes)
            self.state = AgentState.OFFLINE
            return []
        return [InvokeTool(name, {"text": "hi"}) for name in self.context.tools.list_names()]

    def on_stop(self) -> None:
        EVENTS.append("stop")


@pytest.fixture(autouse=True)
def plugins() -> Iterator[None]:
    EVENTS.clear()
    with contextlib.ExitStack() as stack:
        for kind, name, driver in (("tool", "source", Source), ("tool", "own", OwnSource), ("agent", "caller", Caller)):
            stack.enter_context(default_manager().override(kind, name, driver))
        yield


def config(folder: Path, *agents: str) -> Config:
    file = folder / "converge.toml"
    file.write_text("".join(f'[[agents]]\nuse = "caller"\n{agent}\n' for agent in agents))
    made = load_config(file, environment={})
    check(made)
    return made


async def run(made: Config) -> bool:
    return await asyncio.wait_for(Application(made).run(), 60)


async def test_the_tools_are_there_when_the_agents_start_and_until_they_have_stopped(tmp_path: Path) -> None:
    assert await run(config(tmp_path, 'tools = ["source", { use = "source", name = "two" }]'))
    assert EVENTS[:3] == ["open one", "open two", "start ['one', 'two']"]
    assert EVENTS[3:-3] == ["one hi", "two hi"]
    assert EVENTS[-3:] == ["stop", "close one", "close two"]


async def test_equal_options_are_one_source_whoever_names_them(tmp_path: Path) -> None:
    table = '{ manner = "well", use = "source", name = "two" }'
    other = '{ use = "source", name = "two", manner = "well" }'
    assert await run(config(tmp_path, f"count = 3\ntools = [{table}]", f'name = "b"\ntools = [{other}]'))
    assert EVENTS.count("open two") == EVENTS.count("close two") == 1
    assert EVENTS.count("two hi") == 4


async def test_a_source_that_names_the_agent_is_made_for_each(tmp_path: Path) -> None:
    assert await run(config(tmp_path, 'count = 3\ntools = ["own"]'))
    assert EVENTS.count("open one") == EVENTS.count("close one") == 3


async def test_what_a_source_raises_ends_the_start_with_its_place_and_closes_all(tmp_path: Path) -> None:
    made = config(tmp_path, 'tools = ["source", { use = "source", name = "two", manner = "raises" }]')
    with pytest.raises(ConfigError, match=r"tools 1: its tools cannot be had: nobody has them"):
        await run(made)
    assert sorted(EVENTS) == ["close one", "close two", "open one", "open two"]


async def test_a_source_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "OPEN_TIMEOUT_SEC", 0.1)
    made = config(tmp_path, 'tools = [{ use = "source", manner = "hangs" }]')
    with pytest.raises(ConfigError, match=r"cannot be had: opening the tools gave no answer within 0.1 s"):
        await run(made)
    assert EVENTS == ["open one", "close one"]


async def test_a_stop_while_a_source_opens_is_obeyed(tmp_path: Path) -> None:
    stop = asyncio.Event()
    made = config(tmp_path, 'tools = [{ use = "source", manner = "hangs" }]')
    running = asyncio.create_task(Application(made).run(stop=stop))
    while not EVENTS:  # noqa: ASYNC110  # a source has no event for the test
        await asyncio.sleep(0)
    stop.set()
    assert await asyncio.wait_for(running, 60) is False
    assert EVENTS == ["open one", "close one"]


async def test_a_source_that_does_not_close_is_logged_and_the_others_are_closed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = config(tmp_path, 'tools = [{ use = "source", manner = "closes badly" }, { use = "source", name = "two" }]')
    assert await run(made)
    assert EVENTS[-2:] == ["close one", "close two"]
    assert "tools 0: the source of these tools did not close" in caplog.text


async def test_two_tools_of_one_name_are_an_error_with_the_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tools 1: there is another tool named 'one'"):
        await run(config(tmp_path, 'tools = ["source", { use = "source", manner = "also well" }]'))


async def test_what_is_no_tool_is_an_error_with_the_place() -> None:
    class Nonsense:
        async def open(self) -> Sequence[Tool]:
            return [object()]  # type: ignore[list-item]  # that is what is tested

        async def close(self) -> None: ...

    opened = ToolSources()
    opened.add(Nonsense(), "nonsense", ToolRegistry(), "here")
    with pytest.raises(ConfigError, match=r"here: <object object at .* is not a Tool"):
        await opened.open()


async def test_what_gives_no_list_is_an_error_with_the_place() -> None:
    class Empty:
        async def open(self) -> Sequence[Tool]:
            return None  # type: ignore[return-value]  # that is what is tested

        async def close(self) -> None: ...

    opened = ToolSources()
    opened.add(Empty(), "empty", ToolRegistry(), "here")
    with pytest.raises(ConfigError, match=r"here: its tools cannot be had: .*NoneType"):
        await opened.open()
