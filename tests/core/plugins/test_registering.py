from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from converge.plugins import PluginIncompatible, PluginManager, PluginUnknown, hookimpl

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.core.plugins.conftest import Site


class Mine:
    pass


class Answering:
    @hookimpl
    def converge_find_store(self, name: str) -> object | None:
        return Mine if name in ("memory", "mine") else None


class Raising:
    @hookimpl
    def converge_find_store(self, name: str) -> object | None:
        raise SystemExit(name)


def name_of(driver: object) -> str:
    assert isinstance(driver, type)
    return driver.__name__


def test_a_registered_object_answers_first_and_until_it_is_unregistered(manager: PluginManager) -> None:
    plugin = Answering()
    assert manager.register(plugin, "mine") == "mine"
    assert manager.find("store", "memory") is Mine
    assert manager.find("store", "mine") is Mine
    manager.unregister(plugin)
    assert name_of(manager.find("store", "memory")) == "MemoryStore"
    with pytest.raises(PluginUnknown):
        manager.find("store", "mine")


def test_a_registered_object_that_raises_is_passed_over_logged_and_counted(
    manager: PluginManager, caplog: pytest.LogCaptureFixture
) -> None:
    manager.register(Raising(), "raising")
    with caplog.at_level(logging.WARNING):
        assert name_of(manager.find("store", "memory")) == "MemoryStore"
    assert manager.failures == {"raising": 1}
    assert "converge_find_store of the registered plugin object 'raising' failed" in caplog.text
    assert "SystemExit" in caplog.text
    assert name_of(manager.find("transport", "local")) == "LocalTransport"
    assert manager.failures == {"raising": 1}


def test_a_registered_object_may_answer_after_the_entry_points(manager: PluginManager) -> None:
    class Fallback:
        @hookimpl(trylast=True)
        def converge_find_store(self, name: str) -> object | None:
            return Mine

    manager.register(Fallback())
    assert name_of(manager.find("store", "memory")) == "MemoryStore"
    assert manager.find("store", "anything") is Mine


def test_one_that_raises_does_not_block_another_registered_object(manager: PluginManager) -> None:
    manager.register(Answering())
    manager.register(Raising())
    assert manager.find("store", "mine") is Mine


def test_an_interrupt_of_the_user_passes(manager: PluginManager) -> None:
    class Interrupted:
        @hookimpl
        def converge_find_store(self) -> object | None:
            raise KeyboardInterrupt

    manager.register(Interrupted())
    with pytest.raises(KeyboardInterrupt):
        manager.find("store", "memory")


def test_a_wrapper_can_replace_the_answer_of_an_entry_point(manager: PluginManager) -> None:
    class Wrapping:
        @hookimpl(wrapper=True)
        def converge_find_store(self, name: str) -> Generator[None, object, object]:
            found = yield
            return (name, found)

    manager.register(Wrapping())
    assert isinstance(found := manager.find("store", "memory"), tuple)
    assert name_of(found[1]) == "MemoryStore"


@pytest.mark.parametrize("moment", ["before", "after", "never", "twice"])
def test_a_wrapper_that_fails_is_as_if_it_were_not_there(manager: PluginManager, moment: str) -> None:
    class Wrapping:
        @hookimpl(wrapper=True)
        def converge_find_store(self) -> Generator[None, object, object]:
            if moment == "never":
                return None
            if moment == "before":
                raise ValueError(moment)
            found = yield
            if moment == "twice":
                yield
            if moment == "after":
                raise ValueError(moment)
            return found

    manager.register(Wrapping(), "wrapping")
    assert name_of(manager.find("store", "memory")) == "MemoryStore"
    assert manager.failures == {"wrapping": 1}


def test_the_error_of_a_broken_plugin_passes_through_a_wrapper_unless_it_answers_instead(
    here: Site, manager: PluginManager
) -> None:
    here.store("bad", "raise ValueError('broken')")
    wanted: list[object] = []

    class Wrapping:
        @hookimpl(wrapper=True)
        def converge_find_store(self) -> Generator[None, object, object]:
            try:
                found = yield
            except RuntimeError:
                if not wanted:
                    raise
                return wanted[0]
            return found

    manager.register(Wrapping(), "wrapping")
    with pytest.raises(RuntimeError, match="broken"):
        manager.find("store", "bad")
    assert manager.failures == {}
    wanted.append(Mine)
    assert manager.find("store", "bad") is Mine


def test_an_override_holds_inside_its_block_and_not_after(manager: PluginManager) -> None:
    with manager.override("store", "memory", Mine):
        assert manager.find("store", "memory") is Mine
        with manager.override("store", "memory", "inner"):
            assert manager.find("store", "memory") == "inner"
        assert manager.find("store", "memory") is Mine
    assert name_of(manager.find("store", "memory")) == "MemoryStore"


def test_an_override_needs_no_block_and_may_be_closed_twice(manager: PluginManager) -> None:
    override = manager.override("trust", "new", Mine)
    assert manager.find("trust", "new") is Mine
    with pytest.raises(PluginUnknown, match=r"installed: default, new\."):
        manager.find("trust", "newer")
    override.close()
    override.close()
    with pytest.raises(PluginUnknown):
        manager.find("trust", "new")


def test_an_override_hides_a_disabled_a_broken_and_a_clashing_plugin(here: Site, manager: PluginManager) -> None:
    here.store("x", "raise ValueError")
    here.store("x", "raise ValueError", distribution="dummy-other")
    with manager.override("store", "x", Mine):
        assert manager.find("store", "x") is Mine
        manager.disable(["store:x"], source="a test")
        assert manager.find("store", "x") is Mine


def test_the_plugin_api_of_an_override_is_checked_too(manager: PluginManager) -> None:
    class Old:
        converge_api = 0

    with manager.override("store", "old", Old), pytest.raises(PluginIncompatible, match="update the plugin"):
        manager.find("store", "old")


def test_what_does_not_fit_the_hooks_is_refused_when_it_is_registered(manager: PluginManager) -> None:
    class Misspelt:
        @hookimpl
        def converge_find_stor(self, name: str) -> None: ...

    class Surplus:
        @hookimpl
        def converge_find_store(self, name: str, colour: str) -> None: ...

    class OldStyle:
        @hookimpl(hookwrapper=True)
        def converge_find_store(self, name: str) -> Generator[None, object, None]:
            yield

    class Nothing:
        pass

    with pytest.raises(TypeError, match=r"'converge_find_stor' is no hook\. Did you mean 'converge_find_store'\?"):
        manager.register(Misspelt())
    with pytest.raises(TypeError, match="does not fit the hooks"):
        manager.register(Surplus())
    with pytest.raises(TypeError, match=r"mark it with hookimpl\(wrapper=True\)"):
        manager.register(OldStyle())
    with pytest.raises(TypeError, match="implements no hook"):
        manager.register(Nothing())
    with pytest.raises(TypeError, match="cannot be None"):
        manager.override("store", "x", None)


def test_registering_and_unregistering_twice_are_errors(manager: PluginManager) -> None:
    plugin = Answering()
    manager.register(plugin, "a")
    with pytest.raises(ValueError, match="is registered already"):
        manager.register(plugin, "b")
    with pytest.raises(ValueError, match="a plugin object is registered as 'a' already"):
        manager.register(Answering(), "a")
    manager.unregister(plugin)
    with pytest.raises(ValueError, match="is not registered"):
        manager.unregister(plugin)
