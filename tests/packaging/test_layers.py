"""import-linter sees every module of every distribution, and a forbidden import anywhere is reported."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING, Any

import pytest

from tests.packaging.conftest import NAMES, ROOT, clean_environ, copy_distributions

if TYPE_CHECKING:
    from pathlib import Path

COPIES_ONLY = """
import os, sys
here = os.environ["SOURCES"].split(":")
sys.path[:] = [*here, *(path for path in sys.path if not os.path.isdir(os.path.join(path, "converge")))]
"""
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"
GRAPH = "import grimp; print(*grimp.build_graph(*sys.argv[1:], cache_dir=None).modules, sep='\\n')"
FORBIDDEN = [
    ("converge-core", "converge.core.plain", "converge.runtime.scheduler"),
    ("converge-core", "converge.plugins.kinds", "converge.observability.metrics"),
    ("converge-core", "converge.policy.safety", "converge.network.errors"),
    ("converge-core", "converge.network.transport.base", "converge.coordination.errors"),
    ("converge-core", "converge.extensions.storage.memory", "converge.policy.trust"),
    ("converge-core", "converge.runtime.inbox", "converge.testing.store.model"),
    ("converge-cli", "converge.cli.progress", "converge.testing.store.model"),
    ("converge-storage-sqlite", "converge.extensions.storage.sqlite.record", "converge.coordination.consensus"),
    ("converge-storage-sqlite", "converge.extensions.storage.sqlite.commits", "converge.extensions.storage.memory"),
    ("converge-websocket", "converge.network.transport.websocket.packets", "converge.policy.trust"),
    ("converge-llm", "converge.extensions.llm.judging", "converge.policy.safety"),
    ("converge-otel", "converge.extensions.otel.spans", "converge.runtime.loop"),
    ("converge-mcp", "converge.extensions.mcp.content", "converge.runtime.tools.calls"),
    ("converge-mcp", "converge.extensions.mcp.tools", "converge.extensions.storage.memory"),
]
"""Distribution, module, and what that module must not import."""
PLANTINGS = {
    "at the top": "import {}\n",
    "inside a function": "def _planted():\n    import {}\n",
    "for type checking": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import {}\n",
}


def settings() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return found


def run_on(copy: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `code` with the distributions of `copy` in the place of those that are installed."""
    paths = {"SOURCES": ":".join(str(copy / name / "src") for name in NAMES)}
    command = [sys.executable, "-c", COPIES_ONLY + code, *arguments]
    return subprocess.run(
        command, cwd=copy, env=clean_environ() | paths, capture_output=True, text=True, timeout=120, check=False
    )


def lint(copy: Path) -> str:
    """What `lint-imports` says about the distributions in `copy`."""
    done = run_on(copy, LINT, "--no-cache")
    assert "Contracts:" in done.stdout, done.stdout + done.stderr
    assert (done.returncode == 1) == ("BROKEN" in done.stdout)
    return done.stdout


def planted(folder: Path, statement: str) -> str:
    copy = copy_distributions(folder)
    shutil.copy(ROOT / "pyproject.toml", copy)
    for distribution, module, target in FORBIDDEN:
        path = copy / distribution / "src" / f"{module.replace('.', '/')}.py"
        path.write_text(f"{path.read_text()}\n{statement.format(target)}")
    return lint(copy)


def report_line(module: str, target: str) -> str:
    return f"- {module} -> {target} (l."


@pytest.mark.parametrize("way", ["at the top", "inside a function"])
def test_a_forbidden_import_is_reported_in_whatever_module_it_is(way: str, tmp_path: Path) -> None:
    said = planted(tmp_path, PLANTINGS[way])
    assert [case for case in FORBIDDEN if report_line(case[1], case[2]) not in said] == []
    assert "Contracts: 0 kept, 2 broken." in said


def test_an_import_for_type_checkers_only_may_go_up(tmp_path: Path) -> None:
    said = planted(tmp_path, PLANTINGS["for type checking"])
    assert [case for case in FORBIDDEN if report_line(case[1], case[2]) in said] == []


def test_the_linter_reads_every_module_of_every_distribution(tmp_path: Path) -> None:
    """A distribution that is not installed where the linter runs would be passed over in silence."""
    copy = copy_distributions(tmp_path)
    files = [path.relative_to(copy / name / "src") for name in NAMES for path in (copy / name).glob("src/**/*.py")]
    modules = {".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files}
    found = run_on(copy, GRAPH, *settings()["root_packages"]).stdout.split()
    assert modules - set(found) == set()


def test_every_part_of_the_namespace_has_a_layer() -> None:
    parts = {f"converge.{path.name}" for name in NAMES for path in (ROOT / name / "src/converge").iterdir()}
    parts -= {"converge.py.typed", "converge.__pycache__"}
    (layers,) = [contract["layers"] for contract in settings()["contracts"] if contract["type"] == "layers"]
    assert {part for layer in layers for part in layer.split(" | ")} == parts
    assert set(settings()["root_packages"]) == parts
    assert not any("ignore_imports" in contract for contract in settings()["contracts"])


def test_the_leaves_of_extensions_are_kept_apart() -> None:
    (apart,) = [contract["modules"] for contract in settings()["contracts"] if contract["type"] == "independence"]
    leaves = set()
    for name in NAMES:
        for level in ("converge/extensions", "converge/extensions/storage"):
            for path in (ROOT / name / "src" / level).glob("*"):
                if path.suffix == ".py" or (path / "__init__.py").exists():
                    leaves.add(f"{level.replace('/', '.')}.{path.stem}")
    assert leaves == set(apart)
