"""Dummy distributions as an installer would leave them: a folder with `*.dist-info` and the modules beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from converge.plugins import PluginManager

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


OURS = sorted({plugin.distribution for plugin in PluginManager().list()})
"""The distributions installed beside those of the tests."""


class Site:
    """A folder on `sys.path` into which dummy distributions are installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def install(
        self,
        distribution: str,
        entry_points: str = "",
        modules: Mapping[str, str] | None = None,
        version: str = "1.0",
    ) -> Path:
        """Write the distribution; `entry_points` is the text of its file."""
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(textwrap.dedent(entry_points))
        for module, source in (modules or {}).items():
            (self.folder / f"{module}.py").write_text(textwrap.dedent(source))
        return info

    def store(self, name: str, source: str, distribution: str | None = None, version: str = "1.0") -> str:
        """Install a distribution with one store plugin `name`, whose class is `Store` of a module of its own."""
        distribution = distribution or f"dummy-{name}"
        module = f"{distribution.replace('-', '_')}_{name}"
        self.install(distribution, f"[converge.stores]\n{name} = {module}:Store\n", {module: source}, version)
        return module

    def python(self, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `code` in a fresh interpreter that sees this folder; it has to end well."""
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=os.environ | {"PYTHONPATH": str(self.folder)} | environment,
        )
        assert done.returncode == 0, done.stderr
        return done


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A folder that only subprocesses see."""
    return Site(tmp_path / "site")


@pytest.fixture
def here(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The same folder, seen by this process, too; what was imported from it is forgotten afterwards."""
    monkeypatch.syspath_prepend(str(site.folder))
    yield site
    for name, module in list(sys.modules.items()):
        if str(site.folder) in str(getattr(module, "__file__", None)):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def _nothing_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONVERGE_DISABLE_PLUGINS", raising=False)


@pytest.fixture
def manager() -> PluginManager:
    """A manager of its own for each test."""
    return PluginManager()
