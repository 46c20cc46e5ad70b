"""Processes that use the same data: started, told and heard line by line, and none of them left behind."""
# shipped to authors

from __future__ import annotations

import base64
import contextlib
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable


__all__ = ["Call", "Child", "Children", "within"]

_WORKER = Path(__file__).with_name("worker.py")
T = TypeVar("T")


class Children:
    """Starts processes that open the data of `opener`, and ends all of them when its block is left.

    Each is a fresh interpreter, never a fork of this one. What takes longer than `patience` seconds is taken for
    blocked and is an `AssertionError`.
    """

    def __init__(self, opener: Callable[..., object], patience: float = 30.0, worker: Path = _WORKER) -> None:
        self._worker = worker
        try:
            self._opener = pickle.dumps(opener)
        except Exception as error:
            raise TypeError(
                f"the fixture `opener` cannot be pickled ({error}): give functools.partial of a class or function at "
                "the top of a module, not a lambda or a nested function"
            ) from error
        self._patience = patience
        self._started: list[Child] = []

    def start(self, task: str, *arguments: object) -> Child:
        """A process that runs a task of the worker."""
        self._started.append(Child(self._opener, self._patience, task, arguments, self._worker))
        return self._started[-1]

    def go(self, *ready: Child) -> None:
        """Let all of these begin at one instant, when each has said that it is ready."""
        for child in ready:
            assert child.hear() == "ready"
        instant = time.monotonic() + 0.05
        for child in ready:
            child.say(instant)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for child in self._started:
            child.end()


class Child:
    """One process. Its lines are read as they come, so it never waits for this one."""

    def __init__(
        self, opener: bytes, patience: float, task: str, arguments: tuple[object, ...], worker: Path = _WORKER
    ) -> None:
        self._task, self._patience = task, patience
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed in end()
        paths = os.pathsep.join(str(Path(path).absolute()) for path in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(worker), task, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | {"PYTHONPATH": paths},
        )
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._write(base64.b64encode(opener))

    def say(self, value: object) -> None:
        """Give it a line."""
        self._write(json.dumps(value).encode())

    def hear(self) -> Any:  # noqa: ANN401  # what JSON carries
        """The next value that it reports."""
        try:
            line = self._lines.get(timeout=self._patience)
        except queue.Empty:
            raise AssertionError(f"{self._task}: nothing was heard for {self._patience} s; it is blocked") from None
        if line is None:
            self._lines.put(None)
            raise AssertionError(f"{self._task}: the process ended with code {self._code()}\n{self._complaint()}")
        return json.loads(line)

    def finish(self) -> None:
        """Wait for its end, which has to be a good one."""
        self._close_input()
        code = self._code()
        assert code == 0, f"{self._task}: the process ended with code {code}\n{self._complaint()}"

    def pause(self) -> None:
        """Stop it where it stands, where the system can do that."""
        if hasattr(signal, "SIGSTOP"):
            self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """End it where it stands (SIGKILL). A child of its own lives on while the input stays open."""
        self._process.kill()
        self._process.wait()

    def rest(self) -> list[Any]:
        """Whatever it reported and nobody has heard, once it is dead."""
        self._close_input()
        self._reader.join(self._patience)
        said = []
        while (line := self._lines.get(timeout=self._patience)) is not None:
            said.append(json.loads(line))
        return said

    def end(self) -> None:
        """Kill it if it still runs, and free everything."""
        self.kill()
        self._close_input()
        self._reader.join(self._patience)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith(b"\n"):  # else it was killed in the middle of it
                self._lines.put(line)
        self._lines.put(None)

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died; hear() tells how
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()

    def _close_input(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def _code(self) -> int:
        try:
            return self._process.wait(self._patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self._task}: the process did not end within {self._patience} s") from None

    def _complaint(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")


class Call:
    """A call that may block, in a thread of its own from now on."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._value: object = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def ended(self, seconds: float) -> bool:
        """Whether it ends within `seconds` from now."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def result(self, patience: float) -> Any:  # noqa: ANN401  # what the call returns
        """What it returned, or raised; `AssertionError` when it is blocked for `patience` seconds."""
        assert self.ended(patience), f"a call is still blocked after {patience} s"
        if self._error is not None:
            raise self._error
        return self._value

    def _run(self) -> None:
        try:
            self._value = self._work()
        except BaseException as error:  # noqa: BLE001  # raised again in the thread of the test
            self._error = error


def within(patience: float, work: Callable[[], T]) -> T:
    """What `work` returns; `AssertionError` when it is blocked for `patience` seconds."""
    value: T = Call(work).result(patience)
    return value
