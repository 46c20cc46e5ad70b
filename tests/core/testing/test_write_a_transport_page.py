"""The package on the page "Write a transport" is built, installed, found by name, and passes its own tests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from converge.testing.transport import TransportContract

PAGE = (Path(__file__).parents[3] / "docs" / "write-a-transport.md").read_text()
FILES = dict(re.findall(r"`([\w./]+\.(?:py|toml))`[^`]*:\n\n```(?:python|toml)\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the files of the page, installed into its folder `site`."""
    folder = tmp_path_factory.mktemp("acme-datagram")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*pip, "--target", "site", "."], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def run(package: Path, *arguments: str) -> str:
    paths = os.pathsep.join([str(package / "site"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=package,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_has_each_file_that_it_lists() -> None:
    listed = {line.split("── ")[1] for line in PAGE.splitlines() if "── " in line}
    assert set(FILES) == listed


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
    declared = set(re.findall(r"^\| `(\w+) = ", PAGE, re.MULTILINE)) | {"padding_bytes", "lost"}
    assert {name for name in declared if not hasattr(TransportContract, name)} == set()
    assert {name for name in re.findall(r"`(test_\w+)`", PAGE) if not hasattr(TransportContract, name)} == set()
    for name, value in (("patience", 10.0), ("blocked_sec", 0.5)):
        assert f"`{name} = {value}`" in PAGE
        assert getattr(TransportContract, name) == value
    assert TransportContract.waiting_messages == 1100
