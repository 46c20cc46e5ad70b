from __future__ import annotations

import time

from converge.core.clock import Clock, SystemClock


def test_the_system_clock_tells_unix_seconds_and_a_monotonic_reading() -> None:
    clock: Clock = SystemClock()
    before, before_monotonic = time.time(), time.monotonic()
    assert before <= clock.time() <= time.time()
    assert before_monotonic <= clock.monotonic() <= time.monotonic()
