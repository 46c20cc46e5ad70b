"""`__all__` of each public module is sorted and is exactly what the module defines for others."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

ROOT = Path(__file__).parents[2]

RE_EXPORTS = {
    "converge.coordination.task_manager": {"Claim"},  # what its `claim` returns
    "converge.core.wire": {"DEFAULT_FRAME_BYTES", "MAX_FRAME_BYTES"},  # the limits of the format belong to its names
    "converge.runtime.loop": {"Inbox"},  # the contract's place for it
    "converge.runtime.executor": {"DEFAULT_TOOL_TIMEOUT_SEC", "Refused"},  # where they were first
}
"""What a module offers besides its own, on purpose. Packages re-export what their modules make."""

NOT_OFFERED = {
    "converge.cli.commands.plugins": {"check_plugins", "list_plugins"},  # click commands, reached through their group
}
"""Names without an underscore that are not offered: constants that docstrings and tests of the module speak of."""


def modules() -> dict[str, Path]:
    """Every public module of every distribution, by import path."""
    found = {}
    for source in sorted(ROOT.glob("converge-*/src")):
        for file in sorted(source.rglob("*.py")):
            parts = list(file.relative_to(source).with_suffix("").parts)
            if parts[-1] == "__init__":
                parts.pop()
            if not any(part.startswith("_") for part in parts):
                found[".".join(parts)] = file
    return found


MODULES = modules()


@cache
def parsed(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text())


def assigned(statement: ast.stmt) -> list[str]:
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def declared(name: str) -> list[str] | None:
    """The names in `__all__`, in order; None when there is none."""
    for statement in parsed(name).body:
        if isinstance(statement, ast.Assign) and assigned(statement) == ["__all__"]:
            names: list[str] = ast.literal_eval(statement.value)
            return names
    return None


def defined(name: str) -> set[str]:
    """The public names that the module itself makes; variables of types are for its own annotations."""
    names: set[str] = set()
    for statement in parsed(name).body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(statement.name)
        names.update(assigned(statement))
    module = importlib.import_module(name)
    return {
        made
        for made in names
        if not made.startswith("_") and not isinstance(getattr(module, made, None), TypeVar | ParamSpec)
    }


def rank(name: str) -> tuple[int, list[tuple[bool, int, str]]]:
    """The order of ruff's rule RUF022: CONSTANTS, Classes, others; numbers inside names by their value."""
    kind = 0 if name.isupper() else 1 if name[:1].isupper() else 2
    pieces = re.findall(r"\d+|\D+", name)
    return kind, [(not piece.isdigit(), int(piece) if piece.isdigit() else 0, piece) for piece in pieces]


def test_the_modules_of_all_three_distributions_are_looked_at() -> None:
    assert {"converge.core.task", "converge.cli.main", "converge.extensions.storage.sqlite"} <= set(MODULES)
    assert len(MODULES) > 80


@pytest.mark.parametrize("name", MODULES)
def test_all_is_there_sorted_and_resolves(name: str) -> None:
    offered = declared(name)
    if offered is None:
        assert defined(name) == set(), f"{name} has no __all__"
        return
    assert len(set(offered)) == len(offered)
    assert offered == sorted(offered, key=rank)
    module = importlib.import_module(name)
    assert [made for made in offered if not hasattr(module, made)] == []


@pytest.mark.parametrize("name", [name for name in MODULES if declared(name) is not None])
def test_all_is_exactly_what_is_visible(name: str) -> None:
    offered, made = set(declared(name) or ()), defined(name)
    assert made - offered == NOT_OFFERED.get(name, set()) & made, "neither in __all__ nor underscored"
    if MODULES[name].name != "__init__.py":
        assert offered - made == RE_EXPORTS.get(name, set()), "in __all__ but made elsewhere"


def test_every_exception_names_a_module_that_is_there() -> None:
    assert {*RE_EXPORTS, *NOT_OFFERED} <= set(MODULES)


@pytest.mark.parametrize(
    ("names", "in_order"),
    [
        (["MAX", "Key", "check"], True),
        (["Key", "MAX"], False),
        (["check", "Key"], False),
        (["a2", "a10"], True),
        (["a10", "a2"], False),
        (["Store", "StoreError", "versioned"], True),
    ],
)
def test_the_order_is_the_linters(names: list[str], in_order: bool) -> None:
    assert (names == sorted(names, key=rank)) is in_order
