"""`converge run` as a user meets it when something is wrong with the config: one readable line, and exit code 2."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """
[store]
use = "sqlite"
path = "state.db"

[run]
until = "walker"

[settings]
steps = 2

[[pools]]
id = "walkers"
governance = { use = "democratic" }

[[agents]]
name = "walker"
class = "walkers:Walker"
pools = ["walkers"]
options = "settings"
"""

AGENTS = """
from attrs import frozen
from converge.core.agent import Agent, AgentState


@frozen
class Settings:
    steps: int = 1


class Walker(Agent):
    converge_options = Settings

    def __init__(self, identity, steps):
        super().__init__(identity)
        self.steps = steps

    def decide(self, messages, tasks):
        print(f"{self.steps} steps, pools {self.context.pools.get_pools_for_agent(self.id)}")
        self.state = AgentState.OFFLINE
        return []
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "converge.toml").write_text(CONFIG)
    (tmp_path / "walkers.py").write_text(AGENTS)
    return tmp_path


def run(folder: Path, *options: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "converge.cli", "run", *options],
        cwd=folder, capture_output=True, text=True, timeout=60, env={**os.environ, **(environment or {})}, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("processes", [1, 2])
def test_the_agents_of_the_file_run_until_they_are_done(project: Path, processes: int) -> None:
    done = run(project, "--set", f"run.processes={processes}")
    assert (done.returncode, done.stdout) == (0, "2 steps, pools ['walkers']\n"), done.stderr


def test_the_environment_overrides_the_file_and_a_setting_overrides_both(project: Path) -> None:
    environment = {"CONVERGE_SETTINGS__STEPS": "3"}
    assert run(project, environment=environment).stdout.startswith("3 steps")
    assert run(project, "--set", "settings.steps=4", environment=environment).stdout.startswith("4 steps")


def test_paths_of_the_store_and_of_keys_are_relative_to_the_file(project: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = run(elsewhere, str(project / "converge.toml"))
    assert done.returncode == 0, done.stderr
    assert (project / "state.db").exists()
    key = project / ".converge" / "keys" / "walker-1.pem"
    assert key.stat().st_mode & 0o777 == 0o600
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("store.use=sqlit", "converge.toml [store]: no store plugin is named 'sqlit'; installed: "),
        ("transport.use=websocket", "converge.toml [transport] uri: is missing; it is required and takes str"),
        (
            "store.pth=x",
            "converge.toml [store] pth: is not an option; valid options are path, durability. Did you mean",
        ),
        ("run.proceses=3", "converge.toml [run]: proceses is not an option"),
        ("run.until=runner", "converge.toml [run] until: no agent is named 'runner'; there is walker"),
        ("settngs.steps=3", "converge.toml [settngs]: there is no such table"),
        ("settings.step=3", "converge.toml [[agents]] 0 step: is not an option; valid options are steps. Did you mean"),
        ("settings.steps=many", "converge.toml [[agents]] 0 steps: expected int, got the str 'many'"),
        ("agents.0.class=walkers:Runner", "converge.toml [[agents]] 0 class: walkers has no Agent class 'Runner'"),
        ("agents.0.class=runners:Walker", "converge.toml [[agents]] 0 class: there is no module 'runners'"),
        ('agents.0.pools=["runners"]', "converge.toml [[agents]] 0 pools: there is no pool 'runners'"),
        ("pools.0.governance.use=monarchic", "converge.toml [[pools]] 0 governance: no governance plugin is named"),
        ("agents.1.count=2", "--set agents.1.count=2: '1' is not the number of an entry; there are 1, counted from 0"),
        ("nonsense", "--set nonsense: a setting is written table.key=value"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_place_and_the_fix(
    project: Path, setting: str, expected: str, processes: int
) -> None:
    failed = run(project, "--set", setting, "--set", f"run.processes={processes}")
    assert failed.returncode == 2, failed.stderr
    errors = [line for line in failed.stderr.splitlines() if line.startswith("Error: ")]
    assert expected in errors[0]
    assert "Traceback" not in failed.stderr
    assert not failed.stdout


def test_a_store_of_one_process_cannot_be_shared(project: Path) -> None:
    failed = run(project, "--set", 'store={use="memory"}', "--set", "run.processes=2")
    assert failed.returncode == 2
    assert "2 processes cannot share the store 'memory', which lives in one" in failed.stderr


def test_a_plugin_that_is_disabled_is_not_used(project: Path) -> None:
    failed = run(project, "--set", 'plugins.disabled=["store:sqlite"]')
    assert failed.returncode == 2
    assert "disabled by" in failed.stderr
    assert "converge.toml [plugins] disabled" in failed.stderr


def test_a_file_that_is_not_there_or_not_toml_is_named(project: Path) -> None:
    absent = run(project, "other.toml")
    assert absent.returncode == 2
    assert "other.toml" in absent.stderr
    assert "Traceback" not in absent.stderr
    (project / "converge.toml").write_text("[store\n")
    broken = run(project)
    assert broken.returncode == 2
    assert "converge.toml: this is not TOML" in broken.stderr


def test_an_agent_that_cannot_be_imported_shows_why(project: Path) -> None:
    (project / "walkers.py").write_text("import a_module_that_is_not_there\n")
    failed = run(project)
    assert failed.returncode == 2
    assert "importing 'walkers' fails: No module named 'a_module_that_is_not_there'" in failed.stderr


def test_a_whitelist_that_does_not_name_an_agent_keeps_it_out(project: Path) -> None:
    failed = run(project, "--set", 'pools.0.admission={use="whitelist", agents=["somebody"]}')
    assert failed.returncode == 2
    assert "pool 'walkers' does not admit walker, whose id is " in failed.stderr


def test_other_settings_for_a_pool_that_exists_are_refused(project: Path) -> None:
    assert run(project).returncode == 0
    failed = run(project, "--set", 'pools.0.governance={use="veto", veto_agent_id="x"}')
    assert failed.returncode == 2
    assert "pool 'walkers' exists with another governance" in failed.stderr


def test_debug_shows_the_traceback(project: Path) -> None:
    assert "Traceback" in run(project, "--debug", "--set", "store.use=sqlit").stderr


POSTMEN = """
from converge.core.agent import Agent, AgentState
from converge.core.decisions import SendMessage
from converge.core.message import Message
from converge.network.discovery import DiscoveryQuery


class Sender(Agent):
    sent = False

    async def decide(self, messages, tasks):
        if self.outcomes or self.sent:
            return []
        while not (found := await self.context.discover(DiscoveryQuery(capabilities=["reading"]))):
            pass
        self.sent = True
        await self.context.network.transport.send(Message(recipient=found[0].id, payload={"hello": 1}))
        return []


class Receiver(Agent):
    def decide(self, messages, tasks):
        if messages:
            print("received", messages[0].payload, flush=True)
            self.state = AgentState.OFFLINE
        return []
"""


def test_the_local_transport_does_not_leave_the_process_and_says_so(project: Path) -> None:
    (project / "postmen.py").write_text(POSTMEN)
    (project / "converge.toml").write_text("""
[store]
use = "sqlite"
path = "state.db"
[run]
until = "receiver"
[[agents]]
class = "postmen:Sender"
[[agents]]
class = "postmen:Receiver"
capabilities = ["reading"]
""")
    assert run(project).stdout == "received {'hello': 1}\n"
    stopped = subprocess.Popen(
        [sys.executable, "-m", "converge.cli", "run", "--set", "run.processes=2"],
        cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert stopped.stderr is not None
    try:
        line = next(line for line in stopped.stderr if "not sent: " in line)
        assert "no agent of that id runs in this process" in line
        assert "choose a transport that crosses processes" in line
    finally:
        stopped.terminate()
        stopped.communicate(timeout=30)
    assert stopped.returncode == 130
