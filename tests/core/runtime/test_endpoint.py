"""`/health`, `/ready` and `/metrics` of a run: in one process, and in many of which one is dead or hangs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import urllib.error
import urllib.request
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from converge.observability.metrics import Family
from converge.runtime.config import load_config
from converge.runtime.endpoint import merged
from converge.runtime.errors import ConfigError
from converge.runtime.observing import Health, Report
from converge.runtime.supervisor import run
from tests.core.runtime.conftest import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PATIENCE_SEC = 30.0
AGENTS = """
import os
from pathlib import Path

from converge.core.agent import Agent
from converge.core.decisions import SubmitTask
from converge.core.task import Task


class Worker(Agent):
    def decide(self, messages, tasks):
        Path(f"pid-{os.getpid()}").touch()
        if messages or Path("fail").exists():
            raise LookupError("told to")
        return []


class Submitter(Agent):
    def decide(self, messages, tasks):
        return [SubmitTask(Task("t", pool_id="nobody"))]
"""
CONFIG = """
[store]
use = "sqlite"
path = "run.db"
[http]
listen = "127.0.0.1:0"
[[agents]]
class = "agents:Worker"
count = 2
[[agents]]
class = "agents:Submitter"
"""


class Site:
    """What a run serves."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def get(self, path: str) -> tuple[int, str]:
        return await asyncio.to_thread(self._get, path)

    def _get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=PATIENCE_SEC) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    async def becomes(self, path: str, status: int, *texts: str) -> str:
        """What `path` answers once it is of this status and has all `texts`."""
        async with asyncio.timeout(PATIENCE_SEC):
            while True:
                code, body = await self.get(path)
                if code == status and all(text in body for text in texts):
                    return body
                await asyncio.sleep(0.02)


@asynccontextmanager
async def running(folder: Path, *settings: str, config: str = CONFIG) -> AsyncIterator[Site]:
    (folder / "agents.py").write_text(AGENTS)
    (folder / "converge.toml").write_text(config)
    loaded = load_config(folder / "converge.toml", settings)
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    here = Path.cwd()
    os.chdir(folder)
    try:
        job = asyncio.create_task(run(loaded, settings=settings, on_listening=url.set_result, stop=stop))
        async with asyncio.timeout(PATIENCE_SEC):
            waited: set[asyncio.Future[Any]] = {job, url}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if job.done():
            job.result()
        yield Site(await url)
        stop.set()
        assert await job is False
    finally:
        os.chdir(here)
        sys.modules.pop("agents", None)


def pids(folder: Path) -> list[int]:
    """The processes that workers have run in."""
    return [int(path.name.removeprefix("pid-")) for path in folder.glob("pid-*")]


def metric(text: str, line: str) -> float:
    """The value of a line, by all before it."""
    (found,) = [each for each in text.splitlines() if each.startswith(line + " ")]
    return float(found.rpartition(" ")[2])


async def test_one_process_says_how_its_agents_are(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        assert json.loads(await site.becomes("/ready", 200)) == {"ready": True, "agents": 3, "not_ready": []}
        assert json.loads((await site.get("/health"))[1]) == {"healthy": True, "agents": 3, "not_healthy": []}
        at_last = [
            'converge_tasks{state="pending"} 1',
            'converge_agents{state="idle"} 3',
            "converge_decisions_done_total",
        ]
        text = await site.becomes("/metrics", 200, *at_last)
        assert metric(text, "converge_agents_healthy") == 3
        assert metric(text, "converge_decisions_done_total") >= 1
        assert (await site.get("/"))[0] == 404


async def test_an_agent_that_keeps_failing_shows_and_so_does_one_that_is_well_again(tmp_path: Path) -> None:
    (tmp_path / "fail").touch()
    async with running(tmp_path) as site:
        await site.becomes("/ready", 200)
        body = json.loads(await site.becomes("/health", 503, "worker-2"))
        assert (body["healthy"], set(body["not_healthy"]) <= {"worker-1", "worker-2"}) == (False, True)
        await site.becomes("/metrics", 200, "converge_decide_failures_total")
        (tmp_path / "fail").unlink()
        await site.becomes("/health", 200)


async def test_many_processes_have_one_endpoint(tmp_path: Path) -> None:
    async with running(tmp_path, "run.processes=2") as site:
        await site.becomes("/ready", 200, '"agents": 3')
        text = await site.becomes("/metrics", 200, 'converge_agents_ready{process="1"}')
        assert (
            metric(text, 'converge_agents_ready{process="0"}') + metric(text, 'converge_agents_ready{process="1"}') == 3
        )
        assert metric(text, "converge_processes") == 2


@pytest.mark.parametrize(("number", "problem"), [(signal.SIGSTOP, "does not answer"), (signal.SIGKILL, "")])
async def test_a_process_that_hangs_or_dies_is_not_well(tmp_path: Path, number: int, problem: str) -> None:
    async with running(tmp_path, "run.processes=2") as site:
        await site.becomes("/ready", 200, '"agents": 3')
        await until(lambda: len(pids(tmp_path)) == 2)
        pid = pids(tmp_path)[0]
        os.kill(pid, number)
        if number == signal.SIGKILL:
            text = await site.becomes("/metrics", 200, "converge_process_restarts_total 1")
            assert "# TYPE converge_process_restarts_total counter" in text
        else:
            await site.becomes("/health", 503, problem)
            assert (await site.get("/metrics"))[0] == 200, "the others are shown"
            os.kill(pid, signal.SIGCONT)
        await site.becomes("/health", 200, '"agents": 3')


async def test_an_address_that_is_taken_ends_the_run_with_its_name(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        taken = site.url.removeprefix("http://")
        (tmp_path / "other").mkdir()
        with pytest.raises(OSError, match=f"cannot listen on http://{taken}: "):
            async with running(tmp_path / "other", f"http.listen={taken}"):
                pass


@pytest.mark.parametrize(
    ("listen", "error"),
    [("0.0.0.0:80", "other machines reach it"), ("nowhere", "write HOST:PORT"), ("[::]:1", "reach")],
)
async def test_an_address_that_must_not_be_is_a_mistake_in_the_config(tmp_path: Path, listen: str, error: str) -> None:
    with pytest.raises(ConfigError, match=rf"^converge.toml \[http\] listen: .*{error}"):
        async with running(tmp_path, f"http.listen={listen}"):
            pass


def report(ok: bool = True, value: float = 1.0) -> Report:
    health = Health(ok, 2, () if ok else ("bob",))
    return Report(health, health, [Family("x_total", "counter", [((("by", "a"),), value)])])


def test_reports_are_merged_with_what_is_missing() -> None:
    own = Family("own", "gauge", [((), 1.0)])
    whole = merged({0: report(), 1: report(ok=False, value=2.0), 2: "does not run"}, [own])
    assert whole.health == Health(False, 4, ("process 2 does not run", "bob"))
    assert whole.families == [
        own,
        Family("x_total", "counter", [((("by", "a"), ("process", "0")), 1.0), ((("by", "a"), ("process", "1")), 2.0)]),
    ]
    data: Any = json.loads(json.dumps(whole.to_plain()))
    assert Report.from_plain(data) == whole
