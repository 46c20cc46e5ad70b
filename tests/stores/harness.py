"""Running the workers of these tests, or skipping where the system has no such filters."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.stores.syscall_faults import Outcome, Unsupported, run

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ENVIRONMENT", "FOLDER", "Sweep", "run_or_skip", "sweep"]

ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
}
"""Where a worker finds the tests' modules."""
FOLDER = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
"""A file system in memory, where there is one: the stores are made and removed by the thousand."""
_SWEEPS = str(Path(__file__).with_name("sweeps.py"))
_TIMEOUT_SEC = 240.0


class Sweep(NamedTuple):
    """What a sweep found: how often which kind of call failed, the names of what was raised, what was wrong."""

    faults: int
    injected: frozenset[tuple[str, str]]
    raised: dict[str, int]
    wrong: list[str]


def run_or_skip(arguments: Sequence[str], root: Path, timeout_sec: float) -> Outcome:
    """What the worker said; an AssertionError when it failed."""
    try:
        outcome = run(arguments, root, timeout_sec, ENVIRONMENT)
    except Unsupported as refusal:
        pytest.skip(str(refusal))
    assert outcome.status == 0, outcome.err
    return outcome


@cache
def sweep(what: str, modes: str, kind: str, *names: str) -> Sweep:
    """The outcome of `sweeps.py`, run once for all tests that look at it."""
    with TemporaryDirectory(dir=FOLDER) as folder:
        outcome = run_or_skip([_SWEEPS, what, modes, kind, folder, *names], Path(folder), _TIMEOUT_SEC)
    found = json.loads(outcome.out)
    return Sweep(found["faults"], frozenset(outcome.injected), found["raised"], found["wrong"])
