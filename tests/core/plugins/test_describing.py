from __future__ import annotations

import sys
from typing import TYPE_CHECKING, ClassVar

import pytest
from attrs import define, frozen

from converge.plugins import PluginManager, Secret, plugin_field

if TYPE_CHECKING:
    from tests.core.plugins.conftest import Site


@define
class Shelf:
    pass


@frozen
class CacheOptions:
    key: Secret
    inner: object = plugin_field("store")
    limit: int = 10


@define
class Cache:
    converge_options: ClassVar[type] = CacheOptions
    key: Secret
    inner: object
    limit: int

    def to_options(self) -> dict[str, object]:
        return {"key": self.key, "inner": self.inner, "limit": self.limit}


class Silent:
    converge_options = CacheOptions


@pytest.fixture
def stocked(manager: PluginManager) -> PluginManager:
    manager.override("store", "shelf", Shelf)
    manager.override("store", "cache", Cache)
    return manager


def test_what_is_described_builds_an_equal_object_again(
    stocked: PluginManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CACHE_KEY", "hunter2")
    made = stocked.build("store", {"use": "cache", "key": {"env": "CACHE_KEY"}, "inner": "shelf", "limit": 4})
    described = stocked.describe(made)
    assert described == {"use": "cache", "key": {"env": "CACHE_KEY"}, "inner": {"use": "shelf"}, "limit": 4}
    assert stocked.build("store", described) == made


def test_an_installed_driver_is_described_by_its_name_also_when_its_target_is_a_reexport(
    here: Site, manager: PluginManager
) -> None:
    here.install(
        "dummy-reexport",
        "[converge.stores]\nfront = front_mod:Store\n",
        {"front_mod": "from back_mod import Store\n", "back_mod": "class Store:\n    pass\n"},
    )
    made = manager.build("store", "front")
    assert type(made).__module__ == "back_mod"
    assert manager.describe(made) == {"use": "front"}


def test_describing_imports_nothing(here: Site, manager: PluginManager) -> None:
    module = here.store("asleep", "raise SystemExit")
    assert manager.describe(object()) is None
    assert module not in sys.modules


def test_an_object_driver_is_described_by_its_name(manager: PluginManager) -> None:
    thing = Shelf()
    manager.override("tool", "thing", thing)
    assert manager.describe(thing) == {"use": "thing"}
    assert manager.build("tool", {"use": "thing"}) is thing


def test_what_is_not_registered_or_cannot_say_its_options_is_not_described(stocked: PluginManager) -> None:
    class Unregistered:
        pass

    class Subclass(Shelf):
        pass

    stocked.override("store", "silent", Silent)
    assert stocked.describe(Unregistered()) is None
    assert stocked.describe(Subclass()) is None
    assert stocked.describe(Silent()) is None
    assert stocked.describe(Cache(Secret("made in code"), Shelf(), 1)) is None
    assert stocked.describe(Cache(Secret("x", "X"), Unregistered(), 1)) is None


def test_an_object_is_not_described_by_a_name_that_would_build_another(here: Site, manager: PluginManager) -> None:
    here.store("mine", "class Store:\n    pass\n")
    made = manager.build("store", "mine")
    with manager.override("store", "mine", Shelf):
        assert manager.describe(made) is None
        assert manager.describe(Shelf()) == {"use": "mine"}
    assert manager.describe(made) == {"use": "mine"}
    manager.disable(["store:mine"], source="a test")
    assert manager.describe(made) is None


def test_an_object_of_a_clashing_name_is_not_described(here: Site, manager: PluginManager) -> None:
    here.store("mine", "class Store:\n    pass\n")
    made = manager.build("store", "mine")
    here.store("mine", "class Store:\n    pass\n", distribution="dummy-other")
    assert manager.describe(made) is None


def test_the_kind_may_be_asked_for(manager: PluginManager) -> None:
    manager.override("store", "s", Shelf)
    manager.override("trust", "t", Shelf)
    assert manager.describe(Shelf(), "trust") == {"use": "t"}
    assert manager.describe(Shelf(), "store") == {"use": "s"}
    assert manager.describe(Shelf(), "tool") is None
