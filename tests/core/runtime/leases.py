"""A task manager on a clock that the test moves, whose renewals can be waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from converge.coordination.task_manager import TaskManager
from tests.core.network.discovery_clock import ManualClock
from tests.core.runtime.conftest import until

if TYPE_CHECKING:
    from converge.coordination.claims import Claim
    from converge.core.store import Store


class WatchedLeases(TaskManager):
    """Counts the renewals of claims."""

    def __init__(self, store: Store | None = None) -> None:
        self._moved = ManualClock()
        self._renewals = 0
        super().__init__(store, clock=self._moved)

    def renew_claim(self, agent_id: str, task_id: str, *, claim: Claim | None = None) -> Claim:
        renewed = super().renew_claim(agent_id, task_id, claim=claim)
        self._renewals += 1
        return renewed

    async def outlive(self, ttl: float) -> None:
        """Let longer pass than a claim lives, but not before it was renewed: a machine that stalls ends no lease."""
        for number in range(self._renewals, self._renewals + 3):
            self._moved.advance(ttl / 2)
            await until(lambda: self._renewals > number)  # noqa: B023  # it is awaited here
