"""Tools that misbehave, in a module that their processes import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from converge.core.tool_call import current_call
from converge.core.tools import tool

_HOLD = "import time; time.sleep(600)"


@tool
def hang(mark: str) -> None:
    Path(mark).write_text(str(os.getpid()))
    time.sleep(600)


@tool
def hang_for_good() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    while True:
        try:
            time.sleep(600)
        except BaseException:
            continue


@tool
def late(mark: str) -> None:
    time.sleep(1.0)
    Path(mark).write_text("late")


@tool
def fail() -> None:
    raise LookupError("nothing there")


@tool
def leave(code: int) -> None:
    sys.exit(code)


@tool
def end(code: int) -> None:
    os._exit(code)


@tool
def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@tool
def allocate(mib: int) -> int:
    return len(bytearray(mib << 20))


@tool
def large(size: int) -> str:
    return "x" * size


@tool
def compute() -> None:
    while True:
        pass


@tool
def talk() -> str:
    os.write(1, b"to standard output\n")
    sys.stderr.write("to standard error\n")
    return "said"


@tool
def close_outputs() -> str:
    os.close(1)
    os.close(2)
    return "closed"


@tool
def close_everything() -> str:
    os.closerange(0, 256)
    return "closed"


@tool
def child(mark: str, wait: bool, escape: bool) -> str:
    """Starts a process that goes on for long, in a session of its own if it is to escape; and waits for it."""
    started = subprocess.Popen([sys.executable, "-c", _HOLD], start_new_session=escape)
    Path(mark).write_text(str(started.pid))
    if wait:
        started.wait()
    return "started"


@tool
def daemon(mark: str, wait: bool) -> str:
    """Forks twice, as a daemon does, so that what is left has nobody but init."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            Path(mark).write_text(str(os.getpid()))
            time.sleep(600)
        os._exit(0)
    os.wait()
    while not (Path(mark).exists() and Path(mark).read_text()):
        time.sleep(0.01)
    if wait:
        time.sleep(600)
    return "left"


@tool
def bomb(count: int) -> None:
    """Forks `count` processes that fork others when they can, each in a session of its own."""
    for _ in range(count):
        if os.fork() == 0:
            os.setsid()
            for _ in range(3):
                os.fork()
            time.sleep(600)
    time.sleep(600)


@tool
def who() -> dict[str, object]:
    call = current_call()
    return {"pid": os.getpid(), "key": call.idempotency_key, "agent": call.agent_id, "timeout": call.timeout_sec}


@tool
def odd() -> object:
    return {1, 2}


@tool
def files(mark: str) -> int:
    with Path(mark).open("wb") as file:
        return file.write(b"x" * (2 << 20))


@tool(isolation="process")
async def asynchronous() -> int:
    import asyncio

    await asyncio.sleep(0)
    return os.getpid()
