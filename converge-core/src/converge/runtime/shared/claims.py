"""Renewing claims while agents run: one renewer for all the runtimes that share a task manager."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from converge.coordination.task_manager import TaskManager
from converge.runtime.calls import backoff, contained, described
from converge.runtime.shared.alarms import Alarms
from converge.runtime.shared.base import Shared

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["ClaimRenewer"]

_CHECK_SEC = 30.0  # for claims that an agent made by itself, in a `decide` that goes on
_MAX_BACKOFF_SEC = 1.0
_log = logging.getLogger(__name__)


class _Looked(NamedTuple):
    pause: float | None  # until the next renewal; None: the agent holds nothing
    error: Exception | None = None


class ClaimRenewer(Shared[TaskManager, str, Callable[[], None]]):
    """Renews the claims of all its agents, each where a third of its TTL is over. Use `of`.

    A member is called when the renewing of its claims fails. Who holds nothing costs nothing but a place in a dict:
    every 30 s the manager is asked who holds a task. What is due at the same time is done in one hop to the store
    thread.
    """

    NAME = "converge-claims"

    def __init__(self, tasks: TaskManager) -> None:
        super().__init__(tasks)
        self._due: list[tuple[float, str]] = []
        self._at: dict[str, float] = {}  # the entry of `_due` that counts
        self._failures: dict[str, int] = {}
        self._poked: set[str] = set()
        self._waiter: asyncio.Future[None] | None = None

    def open(self, key: str, member: Callable[[], None]) -> None:
        """Renew what the agent of this id holds, until `close`."""
        super().open(key, member)
        self.look(key)

    def look(self, agent_id: str) -> None:
        """The agent may hold a task that it did not hold before. For the event loop."""
        if agent_id in self._members:
            self._poked.add(agent_id)
            self._wake()

    async def close(self, key: str) -> None:
        """Undo one `open`; the last one ends the renewing."""
        self._forget(key)
        await super().close(key)

    def ring(self, now: float) -> float | None:
        """Go on if something is due. `Alarms` calls this."""
        self._wake()
        return None

    # -- the job

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        check_at = loop.time() + _CHECK_SEC
        while True:
            await self._until(min(check_at, self._due[0][0] if self._due else check_at), loop)
            if (check := loop.time() >= check_at) is True:
                check_at = loop.time() + _CHECK_SEC
            asked = self._take_due(loop.time())
            if not asked and not check:
                continue
            try:
                looked = await self._looked(asked, check=check)
            except Exception as error:  # noqa: BLE001  # counted and logged for each agent; tried again
                looked = dict.fromkeys(asked, _Looked(None, error))
            for agent_id, found in looked.items():
                self._note(agent_id, found, loop.time())

    async def _until(self, when: float, loop: asyncio.AbstractEventLoop) -> None:
        if self._poked or loop.time() >= when:
            return
        self._waiter = loop.create_future()
        Alarms.of(loop).set(self, when, loop)
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _take_due(self, now: float) -> set[str]:
        """Whom to look at now."""
        due, self._poked = self._poked, set()
        while self._due and self._due[0][0] <= now:
            when, agent_id = heapq.heappop(self._due)
            if self._at.get(agent_id) == when:
                due.add(agent_id)
        return due & self._members.keys()

    async def _looked(self, asked: Collection[str], *, check: bool) -> dict[str, _Looked]:
        """Renew what is due of `asked`, and with `check` of all that hold a task; what was found."""

        def look() -> dict[str, _Looked]:
            holders = self._subject.holders()
            return {
                **{agent_id: _Looked(None) for agent_id in asked if agent_id not in holders},
                **{agent_id: self._look(agent_id) for agent_id in (kept if check else asked) if agent_id in holders},
            }

        kept = [*self._members] if check else []
        return await self._on_store(look)

    def _look(self, agent_id: str) -> _Looked:
        try:
            return _Looked(self._subject.renew_claims(agent_id))
        except Exception as error:  # noqa: BLE001  # the claims of the others are renewed nevertheless
            return _Looked(None, contained(error))

    def _note(self, agent_id: str, found: _Looked, now: float) -> None:
        failed = self._members.get(agent_id)
        if failed is None:
            return
        if found.error is None:
            self._forget(agent_id)
            if found.pause is not None:
                self._plan(agent_id, now + min(found.pause, _CHECK_SEC))
            return
        failures = self._failures[agent_id] = self._failures.get(agent_id, 0) + 1
        self._plan(agent_id, now + backoff(failures, _MAX_BACKOFF_SEC))
        failed()
        error = found.error
        text = "%s: renewing claims failed (%d in a row): %s"
        _log.warning(text, agent_id, failures, described(error), exc_info=error)

    def _plan(self, agent_id: str, when: float) -> None:
        self._at[agent_id] = when
        heapq.heappush(self._due, (when, agent_id))
        if len(self._due) > 2 * len(self._at) + 64:  # most are of plans that were changed
            self._due = [(at, planned) for planned, at in self._at.items()]
            heapq.heapify(self._due)

    def _forget(self, agent_id: str) -> None:
        self._at.pop(agent_id, None)
        self._failures.pop(agent_id, None)
