"""A clock that the test moves, and what the tests of discovery have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from converge.network.discovery import DiscoveryQuery

if TYPE_CHECKING:
    from converge.network.discovery import DiscoveryService

EVERYBODY = DiscoveryQuery()


class ManualClock:
    """Both clocks of one host."""

    def __init__(self, wall: float = 1_700_000_000.0, uptime: float = 1_000.0) -> None:
        self._wall, self._uptime = wall, uptime

    def time(self) -> float:
        return self._wall

    def monotonic(self) -> float:
        return self._uptime

    def advance(self, seconds: float) -> None:
        self._wall += seconds
        self._uptime += seconds

    def step(self, seconds: float) -> None:
        """A step of the wall clock, forwards or back, which the monotonic one does not make."""
        self._wall += seconds


def listed(service: DiscoveryService) -> list[str]:
    """The ids of everybody, as the store has it now."""
    return [found.id for found in service.query(EVERYBODY, refresh_from_store=True)]
