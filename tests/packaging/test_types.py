"""mypy (strict) and pyright (strict) see the types of installed and of editable copies.

The user program says with `assert_type` what each expression is: one that a checker sees as Any or Unknown is an error.
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.packaging.conftest import NAMES, clean_environ, copy_distributions

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.packaging.conftest import Environment, Environments, Mode

    Checker = Callable[[Environment, Path], list[str]]

CORE, SQLITE = "converge-core", "converge-storage-sqlite"
WHEEL: Mode = "wheel"
EDITABLE: Mode = "editable"
WAYS: dict[str, dict[str, Mode]] = {
    "wheels": dict.fromkeys(NAMES, WHEEL),
    "editable": dict.fromkeys(NAMES, EDITABLE),
    "only core editable": dict.fromkeys(NAMES, WHEEL) | {CORE: EDITABLE},
    "only core a wheel": dict.fromkeys(NAMES, EDITABLE) | {CORE: WHEEL},
}
PROGRAM = Path(__file__).with_name("user_program.py")


def mypy(environment: Environment, folder: Path) -> list[str]:
    """The errors of `mypy --strict`."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary", "--no-pretty"]
    command += ["--python-executable", str(environment.python), "--cache-dir", str(folder / "cache"), PROGRAM.name]
    shutil.copy(PROGRAM, folder)
    done = subprocess.run(command, cwd=folder, env=clean_environ(), capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert (done.returncode == 0) == (done.stdout == ""), done.stdout
    return done.stdout.splitlines()


def pyright(environment: Environment, folder: Path) -> list[str]:
    """The errors of pyright in strict mode; a skip with the reason where pyright cannot be run."""
    (folder / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict", "include": [PROGRAM.name]}))
    shutil.copy(PROGRAM, folder)
    reason = _why_pyright_cannot_run()
    if reason:
        pytest.skip(f"pyright cannot be run here: {reason}")
    done = _run_pyright("--outputjson", "--pythonpath", str(environment.python), "-p", str(folder))
    answer = json.loads(done.stdout)
    assert answer["summary"]["filesAnalyzed"] == 1, done.stdout
    found = answer["generalDiagnostics"]
    return [f"{each['message']} [{each.get('rule')}]" for each in found if each["severity"] == "error"]


def _run_pyright(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = clean_environ() | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    command = [sys.executable, "-m", "pyright", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=240)


@functools.cache
def _why_pyright_cannot_run() -> str:
    """Empty when it can; its first run fetches its npm package."""
    try:
        done = _run_pyright("--version")
    except subprocess.TimeoutExpired as error:
        return str(error)
    return "" if done.returncode == 0 else (done.stderr + done.stdout).strip()[-500:] or "it fails without a word"


@pytest.fixture(params=[mypy, pyright], ids=["mypy", "pyright"])
def checker(request: pytest.FixtureRequest) -> Checker:
    chosen: Checker = request.param
    return chosen


@pytest.mark.parametrize("way", list(WAYS))
def test_a_user_program_has_real_types_and_no_errors(
    way: str, checker: Checker, environments: Environments, tmp_path: Path
) -> None:
    assert checker(environments.get(WAYS[way]), tmp_path) == []


def test_without_typing_markers_in_wheels_the_checkers_complain(
    checker: Checker, unmarked_wheels: Environment, tmp_path: Path
) -> None:
    assert any("converge.core.message" in error for error in checker(unmarked_wheels, tmp_path))


def test_an_editable_leaf_without_its_own_marker_makes_the_checkers_complain(
    checker: Checker, unmarked_editable_leaf: Environment, tmp_path: Path
) -> None:
    errors = checker(unmarked_editable_leaf, tmp_path)
    assert any("converge.extensions.storage.sqlite" in error for error in errors)
    assert not any("converge.core" in error for error in errors)


@pytest.fixture(scope="module")
def unmarked_wheels(environments: Environments) -> Environment:
    environment = environments.new("unmarked wheels", WAYS["wheels"])
    _unmark(environment.site_packages / "converge")
    return environment


@pytest.fixture(scope="module")
def unmarked_editable_leaf(environments: Environments, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    sources = copy_distributions(tmp_path_factory.mktemp("unmarked"))
    _unmark(sources / SQLITE)
    return environments.new("unmarked editable", WAYS["editable"], sources=sources)


def _unmark(folder: Path) -> None:
    markers = list(folder.rglob("py.typed"))
    assert markers
    for marker in markers:
        marker.unlink()
