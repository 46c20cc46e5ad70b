"""The injector: it fails what it shall, and nothing else, and never keeps a process waiting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.stores.harness import ENVIRONMENT, run_or_skip

PROBE = str(Path(__file__).with_name("probe.py"))


def test_the_nth_call_fails_or_all_from_it_on_or_the_disk_fills_up_with_it(root: Path) -> None:
    outcome = run_or_skip([PROBE, "outcomes", str(root)], root, 30.0)
    assert json.loads(outcome.out) == [
        *[2, "ENOSPC", 2, 3, 1, "write(/file)"],
        *[2, "ENOSPC", "ENOSPC"],
        *[5, 2, "ENOSPC"],
        *[1, "12" + "12" + "12" + "12345" + "12" + "!"],
    ]
    assert outcome.injected == {("ENOSPC", "write"): 5}


def test_only_calls_that_touch_the_folder_fail_in_whatever_thread_and_by_whatever_path(root: Path) -> None:
    outcome = run_or_skip([PROBE, "elsewhere", str(root)], root, 30.0)
    assert json.loads(outcome.out) == [None, 0, "EIO", "EIO", 2]


def test_a_process_that_takes_too_long_is_ended(root: Path) -> None:
    with pytest.raises(TimeoutError, match="still running after"):
        run_or_skip([PROBE, "sleep", str(root)], root, 1.0)
    assert not _processes_with(str(root))


def test_a_process_dies_with_its_supervisor(root: Path) -> None:
    run_or_skip([PROBE, "outcomes", str(root)], root, 30.0)  # skips where there is no filter
    supervisor = subprocess.Popen([sys.executable, PROBE, "supervise", str(root)], env=os.environ | ENVIRONMENT)
    deadline = time.monotonic() + 30
    try:
        while not (root / "waits").exists():
            assert time.monotonic() < deadline, "the process has not started"
            time.sleep(0.02)
        assert len(_processes_with(str(root))) == 2
    finally:
        supervisor.kill()
        supervisor.wait()
    while _processes_with(str(root)):
        assert time.monotonic() < deadline, "the process outlives its supervisor"
        time.sleep(0.02)


def _processes_with(argument: str) -> list[str]:
    """The processes with that in their command line; a dead one has none."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if argument in place.read_text(errors="replace"):
                found.append(place.parent.name)
    return found
