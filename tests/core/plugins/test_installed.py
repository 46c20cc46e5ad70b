from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

import pytest

from converge.plugins import PluginInfo, PluginManager, PluginUnknown

if TYPE_CHECKING:
    from pathlib import Path

    from tests.core.plugins.conftest import Site

EXPLODING = "raise SystemExit('imported')\n"


def dummies(manager: PluginManager, kind: str | None = None) -> list[PluginInfo]:
    return [plugin for plugin in manager.list(kind) if plugin.distribution.startswith("dummy")]


def test_a_list_shows_every_plugin_and_imports_none(here: Site, manager: PluginManager) -> None:
    here.store("a", EXPLODING, version="1.2")
    here.install("dummy-tool", "[converge.tools]\nhammer = dummy_hammer:Hammer\n")
    assert dummies(manager) == [
        PluginInfo("store", "a", "dummy-a", "1.2", "dummy_a_a:Store"),
        PluginInfo("tool", "hammer", "dummy-tool", "1.0", "dummy_hammer:Hammer"),
    ]
    assert [plugin.name for plugin in dummies(manager, "tool")] == ["hammer"]
    assert "dummy_a_a" not in sys.modules


def test_a_list_names_who_clashes_with_whom(here: Site, manager: PluginManager) -> None:
    for distribution in ("dummy-1", "dummy-2", "dummy-3"):
        here.store("same", EXPLODING, distribution=distribution)
    assert [plugin.clash for plugin in dummies(manager)] == [
        ("dummy-2", "dummy-3"),
        ("dummy-1", "dummy-3"),
        ("dummy-1", "dummy-2"),
    ]
    manager.disable(["dummy-2", "dummy-3"], source="a test")
    assert [plugin.clash for plugin in dummies(manager)] == [(), (), ()]


def test_one_distribution_found_twice_on_the_path_is_no_clash(
    here: Site, tmp_path: Path, manager: PluginManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.store("one", "class Store:\n    pass\n", distribution="dummy-twice", version="2.0")
    stale = type(here)(tmp_path / "stale")
    stale.install("Dummy.Twice", "[converge.stores]\none = stale_module:Store\nghost = stale_module:Store\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(stale.folder)])
    assert [(plugin.name, plugin.version) for plugin in dummies(manager)] == [("one", "2.0")]
    assert manager.find("store", "one")
    with pytest.raises(PluginUnknown):
        manager.find("store", "ghost")


def test_damaged_metadata_cost_only_their_own_distribution(
    here: Site, manager: PluginManager, caplog: pytest.LogCaptureFixture
) -> None:
    here.store("fine", EXPLODING)
    (here.install("dummy-binary") / "entry_points.txt").write_bytes(b"[converge.stores]\n\xff\xfe = \x00\n")
    (here.install("dummy-line") / "entry_points.txt").write_text("[converge.stores]\nno equals sign\n")
    (here.install("dummy-nameless", "[converge.stores]\nx = y:z\n") / "METADATA").write_text("Metadata-Version: 2.1\n")
    (here.install("dummy-without", "[converge.stores]\nx = y:z\n") / "METADATA").unlink()
    assert [plugin.name for plugin in dummies(manager)] == ["fine"]
    assert "its plugins are left out" in caplog.text


def test_a_plugin_installed_while_the_process_runs_is_found_and_a_removed_one_is_not(
    here: Site, manager: PluginManager
) -> None:
    with pytest.raises(PluginUnknown):
        manager.find("store", "late")
    module = here.store("late", "class Store:\n    pass\n")
    assert repr(manager.find("store", "late")) == f"<class '{module}.Store'>"
    shutil.rmtree(here.folder / "dummy_late-1.0.dist-info")
    with pytest.raises(PluginUnknown):
        manager.find("store", "late")


def test_files_that_come_and_go_beside_the_metadata_do_not_hide_plugins(here: Site, manager: PluginManager) -> None:
    here.store("stays", EXPLODING)
    for number in range(3):
        (here.folder / f"data{number}.db").write_text("")
        assert [plugin.name for plugin in dummies(manager)] == ["stays"]


def test_entry_points_of_other_groups_are_not_ours(here: Site, manager: PluginManager) -> None:
    here.install("dummy-else", "[console_scripts]\nconverge.x = a:b\n[converge.unheard]\nx = a:b\n")
    assert dummies(manager) == []


def test_one_distribution_that_names_a_plugin_twice_is_told_to_repair_its_metadata(
    here: Site, manager: PluginManager
) -> None:
    here.install("dummy-double", "[converge.stores]\nx = a:B\nx = a:C\n")
    with pytest.raises(ValueError, match="its metadata must name each plugin once"):
        manager.find("store", "x")
