"""The processes of a run: started, watched, restarted, and stopped together."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from attrs import define, field

from converge.coordination.task_manager import TaskManager
from converge.observability.metrics import Family, MetricsCollector
from converge.runtime.application import Application, OnProgress, Watch, check, open_store, reporting
from converge.runtime.child import EXIT_CONFIG
from converge.runtime.config import Config
from converge.runtime.endpoint import of_processes, serving
from converge.runtime.errors import ConfigError, ProcessFailed
from converge.runtime.keys import members
from converge.runtime.reports import Reporter
from converge.runtime.run_lock import run_lock

__all__ = ["OnOutput", "run"]

OnOutput = Callable[[str, bool], None]
"""Takes a line that a process printed, and whether it was to its standard error."""

_STOP_GRACE_SEC = 15.0
_MAX_RESTARTS = 5
_RESTART_WINDOW_SEC = 30.0
_LINE_LIMIT = 1024 * 1024
_log = logging.getLogger(__name__)


async def run(
    config: Config,
    *,
    settings: Sequence[str] = (),
    on_progress: OnProgress | None = None,
    on_output: OnOutput | None = None,
    on_listening: Callable[[str], None] | None = None,
    stop: asyncio.Event | None = None,
    log_level: int = logging.WARNING,
    debug: bool = False,
) -> bool:
    """Run `config` until the agents named by `until` have ended (True) or `stop` is set (False).

    With `[run] processes = 1` the agents run here. With more they run in child processes, which are new interpreters
    (never forks) and end with this one, however it ends; a child that dies is started again, at most 5 times within
    30 seconds. `settings` are those that `config` was loaded with. Lines that children print go to `on_output`.

    Raises `ConfigError` and `PluginError` for what is wrong with the configuration, `AlreadyRunning` when a run of it
    is alive, `AgentFailed` or `ProcessFailed` when agents keep dying.
    """
    check(config)
    stop = asyncio.Event() if stop is None else stop
    with run_lock(config.state) as lock:
        if config.run.processes == 1:
            return await Application(config, watch=_watch(config, on_listening)).run(on_progress, stop)
        members(config)  # makes the keys, so that the children only read them
        async with AsyncExitStack() as stack:
            if on_progress is not None:
                tasks = TaskManager(stack.enter_context(open_store(config)))
                stack.push_async_callback(reporting(tasks, on_progress))
            order = {"config": str(config.file), "settings": list(settings), "log_level": log_level, "debug": debug}
            supervisor = _Supervisor(config, order, lock, on_output or _pass_on)
            ask = of_processes(supervisor.reporters, supervisor.families)
            await stack.enter_async_context(serving(config, ask, on_listening or _log_url))
            return await supervisor.run(stop)


def _watch(config: Config, on_listening: Callable[[str], None] | None) -> Watch:
    return lambda observed: serving(config, observed.report, on_listening or _log_url)


def _log_url(url: str) -> None:
    _log.info("/health, /ready and /metrics at %s", url)


def _pass_on(line: str, is_error: bool) -> None:
    print(line, file=sys.stderr if is_error else sys.stdout, flush=True)  # the output of the children


@define(eq=False)
class _Supervisor:
    _config: Config
    _order: dict[str, object]
    _lock: int
    _on_output: OnOutput
    _children: dict[int, asyncio.subprocess.Process] = field(factory=dict)
    _restarts: list[float] = field(factory=list)
    _metrics: MetricsCollector = field(factory=MetricsCollector)
    reporters: dict[int, Reporter | None] = field(factory=dict)
    _ending: bool = False

    def families(self) -> list[Family]:
        """What this process has counted itself, and what it knows of the others."""
        self._metrics.gauge("converge_processes", len(self._children))
        return self._metrics.collect()

    async def run(self, stop: asyncio.Event) -> bool:
        count = self._config.run.processes
        stopping: asyncio.Task[object] = asyncio.create_task(stop.wait())
        lives: dict[asyncio.Task[object], int] = {
            asyncio.create_task(self._live(process)): process for process in range(count)
        }
        ending = self._processes_that_end_it()
        try:
            while True:
                done, _ = await asyncio.wait({*lives, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if stopping in done:
                    return False
                for life in done:
                    ending.discard(lives.pop(life))
                    life.result()
                if not ending or not lives:
                    return True
        finally:
            self._ending = True
            stopping.cancel()
            await self._stop_all()
            await asyncio.wait({stopping, *lives})

    def _processes_that_end_it(self) -> set[int]:
        """The processes with agents named by `until`: each ends by itself when those have. All, without `until`."""
        names = [agent.name for agent in self._config.agents for _ in range(agent.count)]
        until, count = self._config.run.until, self._config.run.processes
        return {n % count for n, name in enumerate(names) if until in (None, name)}

    async def _live(self, process: int) -> None:
        """One process, started again when it dies, until it ends by itself."""
        self.reporters[process] = None
        while not self._ending:
            code = await self._once(process)
            if code == 0 or self._ending:
                self.reporters.pop(process, None)
                return
            if code == EXIT_CONFIG:
                raise ConfigError(self._config.file.name, f"process {process} cannot run it; its error is above")
            now = asyncio.get_running_loop().time()
            self._restarts = [at for at in self._restarts if now - at < _RESTART_WINDOW_SEC]
            if len(self._restarts) >= _MAX_RESTARTS:
                raise ProcessFailed(
                    f"processes of this run died {_MAX_RESTARTS + 1} times within {_RESTART_WINDOW_SEC:.0f} s, "
                    f"the last one was process {process} with {_how(code)}; see its log"
                )
            self._restarts.append(now)
            self._metrics.inc("converge_process_restarts_total")
            _log.warning("process %d ended with %s; it is started again", process, _how(code))

    async def _once(self, process: int) -> int:
        reporter = Reporter()
        order = {**self._order, "process": process, "reports": reporter.theirs.fileno()}
        try:
            return await self._one_life(process, order, reporter)
        finally:
            self.reporters[process] = None
            reporter.close()

    async def _one_life(self, process: int, order: dict[str, object], reporter: Reporter) -> int:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-u", "-m", "converge.runtime.child", json.dumps(order)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=(self._lock, reporter.theirs.fileno()),
            limit=_LINE_LIMIT,
        )
        self._children[process] = child
        reporter.theirs.close()  # the child has it now; with both ends here its end would not be seen
        self.reporters[process] = reporter
        try:
            jobs = [self._forward(child.stdout, False), self._forward(child.stderr, True)]
            if self._ending:  # the run was stopped while this process was being started
                jobs.append(_end([child]))
            await asyncio.gather(*jobs)
            return await child.wait()
        finally:
            if child.returncode is not None:
                self._children.pop(process, None)

    async def _forward(self, stream: asyncio.StreamReader | None, is_error: bool) -> None:
        assert stream is not None  # a pipe was asked for
        while True:
            try:
                line = await stream.readline()
            except ValueError:
                line = b"(a line of more than 1 MiB is left out)"
            if not line:
                return
            self._on_output(line.decode(errors="replace").rstrip("\n"), is_error)

    async def _stop_all(self) -> None:
        await _end([child for child in self._children.values() if child.returncode is None])


async def _end(children: Sequence[asyncio.subprocess.Process]) -> None:
    """SIGTERM to all, and SIGKILL to those that have not ended in time."""
    for child in children:
        child.send_signal(signal.SIGTERM)
    if not children:
        return
    _, late = await asyncio.wait({asyncio.create_task(child.wait()) for child in children}, timeout=_STOP_GRACE_SEC)
    for child in children:
        if late and child.returncode is None:
            _log.error("process %d did not stop within %s s and is killed", child.pid, _STOP_GRACE_SEC)
            child.kill()
            await child.wait()


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
