"""Which decisions a person has to allow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from attrs import Attribute, field, frozen

from converge.core.decisions import InvokeTool
from converge.policy.errors import PolicyOptionError

if TYPE_CHECKING:
    from converge.core.decisions import Decision

__all__ = ["DEFAULT_TIMEOUT_SEC", "ApprovalPolicy"]

DEFAULT_TIMEOUT_SEC = 86_400.0
"""How long a decision waits unless told otherwise: a day."""


def _names(value: object) -> frozenset[str]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise PolicyOptionError("ApprovalPolicy", "needed_for", f"is {value!r}; give a list of decision names")
    names = list(value)
    for name in names:
        if not isinstance(name, str) or not name or name.endswith(":"):
            raise PolicyOptionError(
                "ApprovalPolicy",
                "needed_for",
                f'contains {name!r}; write "SubmitTask" or "InvokeTool:NAME"',
            )
        kind, colon, _ = name.partition(":")
        if colon and kind != InvokeTool.__name__:
            raise PolicyOptionError(
                "ApprovalPolicy", "needed_for", f'contains {name!r}; only "InvokeTool:NAME" names a part of a kind'
            )
    return frozenset(names)


def _check_timeout(policy: object, attribute: Attribute[float], value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise PolicyOptionError("ApprovalPolicy", "timeout_sec", f"is {value!r}; it is seconds, finite and above 0")


@frozen
class ApprovalPolicy:
    """Decisions that wait for a person, by the name of their class, or `"InvokeTool:NAME"` for one tool.

    One that nobody has answered after `timeout_sec` seconds is refused. Subclass it and override `asks` for a rule of
    your own.
    """

    needed_for: frozenset[str] = field(converter=_names)
    timeout_sec: float = field(default=DEFAULT_TIMEOUT_SEC, validator=_check_timeout)

    def asks(self, name: str, decision: Decision) -> bool:
        """Whether a person has to allow `decision`, which is carried out by the handler of the class `name`.

        Called from any thread, before each decision. What it raises refuses the decision.
        """
        if name in self.needed_for:
            return True
        return isinstance(decision, InvokeTool) and f"{InvokeTool.__name__}:{decision.tool_name}" in self.needed_for
