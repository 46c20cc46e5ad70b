"""The errors of `converge.observability`."""

from __future__ import annotations

from converge.core.errors import ConvergeError

__all__ = ["AddressError", "MetricError", "ReplayLogError"]


class MetricError(ConvergeError, ValueError):
    """A metric has a bad name, label or value, or is used as counter and gauge; nothing was recorded."""


class ReplayLogError(ConvergeError, ValueError):
    """A file is not a whole replay log; nothing was loaded. Attributes: `path`, `line` (1 is the first), `reason`."""

    def __init__(self, path: str, line: int, reason: str) -> None:
        super().__init__(f"{path}, line {line}: {reason}; load a file that ReplayLog.export() has written")
        self.path, self.line, self.reason = path, line, reason

    def __reduce__(self) -> tuple[type[ReplayLogError], tuple[str, int, str]]:
        return type(self), (self.path, self.line, self.reason)


class AddressError(ConvergeError, ValueError):
    """An address that cannot be listened on, or must not be. Attributes: `address`, `reason`."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"{address!r}: {reason}")
        self.address, self.reason = address, reason

    def __reduce__(self) -> tuple[type[AddressError], tuple[str, str]]:
        return type(self), (self.address, self.reason)
