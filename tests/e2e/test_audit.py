"""The first example as a user runs it, and what is left of it after a kill -9."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from typing import TYPE_CHECKING

import pytest

from converge.runtime.config import load_config
from converge.runtime.supervisor import run
from tests.e2e.conftest import children_of, is_alive, wait_for

if TYPE_CHECKING:
    from tests.e2e.conftest import Audit


@pytest.mark.parametrize("processes", [1, 2])
def test_every_file_is_accounted_for_exactly_once(audit: Audit, processes: int) -> None:
    out = audit.finish(audit.start(processes=processes))
    assert f"Auditing {audit.files} files" in out
    assert "1 files do not parse" in out
    audit.check_report()


@pytest.mark.parametrize("processes", [1, 2])
def test_members_of_all_processes_tell_the_lead_by_message_where_they_placed_what_is_elected(
    audit: Audit, processes: int
) -> None:
    out = audit.finish(audit.start(processes=processes))
    assert "4 of 4 members told where they had placed the elected modules" in out
    audit.check_report(all_told=True)


def test_the_same_configuration_talks_through_a_hub(audit: Audit) -> None:
    hub = audit.start_command("hub", "--port", "0", "--json")
    assert hub.stdout is not None
    uri = json.loads(hub.stdout.readline())["uri"]
    out = audit.finish(audit.start("--set", "transport.use=websocket", "--set", f"transport.uri={uri}"))
    assert "4 of 4 members told where they had placed the elected modules" in out
    audit.check_report(all_told=True)
    hub.terminate()
    assert hub.wait(30) == 0


def test_with_the_local_transport_the_members_of_the_other_process_are_out_of_reach_and_all_else_is_the_same(
    audit: Audit,
) -> None:
    out = audit.finish(audit.start("--set", "transport.use=local"))
    assert "2 of 4 members told where they had placed the elected modules" in out
    audit.check_report()


def test_a_second_run_finds_everything_done(audit: Audit) -> None:
    audit.finish(audit.start())
    versions = {path: record.history for path, record in audit.records().items()}
    out = audit.finish(audit.start())
    assert f"{audit.files} are done already" in out
    audit.check_report()
    assert {path: record.history for path, record in audit.records().items()} == versions


@pytest.mark.parametrize("seed", range(5))
def test_a_process_that_is_killed_is_started_again_and_nothing_is_lost(audit: Audit, seed: int) -> None:
    chance = random.Random(seed)
    process = audit.start()
    audit.wait_until_in_the_middle(chance)
    victim = chance.choice(children_of(process.pid))
    os.kill(victim, signal.SIGKILL)
    out = audit.finish(process)
    assert "SIGKILL; it is started again" in out
    audit.check_report()


@pytest.mark.parametrize("seed", range(5))
def test_a_run_that_is_killed_goes_on_where_it_was(audit: Audit, seed: int) -> None:
    process = audit.start()
    audit.wait_until_in_the_middle(random.Random(seed))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = {path: record for path, record in audit.records().items() if record.state == "completed"}
    assert done
    out = audit.finish(audit.start())
    assert "going on" in out
    audit.check_report()
    after = audit.records()
    assert {path: after[path] for path in done} == done, "what was done stays as it was"


def test_children_die_with_their_parent(audit: Audit) -> None:
    process = audit.start()
    audit.wait_until_in_the_middle(random.Random(0))
    children = children_of(process.pid)
    assert len(children) == 2
    process.kill()
    process.communicate()
    wait_for(lambda: not any(map(is_alive, children)), "the children to end", 10)


def test_a_second_run_at_the_same_time_is_refused(audit: Audit) -> None:
    first = audit.start()
    wait_for(lambda: (audit.folder / "audit" / ".converge" / "run.lock").exists(), "the lock")
    first.send_signal(signal.SIGSTOP)
    try:
        out = audit.finish(audit.start(), code=1)
    finally:
        first.send_signal(signal.SIGCONT)
    assert f"run already, by process {first.pid}" in out
    assert "Traceback" not in out
    audit.finish(first)
    audit.check_report()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_stops_cleanly_and_goes_on_later(audit: Audit, number: signal.Signals) -> None:
    process = audit.start()
    audit.wait_until_in_the_middle(random.Random(1))
    children = children_of(process.pid)
    os.killpg(process.pid, number)
    out = audit.finish(process, code=130)
    assert "Traceback" not in out
    assert not any(map(is_alive, children))
    assert not [path for path, record in audit.records().items() if record.state == "assigned"], "claims are given back"
    audit.finish(audit.start())
    audit.check_report()


def test_a_disk_that_is_full_for_a_while_costs_time_and_nothing_else(audit: Audit) -> None:
    process = audit.start()
    audit.wait_until_in_the_middle(random.Random(2))
    audit.limit_files(process, 4096)
    assert process.stderr is not None
    said: list[str] = []
    for line in process.stderr:
        said.append(line)
        if "a task decision failed; decide is called again" in line:
            break
    else:
        raise AssertionError("".join(said))
    audit.limit_files(process, -1)
    audit.finish(process)
    audit.check_report()


async def test_a_run_that_is_stopped_while_its_processes_are_being_started_ends(audit: Audit) -> None:
    others = set(children_of(os.getpid()))  # of other tests: what guards the processes of tools
    settings = [f"audit.path={audit.corpus}", f"audit.report={audit.out}", "run.processes=2"]
    stop = asyncio.Event()
    stop.set()
    async with asyncio.timeout(20):
        assert not await run(load_config(audit.config, settings), settings=settings, stop=stop)
    assert not set(children_of(os.getpid())) - others
