"""What the constraints of a task mean for its life. `cpu` and `memory_mb` are for the executor's limits instead."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from converge.core.plain import Plain

    Constraints = Mapping[str, Plain]

__all__ = [
    "DEFAULT_CLAIM_TTL_SEC",
    "DEFAULT_MAX_ATTEMPTS",
    "MAX_RETRY_PAUSE_SEC",
    "award_only",
    "check_constraints",
    "claim_ttl_sec",
    "deadline",
    "max_attempts",
    "max_retries",
    "retry_pause_sec",
    "timeout_sec",
]

DEFAULT_CLAIM_TTL_SEC = 300.0
DEFAULT_MAX_ATTEMPTS = 20
"""Claims before a task that never ends is given up; the delivery limit of RabbitMQ's quorum queues."""

MAX_RETRY_PAUSE_SEC = 3600.0
"""No pause before a retry is longer."""

_DURATIONS = ("claim_ttl_sec", "timeout_sec")
_LEAST = {"max_retries": 0, "max_attempts": 1}


def check_constraints(constraints: Constraints) -> None:
    """`ValueError` unless each constraint that decides over the task's life is a number that makes sense."""
    for name in (*_DURATIONS, "deadline", "retry_backoff_sec"):
        seconds = constraints.get(name)
        if seconds is None:
            continue
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
            raise ValueError(f"the constraint {name} is a finite number of seconds, not {seconds!r}")
        if name in _DURATIONS and seconds <= 0:
            raise ValueError(f"the constraint {name} is above 0, not {seconds!r}")
        if name == "retry_backoff_sec" and seconds < 0:
            raise ValueError(f"the constraint {name} is at least 0, not {seconds!r}")
    for name, least in _LEAST.items():
        count = constraints.get(name)
        if count is not None and (type(count) is not int or count < least):
            raise ValueError(f"the constraint {name} is an int of at least {least}, not {count!r}")
    if not isinstance(constraints.get("award_only"), bool | None):
        raise ValueError(f"the constraint award_only is true or false, not {constraints['award_only']!r}")


def claim_ttl_sec(constraints: Constraints) -> float:
    """How long a claim lives from its last renewal, in seconds."""
    return _number(constraints, "claim_ttl_sec", DEFAULT_CLAIM_TTL_SEC)


def timeout_sec(constraints: Constraints) -> float:
    """How long one attempt may take, in seconds."""
    return _number(constraints, "timeout_sec", math.inf)


def deadline(constraints: Constraints) -> float:
    """The Unix time after which nobody may start."""
    return _number(constraints, "deadline", math.inf)


def max_retries(constraints: Constraints) -> float:
    """How often a claimant may fail the task without ending it."""
    return _number(constraints, "max_retries", 0)


def retry_pause_sec(constraints: Constraints, failures: int) -> float:
    """How long the task waits after it failed for the `failures`-th time: twice as long each time, an hour at most."""
    first = _number(constraints, "retry_backoff_sec", 0.0)
    return min(first * 2.0 ** min(failures - 1, 64), MAX_RETRY_PAUSE_SEC)


def award_only(constraints: Constraints) -> bool:
    """Whether the task is awarded to somebody, so that nobody else may claim it."""
    return constraints.get("award_only") is True


def max_attempts(constraints: Constraints) -> float:
    """How many claims there may be in all."""
    given = constraints.get("max_retries") is not None
    return _number(constraints, "max_attempts", max_retries(constraints) + 1 if given else DEFAULT_MAX_ATTEMPTS)


def _number(constraints: Constraints, name: str, default: float) -> float:
    value = constraints.get(name)
    return value if isinstance(value, int | float) else default
