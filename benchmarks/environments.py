"""Environments of other agent libraries, each made from the package index when it is first needed."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import venv
from contextlib import suppress
from pathlib import Path

__all__ = ["environment", "run_peer"]

ROOT = Path(__file__).parents[1]
ALSO_NEEDED = {"spade": ("greenlet",)}  # which it does not say


def environment(peer: str) -> Path | None:
    """The interpreter of an environment that has `peer`, made if it is not there; None when it cannot be made."""
    folder, packages = ROOT / ".bench" / peer, [peer, *ALSO_NEEDED.get(peer, ())]
    python, installed = folder / "bin" / "python", folder / "installed"
    if not installed.exists() or installed.read_text().split() != packages:
        venv.create(folder, with_pip=True, clear=True)
        done = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", *packages], capture_output=True, text=True, check=False
        )
        if done.returncode:
            return None
        installed.write_text(" ".join(packages))
    return python


def run_peer(python: Path, script: str, *arguments: str) -> float:
    """Microseconds an operation, as the peer's script prints in its last line. `ValueError` when it prints none."""
    command = [str(python), str(ROOT / "benchmarks" / "peers" / script), *arguments]
    with (
        tempfile.TemporaryDirectory(prefix="converge-peer-", ignore_cleanup_errors=True) as folder,  # some write files
        subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as process,
    ):
        try:
            printed, errors = process.communicate(timeout=120)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # some leave processes behind
    if not printed.strip():
        raise ValueError(f"it has printed nothing: {errors[-150:]}")
    return float(printed.splitlines()[-1])
