"""The package on the page "Write a store" is built, installed, found by name, and passes its own tests."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from converge.testing.store import StoreContract
from tests.core.testing.page import Page, run

PAGE = Page("write-a-store")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the files of the page, installed into its folder `site`."""
    return PAGE.install(tmp_path_factory.mktemp("acme-shelf"))


def test_the_page_has_each_file_that_it_lists() -> None:
    assert set(PAGE.files) == PAGE.listed


def test_the_tests_on_the_page_pass_and_skip_what_is_declared(package: Path) -> None:
    said = run(package, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-p", "no:asyncio", "tests")
    reasons = set(re.findall(r"SKIPPED .*: (the .*)", said))
    declared = {"the store declares versioned = False", "the store declares shared = False"}
    assert reasons == {*declared, "the store gives no notices"}
    of_shared = run(
        package, "-m", "pytest", "-q", "-p", "no:asyncio", "--collect-only", "-k", "TestSharedShelf", "tests"
    )
    assert len(re.findall(r"::TestSharedShelf::", of_shared)) > 60


def test_the_stores_on_the_page_are_plugins(package: Path) -> None:
    listed = json.loads(run(package, "-m", "converge.cli", "plugins", "check", "--json"))
    found = {plugin["name"]: plugin["status"] for plugin in listed if plugin["distribution"] == "acme-shelf"}
    assert found == {"shelf": "ok", "shared-shelf": "ok"}
    code = """
from converge.plugins import default_manager
for name in ("shelf", "shared-shelf"):
    with default_manager().build("store", {"use": name, "path": name}) as store:
        store.put("k", [1])
    with default_manager().build("store", {"use": name, "path": name}) as store:
        print(type(store).__name__, store.get("k"))
"""
    assert run(package, "-c", code) == "Shelf [1]\nSharedShelf [1]\n"


def test_the_index_of_a_feed_is_as_shown() -> None:
    (block,) = re.findall(r"```python\n(from converge.core.feed.*?)```", PAGE.text, re.DOTALL)
    exec(compile(block, "docs/write-a-store.md", "exec", dont_inherit=True), {})


def test_a_damaged_file_is_an_error_that_names_it(package: Path) -> None:
    code = """
from pathlib import Path
from acme_shelf import SharedShelf, Shelf
from converge.core.errors import StoreError
for kind in (Shelf, SharedShelf):
    path = Path("damaged") / kind.__name__
    with kind(path) as store:
        store.put("k", "value")
        path.write_bytes(path.read_bytes().replace(b"value", b"walue"))
        if kind is SharedShelf:
            print(*store.check())
    try:
        kind(path)
    except StoreError as error:
        print(error)
"""
    said = run(package, "-c", code).splitlines()
    assert [line.split(": ")[0] for line in said] == ["damaged/Shelf", "damaged/SharedShelf", "damaged/SharedShelf"]
    assert all("checksum is wrong; restore" in line for line in said)


def test_every_declaration_and_every_name_of_a_test_on_the_page_exists() -> None:
    declared = set(re.findall(r"^\| `(\w+) = ", PAGE.text, re.MULTILINE)) | {"kills", "random_histories", "patience"}
    assert {name for name in declared if not hasattr(StoreContract, name)} == set()
    beginnings = re.findall(r"`(test_\w+)…`", PAGE.text)
    assert len(beginnings) > 10
    tests = [name for name in dir(StoreContract) if name.startswith("test_")]
    assert [begin for begin in beginnings if not any(name.startswith(begin) for name in tests)] == []
    for name, value in (("processes", 4), ("kills", 12), ("random_histories", 30), ("patience", 30.0)):
        assert f"`{name}` ({value})" in PAGE.text
        assert getattr(StoreContract, name) == value
