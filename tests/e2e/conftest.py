"""Runs of the real command on copies of the audit example."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from converge.coordination.task_manager import TaskManager
from converge.coordination.task_record import TaskRecord
from converge.extensions.storage.sqlite import SQLiteStore

EXAMPLE = Path(__file__).parents[2] / "examples" / "audit"
DEADLINE_SEC = 90.0
FUNCTION = """
def function_{n}(values, limit={n}):
    total = 0
    for value in values:
        if value > limit and value % {n} == 0:
            total += value
        elif value < 0 or value is None:
            total -= 1
    return [item for item in range(total) if item]
"""


def children_of(pid: int) -> list[int]:
    with suppress(FileNotFoundError, ProcessLookupError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition: Callable[[], bool], what: str, seconds: float = DEADLINE_SEC) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds} s for {what}")
        time.sleep(0.002)


class Audit:
    """The audit example in a folder of its own, with a corpus of its own, and the processes that run it."""

    def __init__(self, folder: Path, files: int, functions: int) -> None:
        self.folder, self.files = folder, files
        self.out = folder / "out"
        self.corpus = folder / "corpus"
        shutil.copytree(EXAMPLE, folder / "audit", ignore=shutil.ignore_patterns(".converge", "__pycache__"))
        self.config = folder / "audit" / "converge.toml"
        self.database = folder / "audit" / ".converge" / "audit.db"
        for number in range(files):
            source = self.corpus / f"package_{number % 7}" / f"module_{number:03}.py"
            source.parent.mkdir(parents=True, exist_ok=True)
            source.write_text("".join(FUNCTION.format(n=n + number + 1) for n in range(functions)))
        (self.corpus / "package_0" / "module_000.py").write_text("def broken(:\n")
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, *options: str, processes: int = 2) -> subprocess.Popen[str]:
        settings = [f"audit.path={self.corpus}", f"audit.report={self.out}", f"run.processes={processes}"]
        arguments = [word for setting in settings for word in ("--set", setting)]
        return self.start_command("run", str(self.config), *arguments, *options)

    def start_command(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "converge.cli", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.folder, start_new_session=True,
        )  # fmt: skip
        self._processes.append(process)
        return process

    @staticmethod
    def limit_files(process: subprocess.Popen[str], largest: int) -> None:
        """Let the run write no file beyond that many bytes, as on a disk that is full; -1 ends that."""
        for pid in children_of(process.pid):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (largest, -1))

    def finish(self, process: subprocess.Popen[str], code: int = 0) -> str:
        out, err = process.communicate(timeout=DEADLINE_SEC)
        assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
        return out + err

    def records(self) -> dict[str, TaskRecord]:
        """The file tasks in the store, by path."""
        with SQLiteStore(self.database) as store:
            found = [
                TaskRecord.from_plain(value) for key in store.list("task:") if isinstance(value := store.get(key), dict)
            ]
        return {str(record.inputs["path"]): record for record in found if record.objective == "analyse"}

    def wait_until_in_the_middle(self, chance: random.Random) -> None:
        """Until some tasks are done, at least a random number of them, and some are claimed."""
        wait_for(self.database.exists, "the database")
        wanted = chance.randrange(1, self.files // 2)
        with SQLiteStore(self.database) as store:
            tasks = TaskManager(store)

            def in_the_middle() -> bool:
                now = tasks.progress()
                return now.done >= wanted and now.claimed > 0 and now.pending > 0

            wait_for(in_the_middle, f"{wanted} tasks done and some claimed")

    def check_report(self, *, all_told: bool = False) -> None:
        """Every file is accounted for exactly once, in the report and in the store, and what members told is true."""
        report: dict[str, Any] = json.loads((self.out / "report.json").read_text())
        assert report["counts"]["files"] == self.files
        assert report["counts"]["parsed"] == self.files - 1
        assert [failure["path"] for failure in report["failures"]] == ["package_0/module_000.py"]
        assert sum(report["members"].values()) == self.files
        assert len(report["elected"]) == 10
        assert len({seat["result"]["path"] for seat in report["elected"]}) == 10
        assert (self.out / "report.html").read_text().startswith("<!DOCTYPE html>")
        with SQLiteStore(self.database) as store:
            (votes,) = [store.get(key) for key in store.list("vote:")]
        assert isinstance(votes, dict)
        ballots = [ballot for ballot in votes.values() if isinstance(ballot, list)]
        assert len(ballots) == 4, "each of the four members voted"
        for seat in report["elected"]:
            module = seat["result"]["path"]
            told = [place for ballot in ballots for place, path in enumerate(ballot, 1) if path == module]
            assert not Counter(seat["places"].values()) - Counter(told), "told is what stands on the ballots"
            assert len(seat["places"]) == len(told) or not all_told
        records = self.records()
        assert len(records) == self.files
        for path, record in records.items():
            events = [entry[1] for entry in record.history if isinstance(entry, list)]
            assert record.state == "completed", path
            assert events.count("completed") == 1, path
            assert isinstance(record.result, dict)
            assert record.result["path"] == path

    def stop_all(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.fixture
def audit(tmp_path: Path) -> Iterator[Audit]:
    running = Audit(tmp_path, files=150, functions=60)
    try:
        yield running
    finally:
        running.stop_all()
