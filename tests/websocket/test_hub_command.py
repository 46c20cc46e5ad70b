"""`converge hub` as a user starts it: what it prints, how it ends, and a run of two processes that talk through it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import textwrap
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from converge.core.identity import Identity
from converge.network.transport.websocket import HubRefused, WebSocketTransport
from tests.websocket.conftest import ALICE, BOB, all_of, to

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMAND = [sys.executable, "-m", "converge.cli", "hub"]


@contextmanager
def running(*arguments: str, end: int = signal.SIGTERM) -> Iterator[dict[str, str]]:
    """A hub in a process of its own: what it printed first; ended by the signal `end`, which it has to obey."""
    command = [*COMMAND, "--port", "0", "--json", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
            process.send_signal(end)
            out, err = process.communicate(timeout=20)
        except BaseException:
            process.kill()
            raise
    assert (process.returncode, err) == (0, "")
    assert json.loads(out)["stopped"]


def failed(*arguments: str) -> tuple[int, str]:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=30, check=False)
    assert len(done.stderr.splitlines()) == 1 or done.stderr.startswith("Usage:")
    return done.returncode, done.stderr


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_is_relays_and_ends_when_told(end: int) -> None:
    async def talk(uri: str, hub_id: str) -> list[int]:
        async with (
            WebSocketTransport(ALICE.fingerprint, uri, ALICE, hub_id=hub_id) as alice,
            WebSocketTransport(BOB.fingerprint, uri, BOB) as bob,
        ):
            await alice.send(to(BOB, ALICE, 4))
            return await all_of(bob, 1)

    with running(end=end) as said:
        assert asyncio.run(talk(said["uri"], said["hub_id"])) == [4]


def test_its_identity_is_made_once_and_only_agents_of_a_file_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "agents.txt").write_text(f"# ours\n\n{ALICE.fingerprint}  # alice\n")
    options = ("--identity", str(tmp_path / "hub.pem"), "--allow", str(tmp_path / "agents.txt"))

    async def try_both(uri: str) -> None:
        async with WebSocketTransport(ALICE.fingerprint, uri, ALICE):
            with pytest.raises(HubRefused, match="not allowed"):
                await WebSocketTransport(BOB.fingerprint, uri, BOB).start()

    with running(*options) as first:
        asyncio.run(try_both(first["uri"]))
    assert Identity.load(tmp_path / "hub.pem").fingerprint == first["hub_id"]
    with running(*options, "--allow", BOB.fingerprint) as second:
        assert second["hub_id"] == first["hub_id"]


def test_what_is_wrong_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, text = failed("--port", str(taken.getsockname()[1]))
        assert (code, "in use" in text) == (1, True)
    (tmp_path / "agents.txt").write_text("alice\n")
    for arguments, expected in {
        ("--host", "0.0.0.0"): "--insecure",
        ("--allow", str(tmp_path / "none.txt")): "No such file",
        ("--allow", str(tmp_path / "agents.txt")): "line 1: 'alice' is no agent id",
        ("--cert", str(tmp_path / "none.pem")): "No such file",
        ("--port", "70000"): "70000 is not in the range",
    }.items():
        code, text = failed(*arguments)
        assert (code, expected in text) == (2, True), text


def test_agents_of_two_processes_of_one_run_talk_through_it(tmp_path: Path) -> None:
    (tmp_path / "players.py").write_text(
        textwrap.dedent(
            """
            from converge.core.agent import Agent
            from converge.core.agent import AgentState
            from converge.core.decisions import SendMessage
            from converge.core.message import Message

            class Ping(Agent):
                def on_tick(self, messages, tasks):
                    self.answered = [m.payload["pong"] for m in messages if "pong" in m.payload]

                def decide(self, messages, tasks):
                    if 3 in self.answered:
                        self.state = AgentState.OFFLINE
                        return []
                    return [SendMessage(Message(payload={"ping": max(self.answered, default=0) + 1}))]

            class Pong(Agent):
                def decide(self, messages, tasks):
                    return [
                        SendMessage(Message(recipient=m.sender, payload={"pong": m.payload["ping"]}))
                        for m in messages
                        if "ping" in m.payload
                    ] or [SendMessage(Message(payload={"hello": 1}))]  # whoever is first is heard by the other
            """
        )
    )
    with running() as said:
        (tmp_path / "converge.toml").write_text(
            f"""
            [store]
            use = "sqlite"
            path = "state.db"
            [transport]
            use = "websocket"
            uri = "{said["uri"]}"
            hub_id = "{said["hub_id"]}"
            [run]
            processes = 2
            until = "ping"
            [[agents]]
            class = "players:Pong"
            [[agents]]
            class = "players:Ping"
            name = "ping"
            """
        )
        command = [sys.executable, "-m", "converge.cli", "run", str(tmp_path / "converge.toml")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_serves_its_health_and_metrics_on_request() -> None:
    with running("--http", "127.0.0.1:0") as said:
        with urllib.request.urlopen(said["http"] + "/health", timeout=30) as answer:
            assert json.load(answer) == {"healthy": True, "agents": 0}
        with urllib.request.urlopen(said["http"] + "/metrics", timeout=30) as answer:
            assert "converge_hub_connections 0" in answer.read().decode().splitlines()
    assert failed("--http", "0.0.0.0:0")[0] == 2
    assert failed("--http", "nonsense")[0] == 2
