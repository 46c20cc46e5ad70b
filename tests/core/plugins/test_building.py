from __future__ import annotations

from typing import ClassVar, Self

import pytest
from attrs import define, frozen

from converge.plugins import (
    PluginBroken,
    PluginManager,
    PluginOptionsError,
    PluginUnknown,
    plugin_field,
)

WHERE = "converge.toml [store]"


@define
class Shelf:
    size: int = 1


@frozen
class BoxOptions:
    path: str
    size: int = 3


@define
class Box:
    converge_options: ClassVar[type] = BoxOptions
    path: str
    size: int
    agent_id: str = "nobody"

    def to_options(self) -> dict[str, object]:
        return {"path": self.path, "size": self.size}


@frozen
class CacheOptions:
    inner: object = plugin_field("store", default="shelf")
    limit: int = 10
    spare: object = plugin_field("store", default=None)


@define
class Cache:
    converge_options: ClassVar[type] = CacheOptions
    inner: object
    limit: int
    spare: object

    def to_options(self) -> dict[str, object]:
        return {"inner": self.inner, "limit": self.limit, "spare": self.spare}


@pytest.fixture
def stocked(manager: PluginManager) -> PluginManager:
    manager.override("store", "shelf", Shelf)
    manager.override("store", "box", Box)
    manager.override("store", "cache", Cache)
    return manager


def test_a_name_alone_builds_with_defaults(stocked: PluginManager) -> None:
    assert stocked.build("store", "shelf") == Shelf()
    assert stocked.build("store", {"use": "shelf"}) == Shelf()


def test_options_are_passed_as_keyword_arguments(stocked: PluginManager) -> None:
    assert stocked.build("store", {"use": "box", "path": "p"}) == Box("p", 3)


def test_a_built_in_plugin_is_built_by_name(manager: PluginManager) -> None:
    assert type(manager.build("store", "memory")).__name__ == "MemoryStore"


def test_the_table_of_the_caller_is_left_as_it_was(stocked: PluginManager) -> None:
    table: dict[str, object] = {"use": "box", "path": "p"}
    stocked.build("store", table)
    assert table == {"use": "box", "path": "p"}


def test_context_goes_to_drivers_that_take_it_and_the_table_goes_before_it(stocked: PluginManager) -> None:
    table = {"use": "box", "path": "p"}
    assert stocked.build("store", table, agent_id="a", loop=object()) == Box("p", 3, "a")
    assert stocked.build("store", table, size=99) == Box("p", 99)  # the table leaves it open
    assert stocked.build("store", {**table, "size": 7}, size=99) == Box("p", 7)
    assert stocked.build("store", "shelf", agent_id="a") == Shelf()


def test_a_driver_that_takes_any_keyword_gets_the_whole_context(manager: PluginManager) -> None:
    def factory(**arguments: object) -> dict[str, object]:
        return arguments

    manager.override("agent", "f", factory)
    assert manager.build("agent", "f", a=1, b=2) == {"a": 1, "b": 2}


def test_a_required_argument_that_nobody_gives_is_an_options_error(manager: PluginManager) -> None:
    def factory(agent_id: str, uri: str, *rest: str, flag: bool) -> None:
        raise AssertionError

    manager.override("transport", "t", factory)
    with pytest.raises(PluginOptionsError) as caught:
        manager.build("transport", "t", where="converge.toml [transport]", agent_id="a")
    assert [path for path, _ in caught.value.problems] == ["uri", "flag"]
    assert "neither its options nor the caller give it" in str(caught.value)


def test_a_driver_without_an_options_class_takes_no_options(stocked: PluginManager) -> None:
    with pytest.raises(PluginOptionsError) as caught:
        stocked.build("store", {"use": "shelf", "size": 4}, where=WHERE)
    assert str(caught.value) == (
        "converge.toml [store] size: is not an option; this plugin takes no options "
        "(options of the store plugin 'shelf')"
    )


def test_from_options_is_called_instead_of_the_constructor(manager: PluginManager) -> None:
    class Driver:
        converge_options = BoxOptions

        def __init__(self, options: BoxOptions, agent_id: str) -> None:
            self.options, self.agent_id = options, agent_id

        @classmethod
        def from_options(cls, options: BoxOptions, *, agent_id: str) -> Self:
            return cls(options, agent_id)

    manager.override("store", "d", Driver)
    made = manager.build("store", {"use": "d", "path": "p"}, agent_id="a", other=1)
    assert isinstance(made, Driver)
    assert (made.options, made.agent_id) == (BoxOptions("p"), "a")
    with pytest.raises(PluginOptionsError, match="agent_id: is required by the plugin"):
        manager.build("store", {"use": "d", "path": "p"})


def test_an_object_is_returned_as_it_is_and_takes_no_options(manager: PluginManager) -> None:
    thing = object()
    manager.override("tool", "t", thing)
    assert manager.build("tool", "t", context=1) is thing
    with pytest.raises(PluginOptionsError, match="takes no options"):
        manager.build("tool", {"use": "t", "x": 1})


def test_a_tool_that_can_be_called_is_not_called(manager: PluginManager) -> None:
    class Hammer:
        def run(self, params: dict[str, object]) -> str:
            return "bang"

        def __call__(self) -> None:
            raise AssertionError("a tool is not a factory")

    hammer = Hammer()
    manager.override("tool", "object", hammer)
    manager.override("tool", "class", Hammer)
    assert manager.build("tool", "object") is hammer
    assert isinstance(manager.build("tool", "class"), Hammer)


def test_what_a_constructor_raises_passes_with_a_note(manager: PluginManager) -> None:
    class Busy:
        def __init__(self) -> None:
            raise OSError("the port is taken")

    manager.override("transport", "busy", Busy)
    with pytest.raises(OSError, match="the port is taken") as caught:
        manager.build("transport", "busy", where="converge.toml [transport]")
    assert caught.value.__notes__ == ["while building the transport plugin 'busy' (converge.toml [transport])"]


def test_a_constructor_that_does_not_take_its_own_options_is_broken(manager: PluginManager) -> None:
    class Driver:
        converge_options = BoxOptions

        def __init__(self, path: str) -> None:
            raise AssertionError

    manager.override("store", "d", Driver)
    with pytest.raises(PluginBroken, match="does not take its own options size"):
        manager.build("store", {"use": "d", "path": "p"})


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({}, 'use: is missing; name the store plugin, for example use = "NAME"'),
        ({"use": 5}, "use: is not a name"),
        ({"use": ""}, "use: is not a name"),
        (5, ": expected the name of a plugin or a table with `use`, got int"),
        (None, ": expected the name of a plugin or a table with `use`, got NoneType"),
    ],
)
def test_a_table_has_to_name_its_plugin(manager: PluginManager, table: object, text: str) -> None:
    with pytest.raises(PluginOptionsError) as caught:
        manager.build("store", table, where=WHERE)  # type: ignore[arg-type]  # the wrong type is the point
    assert text in str(caught.value)
    assert str(caught.value).startswith(WHERE)


def test_the_place_in_the_config_is_in_every_error(manager: PluginManager) -> None:
    with pytest.raises(PluginUnknown, match=r"^converge\.toml \[store\]: no store plugin is named 'memry'") as caught:
        manager.build("store", "memry", where=WHERE)
    assert caught.value.where == WHERE


def test_a_plugin_inside_options_is_built_from_its_name_its_table_or_its_default(stocked: PluginManager) -> None:
    assert stocked.build("store", "cache") == Cache(Shelf(), 10, None)
    assert stocked.build("store", {"use": "cache", "spare": "shelf"}) == Cache(Shelf(), 10, Shelf())
    table = {"use": "cache", "inner": {"use": "cache", "inner": {"use": "box", "path": "p"}}}
    assert stocked.build("store", table, agent_id="a") == Cache(Cache(Box("p", 3, "a"), 10, None), 10, None)


def test_an_object_made_in_code_stands_for_a_plugin_inside_options(stocked: PluginManager) -> None:
    shelf = Shelf(9)
    made = stocked.build("store", {"use": "cache", "inner": shelf})
    assert isinstance(made, Cache)
    assert made.inner is shelf


def test_problems_of_a_plugin_inside_options_are_named_with_the_whole_path(stocked: PluginManager) -> None:
    table = {"use": "cache", "limit": "x", "inner": {"use": "cache", "spare": {"use": "box", "path": 5, "siz": 1}}}
    with pytest.raises(PluginOptionsError) as caught:
        stocked.build("store", table, where=WHERE)
    assert [path for path, _ in caught.value.problems] == ["inner.spare.siz", "inner.spare.path", "limit"]
    with pytest.raises(PluginUnknown, match=r"^converge\.toml \[store\] inner\.inner: no store plugin is named 'sack'"):
        stocked.build("store", {"use": "cache", "inner": {"use": "cache", "inner": "sack"}}, where=WHERE)
    with pytest.raises(PluginOptionsError, match=r"^converge\.toml \[store\] inner\.use: is missing"):
        stocked.build("store", {"use": "cache", "inner": {}}, where=WHERE)


@frozen
class Part:
    store: object = plugin_field("store")


@frozen
class PartsOptions:
    parts: list[Part]


def test_plugins_in_a_list_of_nested_options_are_built_too(manager: PluginManager) -> None:
    class Driver:
        converge_options = PartsOptions

        def __init__(self, parts: list[Part]) -> None:
            self.parts = parts

    manager.override("store", "many", Driver)
    manager.override("store", "shelf", Shelf)
    made = manager.build("store", {"use": "many", "parts": [{"store": "shelf"}, {"store": {"use": "shelf"}}]})
    assert isinstance(made, Driver)
    assert made.parts == [Part(Shelf()), Part(Shelf())]
    with pytest.raises(PluginUnknown) as caught:
        manager.build("store", {"use": "many", "parts": [{"store": "shelf"}, {"store": "gone"}]})
    assert caught.value.where == "parts[1].store"


def test_what_a_nested_constructor_raises_keeps_its_type(stocked: PluginManager) -> None:
    class Busy:
        def __init__(self) -> None:
            raise OSError("busy")

    stocked.override("store", "busy", Busy)
    with pytest.raises(OSError, match="busy"):
        stocked.build("store", {"use": "cache", "inner": "busy"})


def test_a_plugin_field_of_an_unknown_kind_is_refused_when_it_is_declared() -> None:
    with pytest.raises(ValueError, match="'shop' is no plugin kind"):
        plugin_field("shop")


def test_metadata_of_a_plugin_field_are_kept() -> None:
    @frozen
    class Options:
        x: object = plugin_field("store", default=None, metadata={"help": "text"})

    assert Options.__attrs_attrs__[0].metadata["help"] == "text"


def test_options_can_be_checked_without_building_anything(manager: PluginManager) -> None:
    class Costly(Box):
        def __init__(self, path: str, size: int) -> None:
            raise AssertionError("it was built")

    manager.override("store", "costly", Costly)
    manager.override("store", "shelf", Shelf)
    assert manager.check_options("store", {"use": "costly", "path": "p"}) is Costly
    assert manager.check_options("store", "shelf") is Shelf
    for table, text in (
        ({"use": "costly"}, "path: is missing"),
        ({"use": "costly", "path": "p", "siez": 1}, "Did you mean 'size'?"),
        ({"use": "shelf", "size": 1}, "this plugin takes no options"),
    ):
        with pytest.raises(PluginOptionsError) as caught:
            manager.check_options("store", table, where=WHERE)
        assert text in str(caught.value)
        assert WHERE in str(caught.value)
    with pytest.raises(PluginUnknown):
        manager.check_options("store", "gone")


def test_the_plugins_in_options_are_not_built_for_a_check(stocked: PluginManager) -> None:
    assert stocked.check_options("store", {"use": "cache", "inner": "gone"}) is Cache


@frozen
class ChainOptions:
    links: list[object] = plugin_field("store")  # noqa: RUF009  # makes an attrs field


@define
class Chain:
    converge_options: ClassVar[type] = ChainOptions
    links: list[object]

    def to_options(self) -> dict[str, object]:
        return {"links": self.links}


def test_a_plugin_field_takes_a_list_of_names_tables_and_objects(stocked: PluginManager) -> None:
    stocked.override("store", "chain", Chain)
    made = stocked.build("store", {"use": "chain", "links": ["shelf", {"use": "box", "path": "p"}, Shelf(7)]})
    assert made == Chain([Shelf(), Box("p", 3), Shelf(7)])


def test_a_list_of_plugins_is_described_and_built_again(stocked: PluginManager) -> None:
    stocked.override("store", "chain", Chain)
    made = stocked.build("store", {"use": "chain", "links": ["memory", {"use": "box", "path": "p", "size": 5}]})
    table = stocked.describe(made)
    assert table is not None
    assert table["links"] == [{"use": "memory"}, {"use": "box", "path": "p", "size": 5}]
    again = stocked.build("store", table)
    assert isinstance(again, Chain)
    assert again.links[1] == Box("p", 5)
    assert stocked.describe(Chain([Shelf(), object()])) is None


def test_what_is_wrong_in_a_list_of_plugins_has_its_place(stocked: PluginManager) -> None:
    stocked.override("store", "chain", Chain)
    with pytest.raises(PluginOptionsError) as caught:
        stocked.build("store", {"use": "chain", "links": ["shelf", {"use": "box", "size": 5}]}, where="[store]")
    assert "links[1].path" in str(caught.value)
