"""The command as a user calls it, in this process, and stores to call it on."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from attrs import frozen

from converge.cli.main import main
from tests.core.plugins.conftest import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Converge = Callable[..., "Done"]

SHELF = """
from pathlib import Path

from attrs import frozen

from converge.core.plain import pack, unpack
from converge.core.store import Store as Base, check_key


@frozen
class Options:
    path: Path = Path("shelf")
    extra: object = None


class Store(Base):
    converge_options = Options

    def __init__(self, path, extra):
        self.path, self.extra = path, extra
        path.mkdir(parents=True, exist_ok=True)

    def put(self, key, value):
        self._file(key).write_bytes(pack(value))

    def get(self, key):
        return unpack(self._file(key).read_bytes()) if self._file(key).exists() else None

    def delete(self, key):
        self._file(key).unlink(missing_ok=True)

    def list(self, prefix=""):
        keys = [bytes.fromhex(file.name).decode() for file in self.path.iterdir()]
        return sorted(key for key in keys if key.startswith(prefix))

    def _file(self, key):
        return self.path / check_key(key).encode().hex()
"""
"""What a third party has to write, and no more: a store in a folder, without versions."""


@frozen
class Done:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str
    raw: bytes


@pytest.fixture
def converge(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> Converge:
    """Calls the command in this process, in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONVERGE_DISABLE_PLUGINS", raising=False)

    def converge(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["converge", *arguments])
        capfdbinary.readouterr()
        try:
            main()
            code: object = 0
        except SystemExit as end:
            code = end.code or 0
        assert isinstance(code, int)
        out, err = capfdbinary.readouterr()
        return Done(code, out.decode(), err.decode(), out)

    return converge


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A folder of dummy distributions that this process and its children see; `shelf` is installed in it."""
    site = Site(tmp_path / "site")
    site.store("shelf", SHELF)
    monkeypatch.syspath_prepend(str(site.folder))
    monkeypatch.setenv("PYTHONPATH", str(site.folder), prepend=":")
    yield site
    for name, module in list(sys.modules.items()):
        if str(site.folder) in str(getattr(module, "__file__", None)):
            del sys.modules[name]
