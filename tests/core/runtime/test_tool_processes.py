"""Tools in processes: whatever one does, its call ends in time, nothing of it is left, and the next one runs."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from converge.core.decisions import InvokeTool
from converge.core.errors import ToolNotImportable
from converge.core.tool_call import current_call
from converge.core.tool_reference import ToolReference
from converge.core.tools import ToolRegistry, tool
from converge.runtime.executor import StandardExecutor
from converge.runtime.tools import pool as pool_module
from converge.runtime.tools.limits import ToolLimits
from converge.runtime.tools.linux import can_isolate, children_of_mine
from converge.runtime.tools.pool import ToolPool
from tests.core.runtime import bad_tools
from tests.core.runtime.conftest import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from converge.core.agent import Outcome

pytestmark = pytest.mark.skipif(not can_isolate(), reason="processes that are killed with all they start take Linux")

PATIENCE_SEC = 30.0
TIMEOUT_SEC = 1.0


class Caller:
    """An executor that has all the tools, and what it was last asked for."""

    def __init__(self, **options: Any) -> None:
        registry = ToolRegistry()
        for value in vars(bad_tools).values():
            if hasattr(value, "parameters") and hasattr(value, "run"):
                registry.register(value)
        self.executor = StandardExecutor("me", tool_registry=registry, **{"tool_timeout_sec": TIMEOUT_SEC, **options})

    async def __call__(self, name: str, **params: Any) -> Outcome:
        (outcome,) = await self.executor.execute([InvokeTool(name, params)])
        return outcome


@pytest.fixture
async def call() -> AsyncIterator[Caller]:
    caller = Caller()
    await caller("who")  # what the first one costs is not measured here
    yield caller
    await caller.executor.close()


def lives(pid: int) -> bool:
    """Whether the process runs; one that has ended and was not asked for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def gone(*pids: int) -> None:
    """Return when none of the processes runs."""
    await until(lambda: not any(lives(pid) for pid in pids))


def numbers_in(mark: Path) -> list[int]:
    """The numbers in the file; none while it is not there."""
    return [int(word) for word in mark.read_text().split()] if mark.exists() else []


async def written(mark: Path) -> int:
    """The number in the file, once it is there."""
    await until(lambda: numbers_in(mark) != [])
    return numbers_in(mark)[0]


def descendants(pid: int) -> list[int]:
    """The processes that descend from `pid`."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                stat = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if stat[0] != "Z":
                parents.setdefault(int(stat[1]), []).append(int(name))
    found, left = [], [pid]
    while left:
        children = parents.get(left.pop(), [])
        found += children
        left += children
    return found


def workers() -> list[int]:
    """The processes under the guard of this one."""
    return [one for guard in children_of_mine() for one in descendants(guard)]


async def only_idle_workers(count: int) -> None:
    """Return when there are `count` processes under the guard, and no more."""
    await until(lambda: len(workers()) == count)


@pytest.mark.parametrize(
    ("name", "params", "error"),
    [
        ("hang_for_good", {}, "TimeoutError: the tool 'hang_for_good' gave no answer within 1.0 s"),
        ("fail", {}, "LookupError: nothing there"),
        ("leave", {"code": 3}, "CallFailed: it raised SystemExit: 3"),
        ("end", {"code": 3}, "it ended its process with exit code 3"),
        ("kill_itself", {}, "its process was ended by signal 9, as one that is out of memory or processor time is"),
        ("allocate", {"mib": 3000}, "MemoryError"),
        ("close_everything", {}, "it ended its process with exit code 70"),
        ("odd", {}, "TypeError: the result: builtins.set is not plain data"),
        ("large", {"size": 2_000_000}, "ValueError: the result takes 2000005 bytes, and at most 1048576 are taken"),
        ("large", {"size": "x"}, "ToolParameterError: tool 'large': Expected `int`, got `str`"),
    ],
)
async def test_a_tool_that_misbehaves_is_an_outcome_and_the_next_one_runs(
    call: Caller, name: str, params: dict[str, Any], error: str
) -> None:
    outcome = await call(name, **params)
    assert (outcome.status, str(outcome.error)[: len(error)]) == ("failed", error)
    assert (await call("who")).status == "done"
    await only_idle_workers(1)


async def test_a_tool_that_takes_all_memory_costs_its_own_process(call: Caller) -> None:
    outcome = await call("large", size=2_500_000_000)
    assert (outcome.status, str(outcome.error).split(":")[0]) == ("failed", "MemoryError")


async def test_the_effects_of_a_tool_end_with_its_time(call: Caller, tmp_path: Path) -> None:
    caller = Caller(tool_timeout_sec=0.3)
    assert (await caller("late", mark=str(tmp_path / "mark"))).status == "failed"
    await asyncio.sleep(1.2)
    assert not (tmp_path / "mark").exists()
    await caller.executor.close()


@pytest.mark.parametrize("wait", [True, False], ids=["and waits", "and returns"])
@pytest.mark.parametrize("kind", ["child", "escaped child", "daemon"])
async def test_what_a_tool_starts_ends_with_its_call(call: Caller, tmp_path: Path, kind: str, wait: bool) -> None:
    mark = tmp_path / "mark"
    params = {"mark": str(mark), "wait": wait} | ({} if kind == "daemon" else {"escape": kind == "escaped child"})
    outcome = await call(kind.rpartition(" ")[2], **params)
    assert outcome.status == ("failed" if wait else "done")
    await gone(await written(mark))
    assert (await call("who")).status == "done"
    await only_idle_workers(1)


async def test_processes_that_fork_others_in_sessions_of_their_own_are_all_ended(call: Caller) -> None:
    assert (await call("bomb", count=20)).status == "failed"
    await only_idle_workers(0)
    assert (await call("who")).status == "done"


async def test_forty_hung_calls_keep_no_later_one_from_running(call: Caller) -> None:
    hung = [asyncio.create_task(call("hang_for_good")) for _ in range(40)]
    outcomes = await asyncio.gather(*hung, call("who"))
    assert [outcome.status for outcome in outcomes] == ["failed"] * 40 + ["done"]
    await only_idle_workers(1)


async def test_a_call_that_is_cancelled_is_killed(call: Caller, tmp_path: Path) -> None:
    caller = Caller(tool_timeout_sec=600)
    running = asyncio.create_task(caller("hang", mark=str(tmp_path / "mark")))
    pid = await written(tmp_path / "mark")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await gone(pid)
    await caller.executor.close()


async def test_what_a_tool_prints_disturbs_nothing(call: Caller, capfd: pytest.CaptureFixture[str]) -> None:
    assert (await call("talk")).value == "said"
    assert (await call("close_outputs")).value == "closed"
    assert (await call("who")).status == "done"


async def test_a_sound_process_is_used_again_and_an_idle_one_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "IDLE_SEC", 0.2)
    caller = Caller()
    one, two = (await caller("who")).value, (await caller("who")).value
    assert one["pid"] == two["pid"]  # type: ignore[index]  # it is a dict
    await only_idle_workers(0)
    three = (await caller("who")).value
    assert three["pid"] != one["pid"]  # type: ignore[index]  # it is a dict
    await caller.executor.close()


async def test_an_async_tool_that_asks_for_a_process_has_one(call: Caller) -> None:
    outcome = await call("asynchronous")
    assert (outcome.status, outcome.value == os.getpid()) == ("done", False)


async def test_limits_hold_and_processor_time_is_that_of_a_call(tmp_path: Path) -> None:
    limits = ToolLimits(memory_mb=512, cpu_sec=1, open_files=64, file_mb=1)
    caller = Caller(tool_limits=limits, tool_timeout_sec=PATIENCE_SEC)
    assert str((await caller("compute")).error).startswith("its process was ended by signal 24")
    assert str((await caller("allocate", mib=600)).error).startswith("MemoryError")
    written_file = await caller("files", mark=str(tmp_path / "file"))
    assert "File too large" in str(written_file.error)
    assert (await caller("who")).status == "done"
    await caller.executor.close()


async def test_executors_of_one_loop_share_processes_and_the_last_one_ends_them() -> None:
    one, two = Caller(), Caller()
    first, second = (await one("who")).value, (await two("who")).value
    assert first["pid"] == second["pid"]  # type: ignore[index]  # it is a dict
    await one.executor.close()
    assert lives(first["pid"])  # type: ignore[index]  # it is a dict
    await two.executor.close()
    assert not lives(first["pid"])  # type: ignore[index]  # it is a dict
    assert (await one("who")).status == "done", "it can be used again"
    await one.executor.close()


async def test_a_guard_that_is_killed_takes_its_workers_along_and_another_one_follows(
    call: Caller, tmp_path: Path
) -> None:
    caller = Caller(tool_timeout_sec=600)
    running = asyncio.create_task(caller("hang", mark=str(tmp_path / "mark")))
    pid = await written(tmp_path / "mark")
    (guard,) = [one for one in children_of_mine() if pid in descendants(one)]
    os.kill(guard, signal.SIGKILL)
    assert (await asyncio.wait_for(running, PATIENCE_SEC)).status == "failed"
    await gone(pid, guard)
    assert (await caller("who")).status == "done"
    await caller.executor.close()


PROGRAM = """
import asyncio, sys
from pathlib import Path
from converge.core.decisions import InvokeTool
from converge.core.tools import ToolRegistry, tool
from converge.runtime.executor import StandardExecutor

Path(sys.argv[1] + f".{__name__}").touch()

@tool
def hang(mark: str) -> None:
    import os, subprocess, time
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    Path(mark).write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)

async def main() -> None:
    tools = ToolRegistry()
    tools.register(hang)
    await StandardExecutor("me", tool_registry=tools).execute([InvokeTool("hang", {"mark": sys.argv[1]})])

if __name__ == "__main__":
    asyncio.run(main())
"""


async def test_a_tool_of_a_program_ends_with_it_though_it_is_killed(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    mark = tmp_path / "mark"
    program = await asyncio.create_subprocess_exec(sys.executable, str(tmp_path / "program.py"), str(mark))
    try:
        await until(lambda: len(numbers_in(mark)) == 2)
    finally:
        program.kill()
        await program.wait()
    await gone(*numbers_in(mark))
    assert {name for name in os.listdir(tmp_path) if name.startswith("mark.")} == {"mark.__main__", "mark.__mp_main__"}


# how another process finds a tool


class Stateless:
    name = "stateless"

    def run(self, params: Any) -> int:
        return os.getpid()


class Stateful:
    name = "stateful"

    def __init__(self) -> None:
        self.calls = 0

    def run(self, params: Any) -> int:
        return os.getpid()


a_global = Stateful()


@tool(isolation="process")
def greet() -> str:
    return current_call().tool


@pytest.mark.parametrize("found", [greet, Stateless(), a_global], ids=["function", "stateless", "global"])
def test_a_tool_that_another_process_can_import_is_found_by_its_name(found: Any) -> None:
    reference = ToolReference.of(found)
    assert type(reference.resolve()) is type(found)
    assert reference.module == __name__


def local_tools() -> list[Any]:
    class Local:
        name = "local"

        def run(self, params: Any) -> None: ...

    @tool
    def local() -> None: ...

    return [Local(), local, Stateful()]


@pytest.mark.parametrize("index", range(3), ids=["local class", "local function", "state"])
async def test_a_tool_that_no_other_process_can_import_runs_in_a_thread_or_is_refused_a_process(index: int) -> None:
    unknown = local_tools()[index]
    with pytest.raises(ToolNotImportable, match="cannot be found by another process"):
        ToolReference.of(unknown)
    registry = ToolRegistry()
    registry.register(unknown)
    for isolation, status in (("auto", "done"), ("process", "failed")):
        executor = StandardExecutor("me", tool_registry=registry, tool_isolation=isolation)  # type: ignore[arg-type]  # one of them
        (outcome,) = await executor.execute([InvokeTool(unknown.name)])
        assert outcome.status == status
        assert isolation == "auto" or str(outcome.error).startswith("ToolNotImportable: ")
        await executor.close()


@pytest.mark.parametrize(
    "options", [{"memory_mb": 0}, {"cpu_sec": -1}, {"open_files": 1.5}, {"file_mb": True}, {"processes": "many"}]
)
def test_a_limit_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a limit of a tool's process is an int above 0, or None"):
        ToolLimits(**options)


def test_a_pool_needs_a_worker() -> None:
    with pytest.raises(ValueError, match="a pool has at least one worker, not 0"):
        ToolPool(0)


def test_outside_of_a_call_there_is_none() -> None:
    with pytest.raises(RuntimeError, match="there is no call"):
        current_call()


async def test_the_clock_of_a_call_starts_when_its_tool_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_to_import.py").write_text(
        "import time\ntime.sleep(1.0)\nfrom converge.core.tools import tool\n@tool\ndef quick() -> int:\n    return 1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    begun = time.monotonic()
    import slow_to_import  # type: ignore[import-not-found]  # made above

    assert time.monotonic() - begun >= 1.0
    registry = ToolRegistry()
    registry.register(slow_to_import.quick)
    executor = StandardExecutor("me", tool_registry=registry, tool_timeout_sec=0.7)
    (outcome,) = await executor.execute([InvokeTool("quick")])
    assert (outcome.status, outcome.value) == ("done", 1)
    await executor.close()
