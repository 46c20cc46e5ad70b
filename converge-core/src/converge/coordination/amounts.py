"""Amounts of whatever is bid or limited."""

from __future__ import annotations

import math
from typing import TypeAlias

from converge.core.limits import MAX_INT

__all__ = ["Amount", "amount_of"]

Amount: TypeAlias = int | float
"""A finite number, at least 0, in units of the deployment's choice; an int stays one, of 64 bits at most."""


def amount_of(value: object, what: str) -> Amount:
    """`value` as an int or a float; `ValueError` unless it is a finite number of at least 0, and no bool."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{what} is a number, not a {type(value).__name__}")
    if isinstance(value, float):
        if not 0 <= value < math.inf:
            raise ValueError(f"{what} is {value!r}; it is a finite number, at least 0")
        return float(value)
    if not 0 <= value <= MAX_INT:
        raise ValueError(f"{what} is an int below 0 or beyond 64 bits")
    return int(value)
