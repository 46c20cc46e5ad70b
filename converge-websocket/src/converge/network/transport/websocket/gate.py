"""Which connections a hub keeps: bounds on all, on those of one address, and on those that have proved nothing yet."""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from converge.network.transport.websocket.limits import HubLimits

__all__ = ["Gate", "Turned"]

_C = TypeVar("_C")

Turned = Literal["total", "address"]
"""Which bound turns a new connection away."""


class Gate(Generic[_C]):
    """Keeps count of connections, which may be any hashable objects; pure."""

    def __init__(self, limits: HubLimits) -> None:
        self._limits = limits
        self._addresses: dict[_C, str] = {}
        self._strangers: dict[_C, None] = {}  # in the order in which they came
        self._per_address: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._addresses)

    @property
    def unauthenticated(self) -> int:
        """How many have not proved a key yet."""
        return len(self._strangers)

    def connections(self) -> list[_C]:
        """All of them."""
        return list(self._addresses)

    def open(self, connection: _C, address: str) -> Turned | None:
        """Take `connection` in, or say which bound it is over."""
        bounded = not _is_loopback(address)
        if len(self._addresses) >= self._limits.max_connections and not self._strangers:
            return "total"
        if bounded and self._per_address[address] >= self._limits.max_per_address:
            return "address"
        self._addresses[connection] = address
        self._strangers[connection] = None
        self._per_address[address] += bounded
        return None

    def surplus(self) -> _C | None:
        """The oldest stranger, when there are too many of them or too many in all; else None."""
        limits = self._limits
        if len(self._strangers) > limits.max_unauthenticated or len(self._addresses) > limits.max_connections:
            return next(iter(self._strangers), None)
        return None

    def authenticated(self, connection: _C) -> None:
        """`connection` has proved a key."""
        self._strangers.pop(connection, None)

    def close(self, connection: _C) -> None:
        """Forget `connection`; one that was not taken in is no error."""
        address = self._addresses.pop(connection, None)
        self._strangers.pop(connection, None)
        if address is not None and self._per_address[address] <= 1:
            del self._per_address[address]
        elif address is not None:
            self._per_address[address] -= 1


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False
