"""Processes that begin at one instant, so that what they do is a race also on few cores."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["run_at_once"]


def run_at_once(commands: Iterable[Sequence[str]]) -> list[str]:
    """What each Python process printed. Each says that it is ready, and then reads from stdin when to begin."""
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, *command],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for command in commands
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        at = time.time() + 0.05
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(f"{at}\n")
            process.stdin.flush()
        ended = [(*process.communicate(timeout=60), process.returncode) for process in processes]
    assert [(code, err) for _, err, code in ended if code] == []
    return [out for out, _, _ in ended]
