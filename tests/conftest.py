"""What holds for all tests."""

from __future__ import annotations

import gc

from hypothesis import settings

# How long an example takes is up to the machine and to what runs beside it: no test is timed.
settings.register_profile("converge", deadline=None)
settings.load_profile("converge")


def pytest_collection_finish() -> None:
    """Keep the collector off what all test modules have loaded, half a million objects, each time that it runs."""
    gc.collect()
    gc.freeze()
