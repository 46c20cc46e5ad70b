"""Messages between the agents of many processes and hosts, through a hub that knows each agent by its key.

`WebSocketTransport` connects an agent to a hub, `WebSocketHub` is one; `converge hub` runs it from the command line.
"""

from converge.network.transport.websocket.errors import (
    CloseCode,
    HubBusy,
    HubRefused,
    HubUnreachable,
    InsecureConnection,
    ProtocolViolation,
)
from converge.network.transport.websocket.hub import WebSocketHub
from converge.network.transport.websocket.limits import HubLimits
from converge.network.transport.websocket.transport import WebSocketOptions, WebSocketTransport

__all__ = [
    "CloseCode",
    "HubBusy",
    "HubLimits",
    "HubRefused",
    "HubUnreachable",
    "InsecureConnection",
    "ProtocolViolation",
    "WebSocketHub",
    "WebSocketOptions",
    "WebSocketTransport",
]
