from __future__ import annotations

import json
from typing import TYPE_CHECKING

import converge.plugins

if TYPE_CHECKING:
    from tests.core.plugins.conftest import Site

HEAVY = (
    "asyncio",
    "cattrs",
    "click",
    "hmac",
    "importlib.metadata",
    "importlib_metadata",
    "pluggy",
    "rich",
    "subprocess",
)


def loaded(site: Site, code: str) -> list[str]:
    done = site.python(
        f"import attrs, json, sys\nbefore = set(sys.modules)\n{code}\n"
        f"print(json.dumps([name for name in {HEAVY} if name in sys.modules and name not in before]))"
    )
    found: list[str] = json.loads(done.stdout)
    return found


def test_importing_the_package_loads_nothing_heavy(site: Site) -> None:
    assert loaded(site, "import converge.plugins") == []


def test_finding_a_plugin_does_not_load_cattrs(site: Site) -> None:
    site.store("good", "class Store:\n    pass\n")
    code = "from converge.plugins import default_manager\ndefault_manager().build('store', 'good')"
    assert "cattrs" not in loaded(site, code)
    assert "pluggy" in loaded(site, code)


def test_listing_needs_metadata_only(site: Site) -> None:
    code = "from converge.plugins import default_manager\ndefault_manager().list()"
    assert not {"cattrs", "pluggy"} & set(loaded(site, code))


def test_what_the_package_exports_can_be_had() -> None:
    assert sorted(converge.plugins.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name)) == (
        converge.plugins.__all__
    )
    for name in converge.plugins.__all__:
        assert getattr(converge.plugins, name) is not None
    assert not hasattr(converge.plugins, "nothing_like_this")


def test_every_hook_and_its_argument_is_documented() -> None:
    from converge.plugins.kinds import KINDS
    from converge.plugins.specs import DriverSpecs

    for kind in KINDS:
        assert "`name`" in (getattr(DriverSpecs, f"converge_find_{kind}").__doc__ or "")
