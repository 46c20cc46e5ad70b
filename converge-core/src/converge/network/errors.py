"""The errors of `converge.network`."""

from __future__ import annotations

from converge.core.errors import ConvergeError

__all__ = ["DescriptorRefused", "TransportClosed", "Undeliverable"]


class DescriptorRefused(ConvergeError, ValueError):
    """A descriptor cannot be taken in, or taken out, as it was asked. Attributes: `agent_id` and `reason`."""

    def __init__(self, agent_id: str, reason: str) -> None:
        super().__init__(f"the descriptor of {agent_id[:80]!r} is refused: {reason}")
        self.agent_id, self.reason = agent_id, reason

    def __reduce__(self) -> tuple[type[DescriptorRefused], tuple[str, str]]:
        return type(self), (self.agent_id, self.reason)


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
