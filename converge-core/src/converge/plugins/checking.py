"""Each plugin imported in a process of its own: the only place where a hanging or exiting import is met safely."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from attrs import frozen

from converge.plugins.installed import PluginInfo

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable


__all__ = ["CheckResult", "Status", "check_plugins"]

Status: TypeAlias = Literal["ok", "broken", "timeout", "incompatible", "ambiguous", "disabled"]

# The parent's path is set before anything else is imported, so that the child finds what the parent would.
_CHILD = """
import json, sys
request = json.loads(sys.argv[1])
sys.path[:] = request["path"]
from converge.plugins.probe import report
report(request["plugin"], request["answer"])
"""


@frozen
class CheckResult:
    """How the import of a plugin went: `detail` says what is wrong, `seconds` how long the process took."""

    plugin: PluginInfo
    status: Status
    detail: str = ""
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether there is nothing to repair: it works, or it is disabled on purpose."""
        return self.status in ("ok", "disabled")


def check_plugins(plugins: Iterable[PluginInfo], timeout: float) -> Generator[CheckResult]:
    """The result for each plugin as it is ready; as many processes at once as there are processors."""
    if not timeout > 0:
        raise ValueError(f"the timeout of a check is a positive number of seconds, not {timeout}")
    return _check_plugins(list(plugins), timeout)


def _check_plugins(plugins: list[PluginInfo], timeout: float) -> Generator[CheckResult]:
    running = _Running()
    with tempfile.TemporaryDirectory(prefix="converge-check-") as folder:
        pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="converge-check")
        try:
            jobs = []
            for index, plugin in enumerate(plugins):
                judged = _without_import(plugin)
                if judged:
                    yield judged
                else:
                    jobs.append(pool.submit(_probe, plugin, Path(folder, str(index)), timeout, running))
            for job in as_completed(jobs):
                yield job.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            running.kill()
            pool.shutdown(wait=True)


def _without_import(plugin: PluginInfo) -> CheckResult | None:
    if plugin.disabled is not None:
        return CheckResult(plugin, "disabled", plugin.disabled)
    if plugin.clash:
        return CheckResult(plugin, "ambiguous", f"also offered by {', '.join(plugin.clash)}; disable or uninstall one")
    return None


class _Running:
    """The processes that are alive, so that none outlives a check that is given up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._alive: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def start(self, command: list[str]) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopped:
                raise RuntimeError("the check was given up")
            null = subprocess.DEVNULL
            process = subprocess.Popen(  # noqa: S603  # our own interpreter and script
                command, stdin=null, stdout=null, stderr=null, start_new_session=True
            )
            self._alive.add(process)
            return process

    def end(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._alive.discard(process)
            _kill_group(process)
        process.wait()

    def kill(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._alive:
                _kill_group(process)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End the process and what it started; it leads a session, so its id is that of its group."""
    if os.name != "posix":
        process.kill()
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):  # all gone; macOS says the latter of zombies
        os.killpg(process.pid, signal.SIGKILL)


def _probe(plugin: PluginInfo, answer: Path, timeout: float, running: _Running) -> CheckResult:
    fields = {"kind": plugin.kind, "name": plugin.name, "distribution": plugin.distribution}
    fields |= {"version": plugin.version, "target": plugin.target}
    request = json.dumps({"path": sys.path, "plugin": fields, "answer": str(answer)})
    started = time.monotonic()
    process = running.start([sys.executable, "-P", "-c", _CHILD, request])
    try:
        code: int | None = process.wait(timeout)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        running.end(process)
    seconds = time.monotonic() - started
    if code is None:
        return CheckResult(plugin, "timeout", f"its import was not done after {timeout:g} s and was killed", seconds)
    status, detail = _read(answer, code)
    return CheckResult(plugin, status, detail, seconds)


def _read(answer: Path, code: int) -> tuple[Status, str]:
    try:
        status, detail = json.loads(answer.read_bytes())
    except (OSError, ValueError):  # it ended before it could say how it went
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return "broken", f"its import ended the process, which {how}"
    return cast("Status", status), detail
