"""What a decision may use up, and which decisions are allowed at all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attrs import Attribute, field, frozen

from converge.policy.errors import PolicyOptionError
from converge.policy.options import is_amount

__all__ = ["ActionPolicy", "ResourceLimits", "validate_safety"]


def _check_limit(limits: object, attribute: Attribute[Any], value: object) -> None:
    if not is_amount(value):
        raise PolicyOptionError(
            type(limits).__name__, attribute.name, f"is {value!r}; a limit is a finite number, at least 0"
        )


@frozen
class ResourceLimits:
    """The most that one task may ask for. Processor time is in tokens of the deployment's choice, 1.0 being a core."""

    max_cpu_tokens: float = field(default=1.0, validator=_check_limit)
    max_memory_mb: float = field(default=512, validator=_check_limit)
    max_network_requests: int = field(default=100, validator=_check_limit)


def _names(value: object) -> frozenset[str] | None:
    if value is None:
        return None
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise PolicyOptionError(
            "ActionPolicy", "allowed_actions", f"is {value!r}; give a list of decision names, or None"
        )
    names = list(value)
    for name in names:
        if not isinstance(name, str) or not name:
            raise PolicyOptionError("ActionPolicy", "allowed_actions", f"contains {name!r}; a decision's name is a str")
    return frozenset(names)


@frozen
class ActionPolicy:
    """The decisions that are allowed, by the name of their class: None allows all, an empty list none."""

    allowed_actions: frozenset[str] | None = field(default=None, converter=_names)

    def is_allowed(self, name: str) -> bool:
        """Whether a decision of this name may be executed."""
        return self.allowed_actions is None or name in self.allowed_actions


def validate_safety(limits: ResourceLimits, cpu: float, mem: float) -> bool:
    """Whether `cpu` tokens and `mem` megabytes are within `limits`.

    False as well for what is no amount at all: not a number, NaN, infinite, negative, a bool.
    """
    return is_amount(cpu) and is_amount(mem) and cpu <= limits.max_cpu_tokens and mem <= limits.max_memory_mb
