from __future__ import annotations

import collections
import dataclasses
import datetime
import enum
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NewType

import attrs
import pytest
from attrs import define, field, frozen
from hypothesis import given
from hypothesis import strategies as st

from converge.plugins import PluginBroken, PluginManager, PluginOptionsError

Port = NewType("Port", int)


class Level(enum.Enum):
    LOW = "low"
    HIGH = 2


class Colour(enum.StrEnum):
    RED = "red"


@frozen
class Tls:
    cert: Path
    strict: bool = True


@functools.cache
def options_of(kind: object) -> type:
    return define(type("Options", (), {"__annotations__": {"x": kind}}))


def built(kind: object, value: object, **attributes: Any) -> object:
    """What the option `x` of type `kind` becomes when the table gives `value`."""
    body = {"__annotations__": {"x": kind}, "x": field(**attributes)}
    options = define(type("Options", (), body)) if attributes else options_of(kind)

    class Driver:
        converge_options = options

        def __init__(self, x: object) -> None:
            self.x = x

    manager = PluginManager()
    with manager.override("store", "d", Driver):
        made = manager.build("store", {"use": "d", "x": value}, where="converge.toml [store]")
    assert isinstance(made, Driver)
    return made.x


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (int, 5, 5),
        (float, 5, 5.0),
        (float, 1.5, 1.5),
        (str, "5", "5"),
        (bool, False, False),
        (bytes, b"x", b"x"),
        (Path, "a/b", Path("a/b")),
        (Path, Path("a"), Path("a")),
        (datetime.date, datetime.date(2025, 1, 2), datetime.date(2025, 1, 2)),
        (Literal["a", 1], 1, 1),
        (Level, "low", Level.LOW),
        (Level, 2, Level.HIGH),
        (Level, Level.HIGH, Level.HIGH),
        (Colour, "red", Colour.RED),
        (int | None, None, None),
        (int | None, 3, 3),
        (int | str, "x", "x"),
        (list[int], [1, 2], [1, 2]),
        (Sequence[str], ("a",), ["a"]),
        (list, [1, "a"], [1, "a"]),
        (tuple[int, ...], [1, 2, 3], (1, 2, 3)),
        (tuple[int, str], [1, "a"], (1, "a")),
        (tuple, [1], (1,)),
        (set[str], ["a", "a"], {"a"}),
        (frozenset[str], ["a"], frozenset({"a"})),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (Mapping[str, list[int]], {"a": [1]}, {"a": [1]}),
        (dict, {"a": 1}, {"a": 1}),
        (Tls, {"cert": "c.pem"}, Tls(Path("c.pem"))),
        (Tls, Tls(Path("c")), Tls(Path("c"))),
        (list[Tls], [{"cert": "c", "strict": False}], [Tls(Path("c"), strict=False)]),
        (Tls | None, {"cert": "c"}, Tls(Path("c"))),
        (Port, 80, 80),
        (Annotated[int, "ports"], 80, 80),
        (object, {"any": [1]}, {"any": [1]}),
        (Any, "thing", "thing"),
    ],
)
def test_an_option_takes_values_of_its_type(kind: object, value: object, expected: object) -> None:
    assert (made := built(kind, value)) == expected
    assert type(made) is type(expected)


@pytest.mark.parametrize(
    ("kind", "value", "place", "text"),
    [
        (int, "5", "x", "expected int, got the str '5'"),
        (int, True, "x", "expected int, got the bool True"),
        (int, 5.0, "x", "expected int, got the float 5.0"),
        (str, 5, "x", "expected str, got the int 5"),
        (bool, 1, "x", "expected bool, got the int 1"),
        (float, True, "x", "expected float, got the bool True"),
        (float, "1.5", "x", "expected float, got the str '1.5'"),
        (Path, 5, "x", "expected a path (str), got the int 5"),
        (datetime.date, datetime.datetime(2025, 1, 2, tzinfo=datetime.UTC), "x", "expected date, got the datetime"),
        (Literal["a", 1], True, "x", "expected one of 'a', 1, got the bool True"),
        (Level, "LOW", "x", "expected one of 'low', 2, got the str 'LOW'"),
        (Level, 2.0, "x", "expected one of 'low', 2, got the float 2.0"),
        (Colour, "blue", "x", "expected one of 'red', got the str 'blue'"),
        (int | None, "x", "x", "expected int, got the str 'x'"),
        (int | str, 1.5, "x", "expected int or str, got the float 1.5"),
        (list[str], "abc", "x", "expected list[str], got the str 'abc'"),
        (list[int], [1, "a", 3], "x[1]", "expected int, got the str 'a'"),
        (list[list[int]], [[1], [2, None]], "x[1][1]", "expected int, got None"),
        (tuple[int, str], [1], "x", "expected 2 items, got 1"),
        (tuple[int, str], [1, 2], "x[1]", "expected str, got the int 2"),
        (set[str], "abc", "x", "expected set[str], got the str 'abc'"),
        (dict[str, int], {"a": "1"}, "x.a", "expected int, got the str '1'"),
        (dict[str, int], {"a.b": "1"}, "x.'a.b'", "expected int, got the str '1'"),
        (dict[str, int], [("a", 1)], "x", "expected dict[str, int], got the list"),
        (dict[int, int], {"1": 1}, "x.1", "expected int, got the str '1'"),
        (Tls, "c.pem", "x", "expected a table of options, got the str 'c.pem'"),
        (Tls, {"cert": 1}, "x.cert", "expected a path (str), got the int 1"),
        (Tls, {}, "x.cert", "is missing; it is required and takes a path (str)"),
        (Tls, {"cert": "c", "strikt": 1}, "x.strikt", "is not an option; valid options are cert, strict. Did you mean"),
        (list[Tls], [{"cert": "c"}, {"cert": None}], "x[1].cert", "expected a path (str), got None"),
        (Port, "80", "x", "expected int, got the str '80'"),
    ],
)
def test_nothing_is_converted_in_silence_and_the_place_is_named(
    kind: object, value: object, place: str, text: str
) -> None:
    with pytest.raises(PluginOptionsError) as caught:
        built(kind, value)
    assert isinstance(caught.value, ValueError)
    assert str(caught.value).startswith(f"converge.toml [store] {place}: {text}")
    assert str(caught.value).endswith(" (options of the store plugin 'd')")
    assert [path for path, _ in caught.value.problems] == [place]


SCALARS = {
    bool: st.booleans(),
    int: st.integers(),
    float: st.floats(allow_nan=False),
    str: st.text(),
    bytes: st.binary(),
}


@given(st.sampled_from(list(SCALARS)), st.one_of(*SCALARS.values()))
def test_a_scalar_is_taken_exactly_when_it_has_the_type_of_the_option(kind: type, value: object) -> None:
    if type(value) is kind or (kind is float and type(value) is int and abs(value) <= 2**53):
        assert built(kind, value) == value
    elif not (kind is float and type(value) is int):
        with pytest.raises(PluginOptionsError):
            built(kind, value)


@pytest.mark.parametrize("value", [2**53 + 1, 10**400, 10**5000], ids=["inexact", "large", "huge"])
def test_an_int_that_no_float_equals_is_refused(value: int) -> None:
    with pytest.raises(PluginOptionsError, match=r"\[store\] x: .* has no exact float"):
        built(float, value)


@pytest.mark.parametrize(
    "validator",
    [attrs.validators.gt(0), attrs.validators.in_([1, 2]), attrs.validators.instance_of(str)],
)
def test_what_an_attrs_validator_refuses_is_named_with_its_place(validator: Any) -> None:
    with pytest.raises(PluginOptionsError, match=r"^converge\.toml \[store\] x: 'x' must be .* \(options of") as caught:
        built(int, -1, validator=validator)
    assert "\n" not in str(caught.value)


def test_what_a_validator_of_ones_own_refuses_is_named_with_its_place() -> None:
    def even(instance: object, attribute: object, value: int) -> None:
        if value % 2:
            raise ValueError("an even number, please")

    with pytest.raises(PluginOptionsError, match=r"^converge\.toml \[store\] x: an even number, please"):
        built(int, 3, validator=even)


def test_what_options_refuse_as_a_whole_is_named_with_the_place_of_the_table(manager: PluginManager) -> None:
    @frozen
    class Options:
        low: int = 0
        high: int = 9

        def __attrs_post_init__(self) -> None:
            if self.low > self.high:
                raise ValueError("low is above high")

    class Driver:
        converge_options = Options

    manager.override("store", "d", Driver)
    with pytest.raises(PluginOptionsError, match=r"^converge\.toml \[store\]: low is above high"):
        manager.build("store", {"use": "d", "low": 10}, where="converge.toml [store]")


def test_all_problems_are_shown_at_once(manager: PluginManager) -> None:
    class Driver:
        converge_options = Tls

    manager.override("store", "d", Driver)
    with pytest.raises(PluginOptionsError) as caught:
        manager.build("store", {"use": "d", "strict": 1, "colour": "red"}, where="converge.toml [store]")
    assert str(caught.value).splitlines() == [
        "3 problems with the options of the store plugin 'd':",
        "  converge.toml [store] colour: is not an option; valid options are cert, strict.",
        "  converge.toml [store] cert: is missing; it is required and takes a path (str)",
        "  converge.toml [store] strict: expected bool, got the int 1",
    ]


def test_an_option_without_an_annotation_takes_anything(manager: PluginManager) -> None:
    class Driver:
        converge_options = attrs.make_class("Options", ["x"])

        def __init__(self, x: object) -> None:
            self.x = x

    manager.override("store", "d", Driver)
    made = manager.build("store", {"use": "d", "x": [1, "a"]})
    assert isinstance(made, Driver)
    assert made.x == [1, "a"]


def test_a_long_value_is_cut_in_the_text() -> None:
    with pytest.raises(PluginOptionsError) as caught:
        built(int, "x" * 10_000)
    assert len(str(caught.value)) < 200


def test_the_name_of_an_option_is_the_alias_of_its_field(manager: PluginManager) -> None:
    @frozen
    class Options:
        _hidden: int = field(default=0, validator=attrs.validators.ge(0))
        derived: int = field(init=False, default=7)

    class Driver:
        converge_options = Options

        def __init__(self, hidden: int) -> None:
            self.hidden = hidden

    manager.override("store", "d", Driver)
    made = manager.build("store", {"use": "d", "hidden": 4})
    assert isinstance(made, Driver)
    assert made.hidden == 4
    with pytest.raises(PluginOptionsError, match=r"^hidden: '_hidden' must be >= 0"):
        manager.build("store", {"use": "d", "hidden": -4})
    with pytest.raises(PluginOptionsError, match=r"^derived: is not an option; valid options are hidden\."):
        manager.build("store", {"use": "d", "derived": 1})


class Opaque:
    pass


@dataclasses.dataclass
class Data:
    x: int


class Named(NamedTuple):
    x: int


@frozen
class UnresolvedOptions:
    x: Elsewhere  # type: ignore[name-defined]  # noqa: F821  # an annotation that does not exist is the point


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (options_of(Opaque), "an option cannot be of type Opaque"),
        (options_of(Data), "an option cannot be of type Data"),
        (options_of(Named), "an option cannot be of type Named"),
        (options_of(collections.deque[int]), "an option cannot be of type collections.deque[int]"),
        (options_of(list[Opaque]), "an option cannot be of type Opaque"),
        (UnresolvedOptions, "cannot be resolved (name 'Elsewhere' is not defined); import it at run time"),
        (Opaque, "which is no attrs class"),
    ],
)
def test_an_options_class_that_cannot_work_is_a_broken_plugin(
    manager: PluginManager, options: type, reason: str
) -> None:
    class Driver:
        converge_options = options

    manager.override("store", "d", Driver)
    with pytest.raises(PluginBroken) as caught:
        manager.build("store", {"use": "d", "x": [1]})
    assert reason in str(caught.value)
