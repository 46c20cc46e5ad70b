from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from converge.plugins import (
    KINDS,
    PluginAmbiguous,
    PluginBroken,
    PluginError,
    PluginIncompatible,
    PluginManager,
    PluginUnknown,
    default_manager,
)
from converge.plugins.kinds import GROUPS

if TYPE_CHECKING:
    from tests.core.plugins.conftest import Site

GOOD = "class Store:\n    pass\n"


def test_asking_for_one_of_a_hundred_plugins_imports_exactly_that_one(site: Site) -> None:
    for number in range(100):
        site.store(f"s{number}", GOOD)
    done = site.python(
        """
        import json, sys
        from converge.plugins import default_manager
        driver = default_manager().find("store", "s42")
        print(json.dumps([driver.__module__, [name for name in sys.modules if name.startswith("dummy_")]]))
        """
    )
    assert json.loads(done.stdout) == ["dummy_s42_s42", ["dummy_s42_s42"]]


def test_broken_hanging_exiting_and_clashing_plugins_hurt_only_who_asks_for_them(site: Site) -> None:
    site.store("good", GOOD)
    site.store("raising", "raise ValueError('no')")
    site.store("exiting", "import sys; sys.exit(0)")
    site.store("killing", "import os; os._exit(7)")
    site.store("hanging", "import time; time.sleep(600)")
    site.store("twice", GOOD, distribution="dummy-one")
    site.store("twice", GOOD, distribution="dummy-two")
    site.store("future", "class Store:\n    converge_api = 99\n")
    (site.install("dummy-garbage") / "entry_points.txt").write_text("[converge.stores]\nthis is no entry point\n")
    done = site.python(
        """
        from converge.plugins import PluginError, default_manager
        manager = default_manager()
        print(manager.find("store", "good").__name__, manager.find("store", "memory").__name__)
        for name in ("raising", "exiting", "twice", "future"):
            try:
                manager.find("store", name)
            except PluginError as error:
                print(name, type(error).__name__)
        print(manager.find("store", "good").__name__)
        """
    )
    assert done.stdout.splitlines() == [
        "Store MemoryStore",
        "raising PluginBroken",
        "exiting PluginBroken",
        "twice PluginAmbiguous",
        "future PluginIncompatible",
        "Store",
    ]
    assert "dummy-garbage" in done.stderr  # its owner is named in the log


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_its_own_entry_point_group(here: Site, manager: PluginManager, kind: str) -> None:
    group = next(group for of_kind, group in GROUPS.items() if of_kind == kind)
    here.install(f"dummy-{kind}", f"[{group}]\nmine = mod_{kind}:Thing\n", {f"mod_{kind}": "class Thing:\n    pass\n"})
    assert repr(manager.find(kind, "mine")) == f"<class 'mod_{kind}.Thing'>"
    for other in KINDS:
        if other != kind:
            with pytest.raises(PluginUnknown):
                manager.find(other, "mine")


def test_the_groups_are_those_of_the_contract() -> None:
    assert dict(GROUPS) == {
        "transport": "converge.transports",
        "store": "converge.stores",
        "executor": "converge.executors",
        "governance": "converge.governance",
        "tool": "converge.tools",
        "llm_provider": "converge.llm_providers",
        "admission": "converge.admission",
        "trust": "converge.trust",
        "command": "converge.commands",
        "agent": "converge.agents",
        "hooks": "converge.hooks",
        "handlers": "converge.handlers",
    }


def test_a_driver_may_be_an_attribute_of_an_attribute_or_an_object(here: Site, manager: PluginManager) -> None:
    here.install(
        "dummy-deep",
        "[converge.tools]\nnested = deep_mod:Outer.Inner\nobject = deep_mod:thing [extra]\n",
        {"deep_mod": "class Outer:\n    class Inner:\n        pass\nthing = {'run': 1}\n"},
    )
    assert repr(manager.find("tool", "nested")) == "<class 'deep_mod.Outer.Inner'>"
    assert manager.find("tool", "object") == {"run": 1}


def test_an_unknown_name_lists_what_is_installed_and_the_closest_name(here: Site, manager: PluginManager) -> None:
    here.store("cupboard", GOOD)
    with pytest.raises(PluginUnknown) as caught:
        manager.find("store", "Cupbord")
    assert isinstance(caught.value, LookupError)
    assert (caught.value.kind, caught.value.name) == ("store", "Cupbord")
    assert {"cupboard", "memory"} <= set(caught.value.installed)
    text = str(caught.value)
    assert text.startswith("no store plugin is named 'Cupbord'; installed: ")
    assert "Did you mean 'cupboard'?" in text
    assert "converge plugins list" in text
    assert "pip" not in text


def test_a_pip_hint_is_never_made_from_the_name(manager: PluginManager) -> None:
    with pytest.raises(PluginUnknown) as caught:
        manager.find("llm_provider", "openal")
    assert "pip" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ValueError('the moon is wrong')", "ValueError: the moon is wrong"),
        ("raise SystemExit(3)", "its import asked the process to exit (SystemExit: 3)"),
        ("class Odd(BaseException): pass\nraise Odd", "Odd"),
        ("import no_such_module_anywhere", "the module 'no_such_module_anywhere' is not installed"),
        ("from json import no_such_name", "cannot import name 'no_such_name'"),
        ("class Other: pass", "has no attribute 'Store'"),
        ("def f(:", "SyntaxError"),
        ("Store = None", "its target is None"),
        ("def __getattr__(name): raise SystemExit", "SystemExit: None"),
        (
            "class Meta(type):\n    def __getattr__(cls, name): raise SystemExit(9)\nclass Store(metaclass=Meta): pass",
            "SystemExit: 9",
        ),
    ],
)
def test_whatever_an_import_raises_is_a_broken_plugin_with_a_reason(
    here: Site, manager: PluginManager, source: str, reason: str
) -> None:
    module = here.store("bad", source, distribution="dummy-bad", version="2.5")
    with pytest.raises(PluginBroken) as caught:
        manager.find("store", "bad")
    error = caught.value
    assert isinstance(error, RuntimeError)
    assert (error.distribution, error.version, error.target) == ("dummy-bad", "2.5", f"{module}:Store")
    assert reason in error.reason
    assert str(error).startswith(f"the store plugin 'bad' (dummy-bad 2.5, {module}:Store) cannot be loaded: ")
    assert str(error).endswith("reinstall or update dummy-bad, or run `converge plugins check --kind store`")
    sys.modules.pop(module, None)


def test_an_import_cycle_is_a_broken_plugin(here: Site, manager: PluginManager) -> None:
    here.install(
        "dummy-cycle",
        "[converge.stores]\ncycle = cycle_a:Store\n",
        {"cycle_a": "from cycle_b import x\nclass Store: pass\n", "cycle_b": "from cycle_a import Store\nx = 1\n"},
    )
    with pytest.raises(PluginBroken, match="partially initialized module"):
        manager.find("store", "cycle")


def test_the_user_can_interrupt_an_import(here: Site, manager: PluginManager) -> None:
    here.store("slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        manager.find("store", "slow")


@pytest.mark.parametrize("target", ["module_only", "not a target", ":Store", "module:", "a-b:Store"])
def test_a_malformed_target_is_a_broken_plugin(here: Site, manager: PluginManager, target: str) -> None:
    here.install("dummy-odd", f"[converge.stores]\nodd = {target}\n")
    with pytest.raises(PluginBroken, match="is not of the form module:attribute"):
        manager.find("store", "odd")


def test_a_broken_plugin_works_once_it_is_repaired(here: Site, manager: PluginManager) -> None:
    here.store("mended", "import repaired_dependency\nclass Store:\n    pass\n")
    with pytest.raises(PluginBroken):
        manager.find("store", "mended")
    here.install("repaired", modules={"repaired_dependency": ""})
    assert manager.find("store", "mended")


def test_two_distributions_with_one_name_are_named_both_with_the_way_out(here: Site, manager: PluginManager) -> None:
    here.store("shelf", GOOD, distribution="dummy-one")
    here.store("shelf", GOOD, distribution="dummy-two", version="3.0")
    with pytest.raises(PluginAmbiguous) as caught:
        manager.find("store", "shelf")
    assert isinstance(caught.value, ValueError)
    assert caught.value.candidates == (
        ("dummy-one", "1.0", "dummy_one_shelf:Store"),
        ("dummy-two", "3.0", "dummy_two_shelf:Store"),
    )
    text = str(caught.value)
    assert "dummy-one 1.0 (dummy_one_shelf:Store) and dummy-two 3.0 (dummy_two_shelf:Store)" in text
    assert "CONVERGE_DISABLE_PLUGINS=store:shelf@dummy-one" in text
    assert 'disabled = ["store:shelf@dummy-one"]' in text
    assert not {"dummy_one_shelf", "dummy_two_shelf"} & set(sys.modules)


def test_nobody_shadows_a_plugin_of_core(here: Site, manager: PluginManager) -> None:
    here.store("memory", GOOD, distribution="dummy-thief")
    with pytest.raises(PluginAmbiguous, match=r"converge-core .* and dummy-thief"):
        manager.find("store", "memory")


@pytest.mark.parametrize("api", ["2", "0", "'1'", "True", "1.0"])
def test_a_driver_for_another_plugin_api_is_incompatible(here: Site, manager: PluginManager, api: str) -> None:
    here.store("other", f"class Store:\n    converge_api = {api}\n")
    with pytest.raises(PluginIncompatible) as caught:
        manager.find("store", "other")
    assert (caught.value.found, caught.value.expected, caught.value.distribution) == (api, 1, "dummy-other")
    assert f"was written for plugin API {api}, and this converge-core has plugin API 1" in str(caught.value)
    assert str(caught.value).endswith("update converge-core" if api == "2" else "update dummy-other")


def test_a_driver_for_this_plugin_api_is_found(here: Site, manager: PluginManager) -> None:
    here.store("mine", "class Store:\n    converge_api = 1\n")
    assert manager.find("store", "mine")


def test_a_kind_that_does_not_exist_is_a_value_error_with_a_hint(manager: PluginManager) -> None:
    with pytest.raises(ValueError, match=r"'stores' is no plugin kind; the kinds are transport, .*'store'\?"):
        manager.find("stores", "memory")
    with pytest.raises(TypeError, match="the name of a plugin is a str, not int"):
        manager.find("store", 5)  # type: ignore[arg-type]  # the wrong type is the point


def test_the_plugins_of_core_are_found_like_everybody_elses(manager: PluginManager) -> None:
    assert repr(manager.find("store", "memory")).endswith("MemoryStore'>")
    core = [plugin for plugin in manager.list() if plugin.distribution == "converge-core"]
    assert {("transport", "local"), ("store", "memory"), ("executor", "standard")} <= {(p.kind, p.name) for p in core}


def test_there_is_one_default_manager_in_a_process() -> None:
    assert default_manager() is default_manager()


def test_a_plugin_error_is_caught_by_its_base(manager: PluginManager) -> None:
    with pytest.raises(PluginError):
        manager.find("store", "nowhere")
