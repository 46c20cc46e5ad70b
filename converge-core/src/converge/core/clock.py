"""The clock that leases and windows are measured with, so that tests can bring their own."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """Where managers take the time from."""

    def time(self) -> float:
        """Unix seconds: what is stored, because another host or a reboot must be able to read it."""

    def monotonic(self) -> float:
        """Seconds that never step back, with a meaning in this process only."""


class SystemClock:
    """The clock of this machine."""

    def time(self) -> float:
        """Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some moment of this boot."""
        return time.monotonic()
