"""Lifecycle listeners: in order, isolated, and refused when they do not fit."""

from __future__ import annotations

import asyncio
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from converge.plugins import hookimpl
from converge.plugins.lifecycle import EVENTS, Lifecycle, LifecycleSpecs

PAGE = (Path(__file__).parents[3] / "docs" / "hooks.md").read_text()


class Notes:
    """Notes its name at each start."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes = name, notes

    @hookimpl
    def converge_agent_started(self, agent: str) -> None:
        self.notes.append(f"{self.name} {agent}")


class First(Notes):
    @hookimpl(tryfirst=True)
    def converge_agent_started(self, agent: str) -> None:
        super().converge_agent_started(agent)


class Late(Notes):
    @hookimpl
    async def converge_agent_started(self, agent: str) -> None:  # type: ignore[override]  # a hook may be async
        await asyncio.sleep(0)
        self.notes.append(f"{self.name} {agent}")


class Raising:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    @hookimpl
    def converge_agent_started(self) -> None:
        raise self.error


class Hanging:
    @hookimpl
    async def converge_agent_started(self) -> None:
        await asyncio.Event().wait()


async def test_listeners_are_told_in_the_order_in_which_they_were_added_async_ones_too() -> None:
    notes: list[str] = []
    lifecycle = Lifecycle()
    for name, kind in (("a", Notes), ("b", Late), ("c", Notes), ("d", First)):
        lifecycle.add(kind(name, notes), name)
    await lifecycle.notify("agent_started", agent="x")
    assert notes == ["d x", "a x", "b x", "c x"]


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1), asyncio.CancelledError(), StopIteration()])
async def test_one_that_raises_is_counted_and_the_others_are_told(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    notes: list[str] = []
    lifecycle = Lifecycle()
    lifecycle.add(Raising(error), "broken")
    lifecycle.add(Notes("after", notes), "after")
    await lifecycle.notify("agent_started", agent="x")
    assert notes == ["after x"]
    assert lifecycle.failures == {"broken": 1}
    assert "the lifecycle plugin 'broken' failed at agent_started" in caplog.text


async def test_one_that_hangs_is_given_up() -> None:
    notes: list[str] = []
    lifecycle = Lifecycle(timeout=0.01)
    lifecycle.add(Hanging(), "hanging")
    lifecycle.add(Notes("after", notes), "after")
    await lifecycle.notify("agent_started", agent="x")
    assert (notes, lifecycle.failures) == (["after x"], {"hanging": 1})


async def test_who_is_cancelled_while_a_listener_is_told_is_cancelled() -> None:
    lifecycle = Lifecycle()
    lifecycle.add(Hanging(), "hanging")
    telling = asyncio.create_task(lifecycle.notify("agent_started", agent="x"))
    await asyncio.sleep(0)
    telling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await telling
    assert lifecycle.failures == {}


async def test_what_nobody_listens_to_is_no_event() -> None:
    lifecycle = Lifecycle()
    lifecycle.add(Notes("a", []), "a")
    assert lifecycle.listens("agent_started")
    assert not lifecycle.listens("agent_stopped")
    await lifecycle.notify("agent_stopped", agent="x")


class Misspelt:
    @hookimpl
    def converge_agent_startet(self, agent: object) -> None:
        """A typo."""


class TooMuch:
    @hookimpl
    def converge_agent_started(self, agent: object, colour: str) -> None:
        """The hook has no colour."""


class Wrapping:
    @hookimpl(wrapper=True)
    def converge_agent_started(self, agent: object) -> Any:
        return (yield)


@pytest.mark.parametrize(
    ("plugin", "text"),
    [
        (Misspelt(), "'converge_agent_startet' is no lifecycle hook. Did you mean 'converge_agent_started'?"),
        (TooMuch(), "does not fit the lifecycle hooks"),
        (Wrapping(), "is a wrapper"),
        (object(), "implements no lifecycle hook; mark methods like converge_agent_started with hookimpl"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_the_others_as_they_were(plugin: object, text: str) -> None:
    lifecycle = Lifecycle()
    lifecycle.add(Notes("a", []), "a")
    with pytest.raises(TypeError, match=re.escape(text)):
        lifecycle.add(plugin, "b")
    lifecycle.add(Notes("b", []), "b")
    with pytest.raises(ValueError, match="'b' already"):
        lifecycle.add(Notes("c", []), "b")


@pytest.mark.parametrize("event", EVENTS)
def test_the_page_has_each_hook_with_its_arguments_and_a_place_in_the_diagram(event: str) -> None:
    spec = getattr(LifecycleSpecs, f"converge_{event}")
    arguments = ", ".join(f"`{name}`" for name in [*inspect.signature(spec).parameters][1:])
    assert f"| `converge_{event}` | {arguments} | " in PAGE
    assert event in PAGE.split("```")[-2]
    assert spec.__doc__


def test_the_code_on_the_page_runs() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    namespace: dict[str, Any] = {"__name__": "page"}
    exec(compile(block, "docs/hooks.md", "exec", dont_inherit=True), namespace)
    assert namespace["lifecycle"].listens("message_sent")
