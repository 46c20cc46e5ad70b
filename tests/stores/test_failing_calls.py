"""Stores on disk when calls of the system fail: what raised has changed nothing, what returned is there."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.stores.harness import Sweep, run_or_skip, sweep
from tests.stores.kinds import KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from _pytest.mark.structures import ParameterSet

HISTORIES = str(Path(__file__).with_name("histories.py"))
MODES = ("once", "broken")
SYNCS = {"file": {("EIO", "sync")}, "sqlite-power": {("EIO", "sync")}, "sqlite-process": set()}
WRITES = {
    "file": {(error, "create") for error in ("ENOSPC", "EIO", "EROFS", "EMFILE")}
    | {("EIO", "rename"), ("EIO", "stat")},
    "sqlite-power": {("EIO", "read")},
    "sqlite-process": {("EIO", "read")},
}
DEFECTS = {
    ("writes", "file", "broken"): "when the sync of a folder fails and the disk stays broken, the undoing fails too",
    ("threads", "file", "broken"): "as above",
    ("histories", "file", "many"): "as above",
}
"""What no store of plain files can do, and the error says so in a note. An entry has to go when one can."""


def cases(test: str, kinds: Sequence[str] = KINDS, variants: Sequence[str] = MODES) -> list[ParameterSet]:
    """Each kind of store with each variant; those that cost much and differ little in the soak only."""
    found = []
    for kind, variant in product(kinds, variants):
        often = kind != "sqlite-process" or test == "writes" or variant == "few"
        marks = [] if often else [pytest.mark.soak]
        if defect := DEFECTS.get((test, kind, variant)):
            by_chance = variant == "many"
            marks.append(pytest.mark.xfail(reason=defect, raises=AssertionError, strict=not by_chance))
        found.append(pytest.param(kind, variant, marks=marks, id=f"{kind}-{variant}"))
    return found


def require_sound(found: Sweep) -> None:
    assert not found.wrong, f"{len(found.wrong)} of {found.faults}:\n" + "\n".join(found.wrong[:20])


@pytest.mark.parametrize(("kind", "modes"), cases("writes"))
def test_whichever_call_of_a_write_fails_it_is_done_or_raises_and_changed_nothing(kind: str, modes: str) -> None:
    found = sweep("writes", modes, kind)
    assert {("ENOSPC", "write"), ("EIO", "write")} | SYNCS[kind] | WRITES[kind] <= found.injected
    assert (("ENOLCK", "lock") in found.injected) is (modes == "once")
    assert found.faults > 100
    require_sound(found)


@pytest.mark.parametrize(("kind", "modes"), cases("threads"))
def test_of_threads_that_write_at_once_each_is_told_how_its_own_write_ended(kind: str, modes: str) -> None:
    found = sweep("threads", modes, kind)
    assert {("ENOSPC", "write"), ("EIO", "write")} | SYNCS[kind] <= found.injected
    require_sound(found)


@pytest.mark.parametrize(("kind", "modes"), cases("reads"))
def test_a_read_that_meets_a_failing_call_is_true_or_raises(kind: str, modes: str) -> None:
    found = sweep("reads", modes, kind)
    opens = {("EIO", "open"), ("EMFILE", "open")} if kind == "file" else set()
    assert {("EIO", "read")} | opens <= found.injected
    require_sound(found)


@pytest.mark.parametrize(("kind", "modes"), cases("openings"))
def test_an_opening_that_meets_a_failing_call_opens_or_raises_and_leaves_nothing(kind: str, modes: str) -> None:
    found = sweep("openings", modes, kind)
    expected = {("EIO", call) for call in ("create", "mkdir", "open", "read", "stat", "write")}
    expected |= {(error, call) for error in ("ENOSPC", "EROFS") for call in ("create", "mkdir")}
    assert expected | {("ENOSPC", "write"), ("EMFILE", "create")} | SYNCS[kind] <= found.injected
    require_sound(found)


@pytest.mark.parametrize(("kind", "modes"), cases("checks"))
def test_a_check_calls_nothing_damaged_that_it_could_not_read(kind: str, modes: str) -> None:
    found = sweep("checks", modes, kind)
    assert ("EIO", "read") in found.injected
    require_sound(found)


@pytest.mark.parametrize(
    ("kind", "what"), cases("kinds of errors", ["file", "sqlite-power"], ["writes", "reads", "openings"])
)
def test_a_failing_disk_is_an_oserror_and_is_not_called_damage(kind: str, what: str) -> None:
    raised = {name.split()[0] for modes in MODES for name in sweep(what, modes, kind).raised}
    assert raised == {"OSError" if kind == "file" else "StoreFileError"}


@pytest.mark.parametrize(
    ("what", "mistake", "name", "seen"),
    [
        ("writes", "SwallowsErrors", "put", "after it returned"),
        ("writes", "RemembersTooEarly", "put", "get and get_versioned differ"),
        ("writes", "PutsOneByOne", "put_many", "{'k': 'new…', 'other': 1, 'third': 'old…'}"),
        ("reads", "ReadsNothingForAnError", "get", "it returned None, not 'batch'"),
    ],
    ids=["swallows_errors", "remembers_too_early", "puts_one_by_one", "reads_nothing_for_an_error"],
)
def test_the_sweeps_catch_a_store_that(what: str, mistake: str, name: str, seen: str) -> None:
    wrong = sweep(what, "once", mistake, name).wrong
    assert any(seen in sentence for sentence in wrong), wrong


@pytest.mark.parametrize(("kind", "_"), cases("histories", variants=["few"]))
def test_random_histories_with_failing_calls_are_those_of_a_dict(kind: str, _: str, root: Path) -> None:
    outcome = run_or_skip([HISTORIES, kind, str(root), "60", "40"], root, 120.0)
    assert json.loads(outcome.out)["faults"] > 10


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("kind", "_"), cases("histories", variants=["many"]))
def test_many_random_histories_with_failing_calls_are_those_of_a_dict(kind: str, _: str, root: Path) -> None:
    outcome = run_or_skip([HISTORIES, kind, str(root), "500", "50", "explore"], root, 1500.0)
    assert json.loads(outcome.out)["faults"] > 500
    assert {error for error, _ in outcome.injected} >= {"EIO", "ENOSPC", "EROFS", "EMFILE", "ENOLCK"}


@pytest.mark.parametrize("mistake", ["SwallowsErrors", "RemembersTooEarly"])
def test_the_histories_catch_a_store_that(mistake: str, root: Path) -> None:
    with pytest.raises(AssertionError, match=r"state\.put"):
        run_or_skip([HISTORIES, mistake, str(root), "200", "50"], root, 120.0)
