from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from converge.plugins import PluginManager, PluginOptionsError, PluginUnknown

if TYPE_CHECKING:
    from tests.core.plugins.conftest import Site

GOOD = "class Store:\n    pass\n"


@pytest.mark.parametrize("entry", ["dummy-x", "Dummy_X", "dummy.x", "store:x", "store:x@DUMMY_x", " store:x "])
def test_a_disabled_plugin_is_not_imported_and_the_error_says_what_blocks_it(
    here: Site, manager: PluginManager, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    module = here.store("x", GOOD)
    monkeypatch.setenv("CONVERGE_DISABLE_PLUGINS", f"someone-else,,{entry}")
    with pytest.raises(PluginUnknown) as caught:
        manager.find("store", "x")
    assert caught.value.disabled == f"CONVERGE_DISABLE_PLUGINS ({entry.strip()})"
    assert str(caught.value) == (
        f"the store plugin 'x' (dummy-x) is disabled by CONVERGE_DISABLE_PLUGINS ({entry.strip()}); "
        "remove that entry to use it"
    )
    assert module not in sys.modules
    monkeypatch.delenv("CONVERGE_DISABLE_PLUGINS")
    assert manager.find("store", "x")


@pytest.mark.parametrize("entry", ["dummy-y", "store:y", "transport:x", "store:x@dummy-y"])
def test_an_entry_blocks_nobody_else(here: Site, manager: PluginManager, entry: str) -> None:
    here.store("x", GOOD)
    manager.disable([entry], source="converge.toml [plugins] disabled")
    assert manager.find("store", "x")


def test_a_list_in_the_config_is_named_as_the_source(here: Site, manager: PluginManager) -> None:
    here.store("x", GOOD)
    manager.disable(["store:x"], source="converge.toml [plugins] disabled")
    with pytest.raises(PluginUnknown, match=r"disabled by converge\.toml \[plugins\] disabled \(store:x\)"):
        manager.find("store", "x")
    (listed,) = [plugin for plugin in manager.list("store") if plugin.name == "x"]
    assert listed.disabled == "converge.toml [plugins] disabled (store:x)"


def test_disabling_one_of_two_settles_a_clash(here: Site, manager: PluginManager) -> None:
    here.store("memory", GOOD, distribution="dummy-thief")
    manager.disable(["store:memory@dummy-thief"], source="a test")
    assert repr(manager.find("store", "memory")).endswith("MemoryStore'>")


def test_a_disabled_name_is_not_offered_as_a_correction(here: Site, manager: PluginManager) -> None:
    here.store("cupboard", GOOD)
    manager.disable(["store:cupboard"], source="a test")
    with pytest.raises(PluginUnknown) as caught:
        manager.find("store", "cupbord")
    assert "cupboard" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("stores:x", "'stores' is no plugin kind"),
        ("store:", "is not DISTRIBUTION, KIND:NAME or KIND:NAME@DISTRIBUTION"),
        ("store:x@", "is not DISTRIBUTION"),
        ("no such thing", "is not DISTRIBUTION"),
        ("", "is not DISTRIBUTION"),
    ],
)
def test_a_malformed_entry_is_refused_rather_than_ignored(manager: PluginManager, entry: str, text: str) -> None:
    with pytest.raises(PluginOptionsError) as caught:
        manager.disable(["store:memory", entry], source="converge.toml [plugins] disabled")
    assert text in str(caught.value)
    assert str(caught.value).startswith("converge.toml [plugins] disabled: ")
    assert manager.find("store", "memory")  # all or nothing


def test_a_malformed_environment_is_refused_rather_than_ignored(
    manager: PluginManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVERGE_DISABLE_PLUGINS", "stor:memory")
    with pytest.raises(PluginOptionsError, match=r"CONVERGE_DISABLE_PLUGINS: 'stor:memory': .*Did you mean 'store'"):
        manager.find("store", "memory")


def test_entries_are_a_list_of_str(manager: PluginManager) -> None:
    with pytest.raises(TypeError, match="are a list of str"):
        manager.disable("store:memory", source="a test")
    with pytest.raises(PluginOptionsError, match="5 is not a str"):
        manager.disable([5], source="a test")  # type: ignore[list-item]  # the wrong type is the point
