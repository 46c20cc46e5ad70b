"""Tools of a run of the real command: what they have started ends with their call, and with the run however it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import DEADLINE_SEC, is_alive, wait_for

AGENTS = '''
import json
import os
import subprocess
import time
from pathlib import Path

from attrs import frozen

from converge.core.agent import Agent, AgentState
from converge.core.decisions import InvokeTool
from converge.core.tools import tool


@tool
def stuck(folder: str) -> None:
    """Start a process in a session of its own, say so, and hang."""
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    mark = Path(folder) / f"{os.getpid()}.new"
    mark.write_text(json.dumps([os.getpid(), child.pid]))
    mark.rename(mark.with_suffix(".mark"))
    time.sleep(600)


@tool
def quick(x: int) -> list[int]:
    """Say in which process this is."""
    return [x, os.getpid()]


@frozen
class Options:
    folder: str


class Caller(Agent):
    converge_options = Options
    tools = [stuck, quick]

    def __init__(self, identity, folder):
        super().__init__(identity)
        self.folder = folder

    def decide(self, messages, tasks):
        if not self.outcomes:
            return [InvokeTool("stuck", {"folder": self.folder}), InvokeTool("quick", {"x": 1})]
        first, second = self.outcomes
        found = {"error": first.error, "value": second.value, "own": os.getpid()}
        (Path(self.folder) / f"{self.id}.json").write_text(json.dumps(found))
        self.state = AgentState.OFFLINE
        return []
'''


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a run of two agents that call the tools above."""
    started: list[subprocess.Popen[str]] = []

    def start(processes: int, timeout: float) -> subprocess.Popen[str]:
        (tmp_path / "agents.py").write_text(AGENTS)
        (tmp_path / "converge.toml").write_text(
            f"""
            [store]
            use = "sqlite"
            path = "store.db"
            [run]
            processes = {processes}
            executor = {{ use = "standard", tool_timeout_sec = {timeout} }}
            [[agents]]
            class = "agents:Caller"
            count = 2
            folder = "{tmp_path}"
            """
        )
        command = [sys.executable, "-m", "converge.cli", "run", "converge.toml"]
        started.append(
            subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=DEADLINE_SEC)


def marked(folder: Path) -> list[int]:
    """The processes that hung tools are in, and those they have started."""
    return [pid for mark in folder.glob("*.mark") for pid in json.loads(mark.read_text())]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_tool_that_hangs_is_ended_with_what_it_started_and_the_run_goes_on(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, processes: int
) -> None:
    run = start(processes, 0.5)
    out, _ = run.communicate(timeout=DEADLINE_SEC)
    assert run.returncode == 0, out
    reports = [json.loads(file.read_text()) for file in tmp_path.glob("*.json")]
    assert len(reports) == 2
    for report in reports:
        assert report["error"] == "TimeoutError: the tool 'stuck' gave no answer within 0.5 s"
        assert report["value"][0] == 1
        assert report["value"][1] != report["own"]
    assert len(marked(tmp_path)) == 4
    assert [pid for pid in marked(tmp_path) if is_alive(pid)] == []


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_nothing_of_a_tool_is_left_when_the_run_ends(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, processes: int, number: signal.Signals
) -> None:
    run = start(processes, 600.0)
    wait_for(lambda: len(marked(tmp_path)) == 4 or run.poll() is not None, "both tools to hang")
    assert run.poll() is None, run.communicate()[0]
    assert all(is_alive(pid) for pid in marked(tmp_path))
    run.send_signal(number)
    run.wait(DEADLINE_SEC)
    wait_for(lambda: not any(is_alive(pid) for pid in marked(tmp_path)), "all they have started to end")
