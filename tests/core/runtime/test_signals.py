"""A request to stop, in processes that are really told to."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from converge.runtime.signals import stop_signals

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = """
import asyncio, os, signal, sys, time
from converge.runtime.signals import stop_signals


async def wait(request, early):
    stop = asyncio.Event()
    if early:
        os.kill(os.getpid(), signal.SIGTERM)
    request.sets(stop)
    print("ready", flush=True)
    await stop.wait()
    print("stopped", flush=True)


with stop_signals(signal.SIGTERM, signal.SIGINT, limit_sec=float(sys.argv[2])) as request:
    if sys.argv[1] == "stuck":
        print("ready", flush=True)
        while True:
            time.sleep(0.01)
    asyncio.run(wait(request, sys.argv[1] == "early"))
os.kill(os.getpid(), signal.SIGTERM)
print(signal.Signals(request.number).name, flush=True)
os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.fixture
def started(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *request.param], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("started", [("wait", "60")], indirect=True)
def test_the_first_signal_is_the_request_and_those_after_it_are_nothing_until_the_process_is_gone(
    started: subprocess.Popen[str],
) -> None:
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=60)
    assert (out, err, started.returncode) == ("stopped\nSIGINT\n", "", 0)


@pytest.mark.parametrize("started", [("early", "60")], indirect=True)
def test_a_request_that_came_before_anybody_waits_for_it_counts(started: subprocess.Popen[str]) -> None:
    out, err = started.communicate(timeout=60)
    assert (out, err, started.returncode) == ("ready\nstopped\nSIGTERM\n", "", 0)


@pytest.mark.parametrize("started", [("stuck", "0.05")], indirect=True)
def test_a_process_that_something_blocks_says_where_and_ends(started: subprocess.Popen[str]) -> None:
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    started.send_signal(signal.SIGTERM)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 1
    assert "most recent call first" in err


def test_without_a_request_the_signals_are_handled_as_before() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_signals(signal.SIGTERM, limit_sec=60) as request:
        assert signal.getsignal(signal.SIGTERM) == request.handle
    assert signal.getsignal(signal.SIGTERM) == before
    assert request.number is None
