"""`converge run` under signals: one clean stop however often it is told to, and no process left however it dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from converge.coordination.task_manager import TaskManager
from converge.core.task import Task
from converge.extensions.storage.sqlite import SQLiteStore
from converge.network.discovery import DiscoveryQuery, DiscoveryService

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PATIENCE_SEC = 60.0
HOLDERS = 4
CONFIG = f"""
[store]
use = "sqlite"
path = "state.db"

[[agents]]
class = "holders:Holder"
count = {HOLDERS}
"""
AGENTS = """
import asyncio, os, pathlib, time
from converge.core.agent import Agent, AgentState
from converge.core.decisions import ClaimTask


def say(word, agent):
    print(word, os.getpid(), agent.id, flush=True)


class Holder(Agent):
    def decide(self, messages, tasks):
        held = [task for task in tasks if task.assigned_to == self.id]
        if held:
            say("holds", self)
            return []
        return [ClaimTask(task.id) for task in tasks[:1]]


class Slow(Agent):
    async def on_start(self):
        say("starting", self)
        await asyncio.Event().wait()


class Stuck(Agent):
    def decide(self, messages, tasks):
        say("stuck", self)
        while True:
            time.sleep(0.01)


class Mortal(Agent):
    # its first life ends because something cancels what keeps it, as the end of the event loop does
    def decide(self, messages, tasks):
        say("lives", self)
        if pathlib.Path("died").exists():
            self.state = AgentState.OFFLINE
            return []
        pathlib.Path("died").touch()
        for task in asyncio.all_tasks():
            if task.get_name() == "converge-keeper":
                task.cancel()
        return []
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "converge.toml").write_text(CONFIG)
    (tmp_path / "holders.py").write_text(AGENTS)
    return tmp_path


class Run:
    """A run of the command in a process group of its own, and the processes it has told of."""

    def __init__(self, folder: Path, *settings: str) -> None:
        options = [word for setting in settings for word in ("--set", setting)]
        with (folder / "stderr").open("a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "converge.cli", "run", "--no-progress", *options],
                cwd=folder, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True,
            )  # fmt: skip
        self.folder = folder
        self.pids: set[int] = {self.process.pid}

    def until(self, word: str, times: int = 1, *, after: Sequence[int] = ()) -> list[int]:
        """The processes of `times` agents that said `word`, once they did; those in `after` do not count."""
        assert self.process.stdout is not None
        said: dict[str, int] = {}
        while len(said) < times:
            line = self.process.stdout.readline()
            assert line, f"it ended: {self.errors}"
            first, pid, agent = line.split()
            self.pids.add(int(pid))
            if first == word and int(pid) not in after:
                said[agent] = int(pid)
        return [*said.values()]

    def ended(self) -> int:
        """Its exit code, and no process of it is left."""
        code = self.process.wait(PATIENCE_SEC)
        deadline = time.monotonic() + PATIENCE_SEC
        while left := [pid for pid in self.pids if alive(pid)]:
            assert time.monotonic() < deadline, f"still there: {left}"
            time.sleep(0.02)
        return code

    @property
    def errors(self) -> str:
        return (self.folder / "stderr").read_text()

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE_SEC)
        assert self.process.stdout is not None
        self.process.stdout.close()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def runs(project: Path) -> Iterator[list[Run]]:
    started: list[Run] = []
    yield started
    for each in started:
        each.close()


def submit(project: Path) -> None:
    with SQLiteStore(project / "state.db") as store:
        TaskManager(store).submit_many([Task(id=str(n)) for n in range(HOLDERS)])


def left_behind(project: Path) -> tuple[list[str], list[str]]:
    """The tasks that are held, and the agents that can be discovered."""
    with SQLiteStore(project / "state.db") as store:
        tasks, discovery = TaskManager(store), DiscoveryService(store)
        found = [tasks.get_task(str(n)) for n in range(HOLDERS)]
        held = [task.id for task in found if task is not None and task.assigned_to is not None]
        return held, [each.id for each in discovery.query(DiscoveryQuery(), refresh_from_store=True)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("processes", [1, 2])
def test_three_signals_in_a_row_are_one_clean_stop(
    project: Path, runs: list[Run], processes: int, number: signal.Signals
) -> None:
    submit(project)
    run = Run(project, f"run.processes={processes}")
    runs.append(run)
    assert len(set(run.until("holds", HOLDERS))) == processes
    assert [len(each) for each in left_behind(project)] == [HOLDERS, HOLDERS]
    for _ in range(3):
        run.process.send_signal(number)
        time.sleep(0.01)
    assert run.ended() == 130, run.errors
    assert left_behind(project) == ([], [])
    assert "Traceback" not in run.errors


@pytest.mark.parametrize("processes", [1, 2])
def test_signals_to_the_whole_group_until_it_is_gone_are_one_clean_stop(
    project: Path, runs: list[Run], processes: int
) -> None:
    submit(project)
    run = Run(project, f"run.processes={processes}")
    runs.append(run)
    run.until("holds", HOLDERS)
    while run.process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(run.process.pid, signal.SIGTERM)
        time.sleep(0.001)
    assert run.ended() == 130, run.errors
    assert left_behind(project) == ([], [])


@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_during_the_start_of_an_agent_that_takes_for_ever_is_a_clean_stop(
    project: Path, runs: list[Run], processes: int
) -> None:
    submit(project)
    run = Run(project, f"run.processes={processes}", "agents.0.class=holders:Slow")
    runs.append(run)
    run.until("starting", processes)
    run.process.send_signal(signal.SIGTERM)
    assert run.ended() == 130, run.errors
    assert left_behind(project) == ([], [])


@pytest.mark.parametrize("pause", [0.0, 0.05, 0.1, 0.2, 0.4, 0.8])
def test_a_signal_at_any_instant_of_the_start_leaves_nothing(project: Path, runs: list[Run], pause: float) -> None:
    submit(project)
    run = Run(project, "run.processes=2")
    runs.append(run)
    time.sleep(pause)
    run.process.send_signal(signal.SIGTERM)
    assert run.ended() in (130, -signal.SIGTERM), run.errors
    with pytest.raises(ProcessLookupError):
        os.killpg(run.process.pid, 0)
    assert left_behind(project) == ([], [])


def test_a_process_that_somebody_else_terminates_is_started_again(project: Path, runs: list[Run]) -> None:
    submit(project)
    run = Run(project, "run.processes=2")
    runs.append(run)
    first = run.until("holds", HOLDERS)
    os.kill(first[0], signal.SIGTERM)
    assert len(set(run.until("holds", HOLDERS // 2, after=first))) == 1
    assert "ended with exit code 143; it is started again" in run.errors
    run.process.send_signal(signal.SIGTERM)
    assert run.ended() == 130
    assert left_behind(project) == ([], [])


def test_a_run_that_is_killed_takes_its_processes_along_and_the_next_one_starts(project: Path, runs: list[Run]) -> None:
    submit(project)
    run = Run(project, "run.processes=2")
    runs.append(run)
    run.until("holds", HOLDERS)
    run.process.kill()
    assert run.ended() == -signal.SIGKILL
    again = Run(project, "run.processes=2")
    runs.append(again)
    again.until("holds", HOLDERS)
    again.process.send_signal(signal.SIGTERM)
    assert again.ended() == 130
    assert left_behind(project) == ([], [])


@pytest.mark.parametrize("processes", [1, 2])
def test_the_death_of_a_runtime_ends_its_process_and_a_supervised_one_is_started_again(
    project: Path, runs: list[Run], processes: int
) -> None:
    run = Run(project, f"run.processes={processes}", "agents.0.class=holders:Mortal", "agents.0.count=1")
    runs.append(run)
    run.until("lives")
    if processes == 1:
        assert run.ended() == 1
        assert "was cancelled, and not by its stop()" in run.errors
    else:
        run.until("lives", after=[*run.pids])
        assert run.ended() == 0, run.errors
        assert "ended with exit code 1; it is started again" in run.errors


@pytest.mark.soak
@pytest.mark.parametrize("processes", [1, 2])
def test_an_agent_that_blocks_the_event_loop_does_not_keep_the_run_from_ending_and_is_named(
    project: Path, runs: list[Run], processes: int
) -> None:
    run = Run(project, f"run.processes={processes}", "agents.0.class=holders:Stuck")
    runs.append(run)
    run.until("stuck", processes)
    run.process.send_signal(signal.SIGTERM)
    assert run.ended() == (1 if processes == 1 else 130)
    assert "in decide" in run.errors, "where it was stuck"
