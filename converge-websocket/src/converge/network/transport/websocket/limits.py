"""How much a hub takes from whom, and for how long it waits."""

from __future__ import annotations

from attrs import field, frozen, validators

from converge.core.limits import DEFAULT_FRAME_BYTES, MAX_FRAME_BYTES
from converge.network.transport.websocket.handshake import Terms
from converge.network.transport.websocket.packets import PACKET_OVERHEAD

__all__ = ["HubLimits"]

_at_least_one = validators.ge(1)
_positive = validators.gt(0.0)


@frozen(kw_only=True)
class HubLimits:
    """Bounds of a hub; times in seconds, sizes in bytes."""

    max_connections: int = field(default=1024, validator=_at_least_one)
    """Connections in all, those that are not authenticated yet included."""
    max_per_address: int = field(default=32, validator=_at_least_one)
    """Connections from one address; the loopback addresses have no such bound."""
    max_unauthenticated: int = field(default=64, validator=_at_least_one)
    """Connections that have not proved a key yet; when there is one more, the oldest of them goes."""
    max_message_bytes: int = field(
        default=DEFAULT_FRAME_BYTES, validator=[_at_least_one, validators.le(MAX_FRAME_BYTES)]
    )
    """The largest message (its frame of the wire format)."""
    max_waiting_messages: int = field(default=1024, validator=[_at_least_one, validators.lt(2**32)])
    """Messages that wait for one agent; what comes when so many wait is dropped and counted."""
    max_waiting_bytes: int = field(default=4 * 1024 * 1024, validator=[_at_least_one, validators.lt(2**32)])
    """The same in bytes."""
    max_subscriptions: int = field(default=1024, validator=_at_least_one)
    """Topics of one agent; one that wants more is closed."""
    max_watched: int = field(default=4096, validator=_at_least_one)
    """Agents that one agent is told of when they leave; of further ones it learns when a message is lost."""
    handshake_timeout_sec: float = field(default=5.0, validator=_positive)
    """From the connection to the proof of a key."""
    frame_timeout_sec: float = field(default=10.0, validator=_positive)
    """From the first byte of a WebSocket message to its last."""
    stalled_timeout_sec: float = field(default=10.0, validator=_positive)
    """For how long a reader may take nothing while something waits for it."""
    ping_interval_sec: float = field(default=20.0, validator=_positive)
    """How often a connection is pinged; one that does not answer within as long again is closed."""
    close_timeout_sec: float = field(default=5.0, validator=_positive)
    """For how long the other side may take to end a connection that the hub closes."""
    check_interval_sec: float = field(default=0.5, validator=_positive)
    """How often the time limits are looked at."""

    @property
    def terms(self) -> Terms:
        """What agents are told: half of what may wait for a busy agent is left for what comes meanwhile."""
        return Terms(
            self.max_message_bytes, max(1, self.max_waiting_messages // 2), max(1, self.max_waiting_bytes // 2)
        )

    @property
    def max_packet_bytes(self) -> int:
        """The largest WebSocket message."""
        return self.max_message_bytes + PACKET_OVERHEAD
