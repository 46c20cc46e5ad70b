"""The identities of a run, and the lock that keeps two runs from using them at once."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from converge.core.errors import IdentityError
from converge.runtime.config import Config, load_config
from converge.runtime.errors import AlreadyRunning
from converge.runtime.keys import members
from converge.runtime.run_lock import run_lock

if TYPE_CHECKING:
    from pathlib import Path

HOLD = "import sys, os\nos.read(0, 1)\n"
TAKE = """
import pathlib, sys
from converge.runtime.run_lock import run_lock
with run_lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "converge.toml").write_text(
        '[run]\nprocesses = 2\n[[agents]]\nuse = "a"\ncount = 3\n[[agents]]\nuse = "b"\n'
    )
    return load_config(tmp_path / "converge.toml", environment={})


def test_keys_are_made_once_for_their_owner_only_and_found_again(config: Config) -> None:
    first = members(config)
    assert [member.name for member in first] == ["a-1", "a-2", "a-3", "b"]
    files = sorted((config.state / "keys").iterdir())
    assert [file.name for file in files] == ["a-1.pem", "a-2.pem", "a-3.pem", "b-1.pem"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    again = members(config)
    assert [member.identity.fingerprint for member in again] == [member.identity.fingerprint for member in first]
    assert len({member.identity.fingerprint for member in first}) == 4


def test_the_processes_of_a_run_share_its_agents_among_them(config: Config) -> None:
    shares = [[member.name for member in members(config, process)] for process in range(2)]
    assert shares == [["a-1", "a-3"], ["a-2", "b"]]


def test_processes_that_make_the_keys_at_the_same_time_agree(config: Config) -> None:
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: [m.identity.fingerprint for m in members(config)], range(8)))
    assert all(ids == found[0] for ids in found)


def test_a_key_that_others_may_read_or_that_is_damaged_is_an_error_naming_the_file(config: Config) -> None:
    members(config)
    key = config.state / "keys" / "b-1.pem"
    key.chmod(0o644)
    with pytest.raises(IdentityError, match=r"b-1\.pem .*chmod 600"):
        members(config)
    key.chmod(0o600)
    key.write_text("not a key")
    with pytest.raises(IdentityError, match=r"b-1\.pem"):
        members(config)


def test_a_second_run_is_refused_and_told_who_holds_the_first(tmp_path: Path) -> None:
    waits = list[float]()
    with run_lock(tmp_path / "state"):
        with (
            pytest.raises(AlreadyRunning, match=f"by process {os.getpid()}; stop that one first"),
            run_lock(tmp_path / "state", grace_sec=1.0, sleep=waits.append),
        ):
            raise AssertionError("two runs at once")
        assert sum(waits) == pytest.approx(1.0)
        with run_lock(tmp_path / "another", grace_sec=0):
            pass
    with run_lock(tmp_path / "state", grace_sec=0):
        pass


def test_a_run_waits_for_what_is_left_of_one_that_just_ended(tmp_path: Path) -> None:
    first = run_lock(tmp_path)
    first.__enter__()
    waits = list[float]()

    def end_first(seconds: float) -> None:
        waits.append(seconds)
        first.__exit__(None, None, None)

    with run_lock(tmp_path, sleep=end_first):
        assert len(waits) == 1


def test_a_run_that_fails_gives_the_lock_back(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="failed"), run_lock(tmp_path):
        raise ValueError("failed")
    with run_lock(tmp_path, grace_sec=0):
        pass


def test_a_child_that_inherited_the_lock_holds_it_until_it_is_gone(tmp_path: Path) -> None:
    with run_lock(tmp_path) as lock:
        child = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, pass_fds=[lock])
        stranger = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, close_fds=False)
    with pytest.raises(AlreadyRunning), run_lock(tmp_path, grace_sec=0):
        raise AssertionError("the child is still there")
    child.communicate(timeout=30)
    with run_lock(tmp_path, grace_sec=0):  # a child that was not handed the lock has none
        assert stranger.poll() is None
    stranger.communicate(timeout=30)


def test_sigkill_frees_the_lock(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", TAKE, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(AlreadyRunning, match=f"by process {holder.pid};"), run_lock(tmp_path, grace_sec=0):
            raise AssertionError("two runs at once")
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=30)
    with run_lock(tmp_path, grace_sec=0):
        pass
