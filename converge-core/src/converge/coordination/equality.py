"""When two values of plain data are the same, and copies of them."""

from __future__ import annotations

from converge.core.limits import sorted_copy
from converge.core.plain import Plain, pack

__all__ = ["copied", "same"]


def same(one: Plain, other: Plain) -> bool:
    """Whether a store would give back equal values for both.

    The order of keys does not matter, a tuple is a list, and NaN is the same as NaN.
    """
    return one == other or pack(sorted_copy(one)) == pack(sorted_copy(other))


def copied(value: Plain) -> Plain:
    """A copy that shares no list and no dict with `value`."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list | tuple) else value
