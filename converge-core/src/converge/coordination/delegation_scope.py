"""What a delegation allows: a list of action names, or a dict of action names with limits.

`["read", "write"]` allows both without a limit. `{"read": None, "spend": 100}` allows to read, and to spend up to 100
at a time. A name is matched exactly; there are no patterns. What is not named is not allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from converge.coordination.amounts import amount_of
from converge.core.limits import check_text

if TYPE_CHECKING:
    from converge.coordination.amounts import Amount

__all__ = ["MAX_ACTIONS", "Limits", "Scope", "excess", "limits_of", "permits", "read_scope"]

Limits: TypeAlias = "dict[str, Amount | None]"
"""The most of each action that is allowed; None is no limit."""

Scope: TypeAlias = "list[str] | Limits"
"""A scope as it is given and stored."""

MAX_ACTIONS = 1_000
"""The most actions of one scope."""


def read_scope(scope: object) -> Scope:
    """A copy of `scope` with each name once; `ValueError` or `TypeError` for what is no scope."""
    if isinstance(scope, str | bytes) or not isinstance(scope, Iterable):
        raise ValueError(f"a scope is a list of action names, or a dict of them with limits, not {scope!r}")
    names = [*dict.fromkeys(scope)]
    if not 1 <= len(names) <= MAX_ACTIONS:
        raise ValueError(f"a scope names 1 to {MAX_ACTIONS} actions, not {len(names)}")
    for name in names:
        check_text(name, "the name of an action")
    if not isinstance(scope, Mapping):
        return names
    return {
        name: None if limit is None else amount_of(limit, f"the limit of {name!r}") for name, limit in scope.items()
    }


def limits_of(scope: Scope) -> Limits:
    """Each action of a scope with its limit."""
    return scope if isinstance(scope, dict) else dict.fromkeys(scope)


def excess(outer: Scope, inner: Scope) -> str | None:
    """In what `inner` goes beyond `outer`; None when it is a part of it."""
    known = limits_of(outer)
    for name, limit in limits_of(inner).items():
        if name not in known:
            return f"{name!r} is not in it"
        most = known[name]
        if most is not None and (limit is None or limit > most):
            return f"{name!r} is limited to {most}, and {'no limit' if limit is None else limit} is more"
    return None


def permits(scope: Scope, action: str, amount: object) -> bool:
    """Whether a scope allows `action`; one with a limit needs an amount, which is at most that."""
    limits = limits_of(scope)
    if action not in limits:
        return False
    try:
        asked = None if amount is None else amount_of(amount, "the amount")
    except ValueError:
        return False
    most = limits[action]
    return most is None or (asked is not None and asked <= most)
