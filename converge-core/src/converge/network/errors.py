"""The errors of `converge.network`."""

from __future__ import annotations

from converge.core.errors import ConvergeError

__all__ = ["TransportClosed", "Undeliverable"]


class Undeliverable(ConvergeError, ConnectionError):
    """A message cannot reach anyone, and the sender's transport knows it.

    Attributes: `recipient` (None for a topic or a broadcast) and `reason`.
    """

    def __init__(self, recipient: str | None, reason: str) -> None:
        super().__init__(f"{'message' if recipient is None else f'message to {recipient}'} not sent: {reason}")
        self.recipient, self.reason = recipient, reason

    def __reduce__(self) -> tuple[type[Undeliverable], tuple[str | None, str]]:
        return type(self), (self.recipient, self.reason)


class TransportClosed(ConvergeError, ConnectionError):
    """The transport was used before `start()` or after `stop()`."""
