"""Keeping agents discoverable while they run: one renewer for all the runtimes that share a discovery service."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from converge.network.discovery import DiscoveryService
from converge.network.network import AgentNetwork
from converge.runtime.calls import backoff
from converge.runtime.shared.base import Shared

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["RENEWALS_PER_LEASE", "LeaseRenewer"]

RENEWALS_PER_LEASE = 3
"""How often a lease is renewed in its time, so that it stands after a renewal or two that failed."""

_log = logging.getLogger(__name__)


class LeaseRenewer(Shared[DiscoveryService, str, tuple[str, AgentNetwork]]):
    """Renews all leases a few times in their duration, in one commit. Use `of`.

    Members are kept by the id of their descriptor: the id of the agent, and the network that has registered it.
    """

    NAME = "converge-presence"

    async def _work(self) -> None:
        interval, failures = self._subject.lease_ttl_sec / RENEWALS_PER_LEASE, 0
        while True:
            await asyncio.sleep(min(backoff(failures, interval), interval) if failures else interval)
            kept = dict(self._members)
            try:
                await self._on_store(self._renew, kept)
                failures = 0
            except Exception:  # noqa: BLE001  # a store that is away; logged, and tried again before the leases are over
                failures += 1
                _log.exception("renewing %d descriptors failed (%d in a row)", len(kept), failures)

    def _renew(self, kept: Mapping[str, tuple[str, AgentNetwork]]) -> None:
        for descriptor_id in self._subject.renew_many(kept):
            agent_id, network = kept[descriptor_id]
            if descriptor_id in self._members:
                network.renew_agents([agent_id])
