from __future__ import annotations

import asyncio
import datetime
import enum
import inspect
import json
import pickle
import subprocess
import sys
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import pytest

from converge.core.errors import ConvergeError, ToolParameterError
from converge.core.tools import FunctionTool, Tool, ToolRegistry, tool


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: int
    y: int = 0


calls: list[Any] = []


@tool
def draw(
    points: list[Point],
    colour: Colour = Colour.RED,
    width: Annotated[int, msgspec.Meta(ge=1, description="In pixels.")] = 2,
    label: str | None = None,
) -> str:
    """Draw a line.

    It goes through all points.

    Args:
        points: Where it goes through.
        colour: Its colour.
        width: Not shown, the hint says it.
    """
    calls.append((points, colour, width, label))
    return f"{len(points)} points"


@tool(name="double", description="Twice the number.")
async def twice(number: float) -> float:
    await asyncio.sleep(0)
    return number * 2


class Handmade:
    name = "handmade"

    def run(self, params: dict[str, Any]) -> Any:
        return params


@pytest.fixture(autouse=True)
def no_calls() -> None:
    calls.clear()


def test_a_function_becomes_a_tool_with_name_description_and_schema() -> None:
    assert isinstance(draw, Tool)
    assert draw.name == "draw"
    assert draw.description == "Draw a line.\n\nIt goes through all points."
    assert draw.parameters == {
        "type": "object",
        "properties": {
            "points": {
                "type": "array",
                "items": {"$ref": "#/$defs/Point"},
                "description": "Where it goes through.",
            },
            "colour": {"$ref": "#/$defs/Colour", "description": "Its colour.", "default": "red"},
            "width": {"type": "integer", "minimum": 1, "description": "In pixels.", "default": 2},
            "label": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        },
        "required": ["points"],
        "additionalProperties": False,
        "$defs": {
            "Colour": {"title": "Colour", "enum": ["blue", "red"]},
            "Point": {
                "title": "Point",
                "type": "object",
                "properties": {"x": {"type": "integer"}, "y": {"type": "integer", "default": 0}},
                "required": ["x"],
            },
        },
    }
    json.dumps(draw.parameters)


def test_run_converts_the_parameters_and_calls_the_function() -> None:
    assert draw.run({"points": [{"x": 1}, {"x": 2, "y": 3}], "colour": "blue"}) == "2 points"
    assert calls == [([Point(1), Point(2, 3)], Colour.BLUE, 2, None)]


def test_a_tool_is_still_the_function() -> None:
    assert draw([Point(1)]) == "1 points"
    assert draw.__name__ == "draw"  # type: ignore[attr-defined]  # set by functools.update_wrapper
    assert (draw.__doc__ or "").startswith("Draw a line.")
    assert list(inspect.signature(draw).parameters) == ["points", "colour", "width", "label"]


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({}, "missing required field `points`"),
        ({"points": 7}, r"Expected `array`, got `int` - at `\$.points`"),
        ({"points": [{"x": 1}, {"x": "1"}]}, r"Expected `int`, got `str` - at `\$.points\[1\].x`"),
        ({"points": [], "width": 0}, r"at `\$.width`"),
        ({"points": [], "width": True}, r"at `\$.width`"),
        ({"points": [], "colour": "green"}, r"at `\$.colour`"),
        ({"points": [], "colour": None}, r"at `\$.colour`"),
        ({"points": [], "more": 1}, "unknown field `more`"),
        ({1: 2}, "Expected `str`"),
        ([], "Expected `object`, got `array`"),
        (None, "Expected `object`, got `null`"),
    ],
)
def test_bad_parameters_are_refused_before_the_call_with_the_place(params: Any, text: str) -> None:
    with pytest.raises(ToolParameterError, match=f"tool 'draw': .*{text}"):
        draw.run(params)
    assert not calls


def test_a_parameter_error_is_a_value_error_of_converge() -> None:
    assert issubclass(ToolParameterError, ValueError)
    assert issubclass(ToolParameterError, ConvergeError)


def test_a_value_error_of_the_function_itself_is_its_own() -> None:
    @tool
    def fails() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine") as caught:
        fails.run({})
    assert not isinstance(caught.value, ToolParameterError)


async def test_a_coroutine_function_becomes_an_async_tool() -> None:
    assert isinstance(twice, Tool)
    assert (twice.name, twice.description) == ("double", "Twice the number.")
    assert inspect.iscoroutinefunction(twice.run)
    assert not inspect.iscoroutinefunction(draw.run)
    assert await twice.run({"number": 2}) == 4.0
    assert await twice(3) == 6
    with pytest.raises(ToolParameterError):
        await twice.run({"number": "2"})


def test_the_decorator_works_with_empty_parentheses_and_on_bound_methods() -> None:
    class Counter:
        total = 0

        def add(self, amount: int) -> int:
            self.total += amount
            return self.total

    @tool()
    def nothing() -> int:
        return 1

    assert nothing.run({}) == 1
    assert nothing.description == ""
    assert nothing.parameters["properties"] == {}
    add = tool(Counter().add)
    assert [add.run({"amount": 2}), add.run({"amount": 3})] == [2, 5]


def test_defaults_are_those_of_the_function() -> None:
    marker = object()

    @tool
    def defaults(
        when: datetime.date = datetime.date(2020, 1, 2), extra: Any = marker, kind: Literal["a", "b"] = "a"
    ) -> Any:
        return when, extra, kind

    assert defaults.run({}) == (datetime.date(2020, 1, 2), marker, "a")
    assert defaults.run({"when": "2021-01-01"})[0] == datetime.date(2021, 1, 1)
    properties = defaults.parameters["properties"]
    assert properties["when"]["default"] == "2020-01-02"
    assert "default" not in properties["extra"]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("def f(x): ...", "'x' has no type hint; write one, such as x: str"),
        ("def f(self, x: int): ...", "'self' has no type hint"),
        ("def f(*args: int): ...", "'args' takes any number of values"),
        ("def f(**kwargs: int): ...", "'kwargs' takes any number of values"),
        ("def f(x: int, /): ...", "'x' is positional-only"),
        ("async def f(x): ...", "'x' has no type hint"),
    ],
)
def test_a_function_no_schema_can_describe_is_refused_at_decoration(source: str, text: str) -> None:
    scope: dict[str, Any] = {}
    exec(source, scope)
    with pytest.raises(TypeError, match=text):
        tool(scope["f"])


def test_what_is_no_function_is_refused() -> None:
    things: list[Any] = [Handmade(), Handmade, 7]
    for thing in things:
        with pytest.raises(TypeError, match="@tool takes a function"):
            tool(thing)


def test_a_hint_without_json_form_is_a_type_error_that_names_it() -> None:
    @tool
    def odd(x: subprocess.Popen) -> None:  # type: ignore[type-arg]  # any class without a JSON form
        raise AssertionError(x)

    with pytest.raises(TypeError, match=r"odd: a type hint has no JSON form: .*Popen"):
        _ = odd.parameters


def test_a_hint_that_cannot_be_resolved_is_a_type_error_that_says_so() -> None:
    scope: dict[str, Any] = {}
    exec("def f(x: 'Missing'): ...", scope)
    with pytest.raises(TypeError, match="'Missing' is not defined"):
        _ = tool(scope["f"]).parameters


def test_a_malformed_docstring_is_the_description_as_it_stands() -> None:
    def odd() -> None: ...

    odd.__doc__ = "Does it.\n\n:param"
    assert tool(odd).description.startswith("Does it.")


def test_a_tool_is_pickled_by_its_import_name() -> None:
    assert pickle.loads(pickle.dumps(draw)) is draw

    @tool
    def local() -> None: ...

    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(local)


def test_the_registry_knows_tools_by_name() -> None:
    registry, handmade = ToolRegistry(), Handmade()
    registry.register(handmade)
    registry.register(draw)
    registry.register(handmade)
    assert registry.get("handmade") is handmade
    assert registry.get("missing") is None
    assert registry.list_names() == ["draw", "handmade"]
    assert "draw" in registry
    assert "missing" not in registry
    assert len(registry) == 2


def test_a_name_belongs_to_one_tool() -> None:
    registry = ToolRegistry()
    first = Handmade()
    registry.register(first)
    with pytest.raises(ValueError, match="another tool named 'handmade'"):
        registry.register(Handmade())
    assert registry.get("handmade") is first
    registry.unregister("handmade")
    registry.unregister("handmade")
    registry.register(Handmade())
    assert registry.get("handmade") is not first


def test_a_tool_renamed_later_keeps_its_registered_name() -> None:
    registry, handmade = ToolRegistry(), Handmade()
    registry.register(handmade)
    handmade.name = "draw"
    assert registry.list_names() == ["handmade"]


def test_what_is_no_tool_is_refused() -> None:
    def plain() -> None: ...

    class Nameless(Handmade):
        name = ""

    class Numbered(Handmade):
        name: Any = 7

    registry: Any = ToolRegistry()
    with pytest.raises(TypeError, match="decorate the function with @tool"):
        registry.register(plain)
    for thing in ("draw", Handmade, object()):
        with pytest.raises(TypeError, match=r"needs a name and run\(params\)"):
            registry.register(thing)
    with pytest.raises(ValueError, match="empty name"):
        registry.register(Nameless())
    with pytest.raises(TypeError, match="must be a str"):
        registry.register(Numbered())
    assert registry.list_names() == []


def test_importing_and_declaring_tools_loads_neither_msgspec_nor_the_docstring_parser() -> None:
    code = (
        "import sys\n"
        "from converge.core.tools import ToolRegistry, tool\n"
        "@tool\ndef f(x: int) -> int: return x\n"
        "ToolRegistry().register(f)\n"
        "print([name for name in ('msgspec', 'docstring_parser') if name in sys.modules])\n"
        "print(f.run({'x': 1}), 'msgspec' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "1 True"]


def test_a_tool_shows_where_it_comes_from() -> None:
    assert repr(draw).startswith("<tool 'draw': ")
    assert isinstance(draw, FunctionTool)
