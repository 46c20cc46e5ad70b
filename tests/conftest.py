"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes is up to the machine and to what runs beside it: no test is timed.
settings.register_profile("converge", deadline=None)
settings.load_profile("converge")
