"""`converge approvals`: a person sees what waits, and answers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from converge.coordination.approvals import Approvals
from converge.coordination.task_manager import TaskManager
from converge.core.decisions import InvokeTool
from converge.extensions.storage.sqlite import SQLiteStore

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Converge

STORE = ("--store", "sqlite:run.db")


@pytest.fixture
def asked(tmp_path: Path) -> str:
    with SQLiteStore(tmp_path / "run.db") as store:
        decision = InvokeTool("wire", {"euros": 10, "key": b"\x00", "to": "\x1b[2Jx"})
        return Approvals(store).ask("a" * 64, decision, about="InvokeTool wire \x1b[2J")


def test_what_waits_is_listed_shown_and_approved(converge: Converge, asked: str) -> None:
    listed = converge("approvals", "list", *STORE)
    assert listed.code == 0
    assert listed.out.startswith(asked)
    assert listed.out.endswith(r"waiting  agent aaaaaaaaaaaa  InvokeTool wire \x1b[2J" + "\n")
    shown = converge("approvals", "show", asked[:8], *STORE)
    assert '"euros": 10' in shown.out
    assert "\x1b" not in shown.out
    done = converge("approvals", "approve", asked[:8], "--by", "carol", "--reason", "fine", *STORE)
    assert (done.code, "approved by carol (fine)" in done.out) == (0, True)
    nothing = converge("approvals", "list", *STORE)
    assert (nothing.out, nothing.err) == ("", "nothing waits for an answer\n")
    (record,) = json.loads(converge("approvals", "list", "--all", "--json", *STORE).out)
    assert (record["state"], record["decided_by"], record["decision"]["type"]) == ("approved", "carol", "InvokeTool")


def test_who_answers_late_or_about_nothing_is_told_in_one_line(converge: Converge, asked: str) -> None:
    assert converge("approvals", "deny", asked, "--by", "carol", *STORE).code == 0
    late = converge("approvals", "approve", asked, "--by", "dave", *STORE)
    assert (late.code, late.err) == (1, f"Error: approval {asked!r}: it is denied by carol\n")
    unknown = converge("approvals", "approve", "nothing", *STORE)
    assert (unknown.code, "there is no approval 'nothing'" in unknown.err) == (1, True)
    assert converge("approvals", "show", "nothing", *STORE).code == 1


def test_without_a_name_the_login_name_is_kept(converge: Converge, asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "erin")
    assert "denied by erin" in converge("approvals", "deny", asked, *STORE).out


def test_a_store_that_is_not_there_is_not_made(converge: Converge, tmp_path: Path) -> None:
    assert converge("approvals", "list", *STORE).code == 2
    assert not (tmp_path / "run.db").exists()


AGENTS = """
from pathlib import Path

from converge.core.agent import Agent, AgentState
from converge.core.decisions import SubmitTask
from converge.core.task import Task


class Clerk(Agent):
    def decide(self, messages, tasks):
        if not self.outcomes:
            return [SubmitTask(Task("t", "order paper"))]
        if self.outcomes[0].status != "waiting":
            Path("outcome").write_text(self.outcomes[0].status)
            self.state = AgentState.OFFLINE
        return []
"""
CONFIG = """
[store]
use = "sqlite"
path = "run.db"
[run]
until = "clerk"
[approvals]
needed_for = ["SubmitTask"]
[[agents]]
class = "agents:Clerk"
"""


def test_an_agent_of_a_run_waits_for_the_answer_of_another_process(converge: Converge, tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text(AGENTS)
    (tmp_path / "converge.toml").write_text(CONFIG)
    run = subprocess.Popen([sys.executable, "-m", "converge.cli", "run"], cwd=tmp_path)
    try:
        patience = time.monotonic() + 60
        while not (waiting := json.loads(converge("approvals", "list", "--json").out or "[]")):
            assert run.poll() is None
            assert time.monotonic() < patience
        assert converge("approvals", "approve", waiting[0]["id"]).code == 0
        assert run.wait(60) == 0
    finally:
        run.kill()
        run.wait()
    assert (tmp_path / "outcome").read_text() == "done"
    with SQLiteStore(tmp_path / "run.db") as store:
        assert TaskManager(store).get_task("t") is not None


def test_a_policy_that_makes_no_sense_is_a_mistake_in_the_config(converge: Converge, tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text(AGENTS)
    (tmp_path / "converge.toml").write_text(CONFIG + 'approvals = { needed_for = ["SubmitTask:x"] }')
    told = converge("run")
    assert told.code == 2
    assert told.err.startswith("Error: converge.toml [[agents]] 0 approvals: needed_for contains 'SubmitTask:x'; only")
