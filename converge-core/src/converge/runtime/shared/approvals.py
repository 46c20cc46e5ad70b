"""Noticing what persons have answered: one watch for all the runtimes that share approvals."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from converge.coordination.approvals import Approvals
from converge.runtime.calls import backoff
from converge.runtime.shared.base import Shared

__all__ = ["POLL_INTERVAL_SEC", "ApprovalWatch"]

POLL_INTERVAL_SEC = 0.25
"""How often the store is asked whether a person has answered."""

_MAX_PAUSE_SEC = 5.0
_CLEAN_INTERVAL_SEC = 3600.0
_log = logging.getLogger(__name__)


class ApprovalWatch(Shared[Approvals, str, Callable[[], None]]):
    """Calls its members, the agents that have something to do about an answer. Use `of`."""

    NAME = "converge-approvals"

    async def _work(self) -> None:
        approvals, failures, cleaned = self._subject, 0, 0.0
        while True:
            await asyncio.sleep(backoff(failures, _MAX_PAUSE_SEC) if failures else POLL_INTERVAL_SEC)
            try:
                if approvals.may_have_changed():
                    await self._on_store(approvals.poll)
                for agent_id in approvals.due() & self._members.keys():
                    self._members[agent_id]()
                if time.monotonic() - cleaned > _CLEAN_INTERVAL_SEC:
                    cleaned = time.monotonic()
                    await self._on_store(approvals.forget_old)
                failures = 0
            except Exception:  # noqa: BLE001  # logged, tried again more slowly
                failures += 1
                _log.exception("following the approvals failed (%d in a row)", failures)
