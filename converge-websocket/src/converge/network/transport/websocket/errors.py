"""The errors of the WebSocket transport and of its hub.

ProtocolViolation  (ValueError)       the other side sent what the protocol does not allow
HubUnreachable     (ConnectionError)  no connection could be made
└── HubBusy                           one was made, and the hub dropped it before it was open
HubRefused         (ConnectionError)  the hub, or its proof of who it is, was not accepted, or the hub did not accept us
InsecureConnection (ValueError)       the configuration would connect or listen without proof of who is there
"""

from __future__ import annotations

from enum import IntEnum

from converge.core.errors import ConvergeError

__all__ = ["CloseCode", "HubBusy", "HubRefused", "HubUnreachable", "InsecureConnection", "ProtocolViolation"]


class CloseCode(IntEnum):
    """Why a side closes a connection: codes of RFC 6455 section 7.4.1, and of its private range 4000 to 4999."""

    NORMAL = 1000
    GOING_AWAY = 1001
    MALFORMED = 4400
    UNAUTHENTICATED = 4401
    FORBIDDEN = 4403
    TOO_SLOW = 4408
    REPLACED = 4409
    TOO_MANY = 4429


class ProtocolViolation(ConvergeError, ValueError):
    """The other side sent what the protocol does not allow; its connection is closed with `code`.

    Attributes: `code` and `reason`.
    """

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(f"{reason} (closed with {int(code)})")
        self.code, self.reason = code, reason

    def __reduce__(self) -> tuple[type[ProtocolViolation], tuple[CloseCode, str]]:
        return type(self), (self.code, self.reason)


class HubUnreachable(ConvergeError, ConnectionError):
    """No connection to the hub could be made. Attributes: `uri` and `reason`."""

    def __init__(self, uri: str, reason: str) -> None:
        super().__init__(f"no hub can be reached at {uri}: {reason}; start one with `converge hub`, or correct the uri")
        self.uri, self.reason = uri, reason

    def __reduce__(self) -> tuple[type[HubUnreachable], tuple[str, str]]:
        return type(self), (self.uri, self.reason)


class HubBusy(HubUnreachable):
    """The hub dropped the connection before it was open, as one that has too many does; trying again may help."""


class HubRefused(ConvergeError, ConnectionError):
    """Hub and agent do not accept each other. Attributes: `uri`, `reason`, and the close `code` (0: none was sent)."""

    def __init__(self, uri: str, reason: str, code: int = 0) -> None:
        super().__init__(f"{uri}: {reason}" + (f" (closed with {code})" if code else ""))
        self.uri, self.reason, self.code = uri, reason, code

    def __reduce__(self) -> tuple[type[HubRefused], tuple[str, str, int]]:
        return type(self), (self.uri, self.reason, self.code)


class InsecureConnection(ConvergeError, ValueError):
    """The configuration would connect, or listen, without any proof of who is at the other end."""
