"""The errors of the command itself."""

from __future__ import annotations

from converge.core.errors import ConvergeError

__all__ = ["DestinationNotEmpty", "SourceTooBusy"]


class DestinationNotEmpty(ConvergeError, ValueError):
    """A copy would go over what is there already. Attributes: `count` of its keys, and the `prefix` of the copy."""

    def __init__(self, count: int, prefix: str) -> None:
        under = f" under {prefix!r}" if prefix else ""
        super().__init__(
            f"the destination has {count} {'key' if count == 1 else 'keys'}{under} already; "
            "copy to an empty one, or replace what it has with --overwrite"
        )
        self.count, self.prefix = count, prefix

    def __reduce__(self) -> tuple[type[DestinationNotEmpty], tuple[int, str]]:
        return type(self), (self.count, self.prefix)


class SourceTooBusy(ConvergeError, RuntimeError):
    """The source of a copy never stood still long enough. Attribute: `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"{reason}, so the copy is of no single instant; pause those who write to the source, "
            "and copy again with --overwrite"
        )
        self.reason = reason

    def __reduce__(self) -> tuple[type[SourceTooBusy], tuple[str]]:
        return type(self), (self.reason,)
