"""What a configuration may say about the built-in executors."""

from __future__ import annotations

import math
from typing import Any

from attrs import Attribute, field, frozen, validators

from converge.core.tools import Isolation
from converge.runtime.tools.calls import DEFAULT_TOOL_TIMEOUT_SEC
from converge.runtime.tools.limits import MAX_RESULT_BYTES, ToolLimits

__all__ = ["ProcessExecutorOptions", "StandardExecutorOptions"]


def _unless_endless(seconds: float | None) -> float | None:
    return None if seconds == math.inf else seconds  # TOML has no null, but it has inf


def _check_seconds(_: object, attribute: Attribute[Any], value: float | None) -> None:
    if value is not None and not value > 0:
        raise ValueError(f"{attribute.name} is {value!r}; it is a number of seconds above 0, or inf for no limit")


@frozen(kw_only=True)
class ProcessExecutorOptions:
    """`executor = { use = "process", … }`: how long a call may take in seconds (`inf`: no limit), which tools may be
    called (without a list: all), how large a result may be, and what the process of a call may use.
    """

    tool_timeout_sec: float | None = field(
        default=DEFAULT_TOOL_TIMEOUT_SEC,
        converter=_unless_endless,
        validator=_check_seconds,
    )
    tool_allowlist: list[str] | None = None
    max_result_bytes: int = field(default=MAX_RESULT_BYTES, validator=validators.ge(1))
    tool_limits: ToolLimits = field(factory=ToolLimits)


@frozen(kw_only=True)
class StandardExecutorOptions(ProcessExecutorOptions):
    """`executor = { use = "standard", … }`: the same, and where tools run, over what a tool says of itself."""

    tool_isolation: Isolation = "auto"
