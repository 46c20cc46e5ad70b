"""What is in the wheels and sdists."""

from __future__ import annotations

import configparser
import tarfile
from collections import Counter
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pytest

from converge.plugins.kinds import GROUPS
from tests.packaging.conftest import NAMES

if TYPE_CHECKING:
    from tests.packaging.conftest import Built, Wheel

SHARED_LEVELS = (
    "converge",
    "converge/extensions",
    "converge/extensions/storage",
    "converge/network",
    "converge/network/transport",
)
DRIVERS = {
    "converge.stores": {"file", "memory", "sqlite"},
    "converge.transports": {"local"},
    "converge.executors": {"standard"},
    "converge.governance": {"bicameral", "democratic", "dictatorial", "empirical", "veto"},
    "converge.admission": {"open", "token", "whitelist"},
    "converge.trust": {"default"},
}
"""The names that the configuration of a user may hold; more may come."""


def entry_points(wheel: Wheel) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case; so the standard library says
    parser.read_string(wheel.metadata_file("entry_points.txt"))
    return {group: dict(parser[group]) for group in parser.sections()}


def top_packages(wheel: Wheel) -> set[str]:
    """The regular packages that lie directly at a shared level."""
    folders = {str(PurePosixPath(path).parent) for path in wheel.paths if path.endswith("/__init__.py")}
    return {folder for folder in folders if str(PurePosixPath(folder).parent) in SHARED_LEVELS}


@pytest.fixture(scope="module", params=NAMES)
def one(request: pytest.FixtureRequest, built: dict[str, Built]) -> Built:
    return built[request.param]


def test_every_distribution_of_the_workspace_is_tested(built: dict[str, Built]) -> None:
    assert set(built) >= {"converge-cli", "converge-core", "converge-storage-sqlite"}


def test_no_wheel_has_an_init_at_a_shared_level(one: Built) -> None:
    assert not one.wheel.paths & {f"{level}/__init__.py" for level in SHARED_LEVELS}


def test_every_folder_below_the_shared_levels_is_a_regular_package(one: Built) -> None:
    folders = {str(PurePosixPath(path).parent) for path in one.wheel.paths} - set(SHARED_LEVELS)
    assert {folder for folder in folders if f"{folder}/__init__.py" not in one.wheel.paths} == set()


def test_no_path_is_in_two_wheels(built: dict[str, Built]) -> None:
    counted = Counter(path for each in built.values() for path in each.wheel.paths)
    assert [path for path, count in counted.items() if count > 1] == []


def test_a_wheel_installs_below_converge_only(one: Built) -> None:
    assert {path.partition("/")[0] for path in one.wheel.paths} == {"converge"}


def test_a_wheel_carries_the_modules_of_its_tree_and_nothing_else(one: Built) -> None:
    tree = one.source / "src"
    modules = {str(path.relative_to(tree)) for path in tree.rglob("*.py")}
    markers = {str(path.relative_to(tree)) for path in tree.rglob("py.typed")}
    assert one.wheel.paths == modules | markers
    assert modules


def test_core_alone_marks_the_namespace_as_typed(built: dict[str, Built]) -> None:
    marking = {name for name, each in built.items() if "converge/py.typed" in each.wheel.paths}
    assert marking == {"converge-core"}


def test_type_checkers_find_a_marker_beside_every_module(one: Built) -> None:
    """pyright forgets a marker at a namespace level when it goes deeper, so `converge/py.typed` is not enough."""
    beside = {str(PurePosixPath(path).parent) for path in one.wheel.paths if path.endswith(".py")} & set(SHARED_LEVELS)
    wanted = top_packages(one.wheel) | beside
    assert wanted
    assert {folder for folder in wanted if f"{folder}/py.typed" not in one.wheel.paths} == set()


def test_an_extension_adds_packages_and_no_files_at_a_shared_level(built: dict[str, Built]) -> None:
    added = {path for name, each in built.items() if name != "converge-core" for path in each.wheel.paths}
    assert added
    assert {path for path in added if str(PurePosixPath(path).parent) in SHARED_LEVELS} == set()


def test_the_licence_is_in_the_wheel_and_in_the_sdist(one: Built) -> None:
    text = (one.source / "LICENSE").read_text()
    assert "Apache License" in text
    assert one.wheel.metadata_file("licenses/LICENSE") == text
    with tarfile.open(one.sdist) as archive:
        licence = archive.extractfile(f"{one.sdist.name.removesuffix('.tar.gz')}/LICENSE")
        assert licence is not None
        assert licence.read().decode() == text


def test_an_sdist_has_no_tests_no_caches_and_no_rubbish(one: Built) -> None:
    with tarfile.open(one.sdist) as archive:
        members = [PurePosixPath(member.name) for member in archive.getmembers() if member.isfile()]
    inside = {"/".join(member.parts[1:]) for member in members}
    assert {path for path in inside if not path.startswith("src/converge/")} == {
        *("LICENSE", "PKG-INFO", "README.md", "pyproject.toml", ".gitignore")
    } & inside
    assert {path for path in inside if "__pycache__" in path or path.endswith(".pyc") or "planted" in path} == set()


def test_the_wheel_built_from_the_sdist_equals_the_one_built_from_the_tree(one: Built) -> None:
    assert one.wheel_of_sdist.path.name == one.wheel.path.name
    assert one.wheel_of_sdist.files == one.wheel.files


def test_the_wheels_run_on_every_platform_and_say_which_python(one: Built) -> None:
    assert one.wheel.path.name.endswith("-py3-none-any.whl")
    assert "Requires-Python: >=3.11\n" in one.wheel.metadata_file("METADATA")


def test_every_documented_driver_has_an_entry_point(built: dict[str, Built]) -> None:
    found: dict[str, list[str]] = {}
    for each in built.values():
        for group, points in entry_points(each.wheel).items():
            found.setdefault(group, []).extend(points)
    assert [(group, name) for group, names in DRIVERS.items() for name in names - set(found.get(group, ()))] == []
    assert {group for group, names in found.items() if len(names) != len(set(names))} == set()
    assert set(found) <= {*GROUPS.values(), "console_scripts"}


def test_entry_points_lead_into_the_wheel_that_announces_them(one: Built) -> None:
    for group, points in entry_points(one.wheel).items():
        for name, target in points.items():
            place = target.partition(":")[0].replace(".", "/")
            assert {f"{place}.py", f"{place}/__init__.py"} & one.wheel.paths, f"{group}: {name} = {target}"


def test_only_the_cli_brings_a_command(built: dict[str, Built]) -> None:
    scripts = {name: entry_points(each.wheel).get("console_scripts") for name, each in built.items()}
    assert {name: found for name, found in scripts.items() if found} == {
        "converge-cli": {"converge": "converge.cli.main:main"}
    }
