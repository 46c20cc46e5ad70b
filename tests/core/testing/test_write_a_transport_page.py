"""The package on the page "Write a transport" is built, installed, found by name, and passes its own tests."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from converge.testing.transport import TransportContract
from tests.core.testing.page import Page, run

if TYPE_CHECKING:
    from pathlib import Path

PAGE = Page("write-a-transport")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the files of the page, installed into its folder `site`."""
    return PAGE.install(tmp_path_factory.mktemp("acme-datagram"))


def test_the_page_has_each_file_that_it_lists() -> None:
    assert set(PAGE.files) == PAGE.listed


def test_the_tests_on_the_page_pass_and_skip_what_is_declared(package: Path) -> None:
    said = run(package, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-p", "no:asyncio", "tests")
    assert set(re.findall(r"SKIPPED .*: (the .*)", said)) == {"the transport declares delivery = 'at most once'"}
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None
    assert int(passed[1]) > 50


def test_the_transport_on_the_page_is_a_plugin_that_carries_a_run(package: Path) -> None:
    listed = json.loads(run(package, "-m", "converge.cli", "plugins", "check", "--json"))
    found = {plugin["name"]: plugin["status"] for plugin in listed if plugin["distribution"] == "acme-datagram"}
    assert found == {"datagram": "ok"}
    code = """
import asyncio, tempfile
from converge.core.identity import Identity
from converge.core.message import Message
from converge.plugins import default_manager

async def main(path):
    table = {"use": "datagram", "path": path}
    a, b = Identity.generate(), Identity.generate()
    build = default_manager().build
    async with build("transport", table, agent_id=a.fingerprint, identity=a) as one, \\
               build("transport", table, agent_id=b.fingerprint, identity=b) as other:
        await one.send(Message(recipient=b.fingerprint, payload={"text": "hello"}).sign(a))
        print(type(other).__name__, (await other.receive_verified(timeout=10)).payload["text"])

with tempfile.TemporaryDirectory(prefix="acme") as path:
    asyncio.run(main(path))
"""
    assert run(package, "-c", code) == "DatagramTransport hello\n"


def test_every_declaration_and_every_test_named_on_the_page_exists() -> None:
    declared = set(re.findall(r"^\| `(\w+) = ", PAGE.text, re.MULTILINE)) | {"padding_bytes", "lost"}
    assert {name for name in declared if not hasattr(TransportContract, name)} == set()
    assert {name for name in re.findall(r"`(test_\w+)`", PAGE.text) if not hasattr(TransportContract, name)} == set()
    for name, value in (("patience", 10.0), ("blocked_sec", 0.5)):
        assert f"`{name} = {value}`" in PAGE.text
        assert getattr(TransportContract, name) == value
    assert TransportContract.waiting_messages == 1100
