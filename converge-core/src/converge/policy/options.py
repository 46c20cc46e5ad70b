"""The options class of policies that have none, and the checks that options share."""

from __future__ import annotations

from attrs import frozen

from converge.policy.errors import PolicyOptionError

__all__ = ["NoOptions", "check_agent_id", "is_amount"]


@frozen
class NoOptions:
    """No option at all: `{ use = "…" }` is the whole table."""


def check_agent_id(policy: str, option: str, value: object) -> str:
    """`value` itself; `PolicyOptionError` unless it is a non-empty str."""
    if not isinstance(value, str) or not value:
        raise PolicyOptionError(policy, option, f"is {value!r}; an agent id is a non-empty str")
    return value


def is_amount(value: object) -> bool:
    """Whether `value` is an int or a float, finite and not negative. A bool is no amount."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
