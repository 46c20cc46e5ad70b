"""Tasks that any agent can claim and only one can hold, on any store.

The record in the store is the truth and every transition is one compare-and-set on it (`task_store`, `task_record`).
Everything else here is a cache: what is open (`task_view`), which claims were made here (`claims`), and the objects
that callers submitted (`task_mirror`). The store comes first and memory after.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Literal

from converge.coordination.claims import Claim
from converge.coordination.dead_tasks import anew, dead_records
from converge.coordination.errors import ClaimLost, InvalidTransition, UnknownTask
from converge.coordination.task_index import ANYTHING, Filter, HeldTask, TaskProgress
from converge.coordination.task_moves import ClaimMove, Move, MoveResult, ReportMove, carry_out
from converge.coordination.task_steps import TaskSteps, check_agent
from converge.coordination.task_waiting import wait_for_end, wait_for_end_async
from converge.core.clock import Clock, SystemClock
from converge.core.task import Task, TaskState
from converge.extensions.storage.memory import MemoryStore
from converge.observability.tracing import get_current_traceparent

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from converge.coordination.task_record import TaskEvent
    from converge.core.notices import Notices
    from converge.core.plain import Plain
    from converge.core.store import Store
    from converge.core.topic import Topic

__all__ = ["Claim", "TaskManager"]

_log = logging.getLogger(__name__)


class TaskManager:
    """Submits, lists, claims and ends tasks in `store`, or in memory when there is none.

    Any number of managers, in any number of processes, may work on one store. Methods are synchronous and safe to
    call from several threads; with a store that is `blocking` they may wait for it. A method that moves one task and
    raised has changed nothing. Task objects given to `submit` are kept up to date while the caller holds them.

    `counters` counts what nobody else is told: `contended` writes, `claims_lost` at renewals, failures of listeners,
    `foreign_records`, and `hints_left`.
    """

    def __init__(self, store: Store | None = None, *, clock: Clock | None = None) -> None:
        self._steps = TaskSteps(MemoryStore() if store is None else store, SystemClock() if clock is None else clock)
        self.counters = self._steps.counters
        self._told = 0  # the generation of the view that the listeners know of

    @property
    def blocking(self) -> bool:
        """Whether calls may wait for a disk or a network."""
        return self._steps.tasks.blocking

    # -- submitting and reading

    def submit(self, task: Task) -> str:
        """Store `task`; its id. See `submit_many`."""
        return self.submit_many([task])[0]

    def submit_many(self, tasks: Iterable[Task]) -> list[str]:
        """Store tasks, in one commit where the store can; their ids.

        An id that exists with the same fields is left as it is, whatever has become of it: submitting again is safe.
        Raises `TaskConflict` when it exists with other fields, `ValueError` for fields that make no sense and
        `TypeError` for what is not plain data, each before anything is stored. Only when somebody else takes one of
        the ids at the same instant, or a store without commits fails half-way, may other tasks have been stored.

        A task that has no `traceparent` gets that of the span which is open here (`converge.observability.tracing`).
        """
        return self._steps.submit(list(tasks), get_current_traceparent())

    def get_task(self, task_id: str) -> Task | None:
        """The task as the store holds it now, or None when there is none of this id."""
        found = self._steps.tasks.read(task_id)
        return None if found is None else found[0].to_task()

    def list_pending_tasks(self) -> list[Task]:
        """Every PENDING task, higher priority first, then the longest waiting."""
        return self.list_pending_tasks_for_agent("")

    def list_pending_tasks_for_agent(
        self,
        agent_id: str,
        pool_ids: Collection[str] | None = None,
        capabilities: Collection[str] | None = None,
        topics: Collection[Topic] | None = None,
        limit: int | None = None,
    ) -> list[Task]:
        """The PENDING tasks an agent could claim, higher priority first, then the longest waiting.

        None does not filter; an empty collection leaves the tasks that ask for none. A task's topic fits when it
        `matches` one of `topics`. With `limit`, agents see tasks of one priority from different starting points.
        """
        if limit is not None and limit < 0:
            raise ValueError(f"a limit is 0 or more, not {limit}")
        wanted = Filter(pool_ids, capabilities, topics)
        with self._steps.view.synced() as index:
            found = index.pending(wanted, agent_id, limit)
        return [record.to_task() for record in found]

    def list_held_tasks(self, agent_id: str) -> list[Task]:
        """The tasks ASSIGNED to an agent, the oldest claim first."""
        return [held.record.to_task() for held in self._held(agent_id)]

    def claims_of(self, agent_id: str) -> list[Claim]:
        """The claims of an agent that were made through this manager and that it still holds, the oldest first.

        As far as this manager has seen: it does not look at the store, so it never waits.
        """
        return self._steps.claims.of_agent(agent_id)

    def open_among(self, task_ids: Collection[str]) -> set[str]:
        """Those of `task_ids` that have not ended."""
        with self._steps.view.synced() as index:
            return {task_id for task_id in task_ids if index.is_open(task_id)}

    def progress(self) -> TaskProgress:
        """How many tasks are open, and how many have ended since this manager first looked."""
        with self._steps.view.synced() as index:
            return index.progress()

    # -- the life of a claim

    def claim(
        self,
        agent_id: str,
        task_id: str,
        *,
        pool_ids: Collection[str] | None = None,
        capabilities: Collection[str] | None = None,
    ) -> Claim | Literal[False]:
        """A lease on the task, or False when somebody else holds it, it has ended, does not exist or does not fit.

        `pool_ids` and `capabilities` are what the agent has; None does not check. Claiming what I hold returns the
        same claim. A task that the same identity holds through another manager, such as a process that died, is taken
        over under a new attempt, and so is one whose lease has run out.
        """
        check_agent(agent_id, task_id)
        return self._steps.claim(agent_id, task_id, _wanted(pool_ids, capabilities))

    def claim_many(
        self,
        agent_id: str,
        task_ids: Iterable[str],
        *,
        pool_ids: Collection[str] | None = None,
        capabilities: Collection[str] | None = None,
    ) -> list[Claim | Literal[False]]:
        """`claim` for each task, in one commit where the store can."""
        ids, wanted = list(task_ids), _wanted(pool_ids, capabilities)
        for task_id in ids:
            check_agent(agent_id, task_id)
        claims: list[Claim | Literal[False]] = []
        for result in carry_out(self._steps, [ClaimMove(agent_id, task_id, wanted) for task_id in ids]):
            if isinstance(result, Exception):
                raise result
            claims.append(result if isinstance(result, Claim) else False)
        return claims

    def renew_claim(self, agent_id: str, task_id: str, *, claim: Claim | None = None) -> Claim:
        """The claim, extended by its TTL from now, at most to `timeout_sec` after it was made.

        Raises `ClaimLost` when the agent does not hold the task (any more) or `timeout_sec` is over.
        """
        attempt = self._steps.attempt(agent_id, task_id, claim)
        return self._steps.claims.remember(
            self._steps.update(task_id, lambda record, now: record.renew(agent_id, attempt, now))
        )

    def report(self, agent_id: str, task_id: str, result: Plain, *, claim: Claim | None = None) -> None:
        """Store the result: when this returns, the task is COMPLETED whatever happens to any process.

        Raises `ClaimLost` when the agent does not hold the task under the attempt it claimed, `UnknownTask` when there
        is none, `TypeError` when `result` is not plain data. The same report repeated by the same claim returns.
        """
        self._steps.report(agent_id, task_id, result, claim)

    def report_many(self, agent_id: str, results: Mapping[str, Plain]) -> dict[str, Exception]:
        """`report` for each task (id → result), in one commit where the store can.

        What was not stored, by id, with the error that `report` has for it; empty when all was.
        """
        moves = [ReportMove(agent_id, task_id, result) for task_id, result in results.items()]
        refused: dict[str, Exception] = {}
        for move, result in zip(moves, carry_out(self._steps, moves), strict=True):
            if isinstance(result, ValueError | TypeError):
                refused[move.task_id] = result
            elif isinstance(result, Exception):
                raise result
        return refused

    def carry_out(self, moves: Iterable[Move]) -> list[MoveResult]:
        """What became of each move, by whatever agents: all in one commit where the store can.

        Moves of different tasks are independent of each other; those of one task are made in their order. A result is
        what `submit`, `claim` or `report` returns, or the exception that it raises; nothing is raised here.
        """
        return carry_out(self._steps, list(moves))

    def fail_task(self, task_id: str, reason: str, *, agent_id: str | None = None, claim: Claim | None = None) -> None:
        """Say that the task failed.

        By its claimant (`agent_id`): it is PENDING again while `max_retries` allows, else FAILED; `ClaimLost` when the
        agent does not hold it. Without an agent it is administrative and final; `InvalidTransition` when it had ended.
        """
        if agent_id is None:
            self._steps.update(task_id, lambda record, now: record.end(TaskState.FAILED, reason, now))
            return
        attempt, claimant = self._steps.attempt(agent_id, task_id, claim), agent_id
        self._steps.update(task_id, lambda record, now: record.fail(claimant, attempt, reason, now))

    def cancel_task(self, task_id: str) -> bool:
        """Whether the task is CANCELLED by this call; False when it had ended or does not exist."""
        try:
            self._steps.update(task_id, lambda record, now: record.end(TaskState.CANCELLED, "cancelled", now))
        except (InvalidTransition, UnknownTask):
            return False
        return True

    def renew_claims(self, agent_id: str) -> float | None:
        """Renew the claims that this manager holds for the agent, where a third of the TTL is over; start its awards.

        Seconds until the next one is due, None when there is none. A claim that turns out to be lost is logged and
        counted in `counters["claims_lost"]`; one that has reached its `timeout_sec` is left to run out.
        """
        pauses = []
        for held in self._held(agent_id):
            if held.record.is_awarded and not self._steps.claims.holds(held.record):
                self.claim(agent_id, held.record.id)
        for held in self._held_here(agent_id):
            record, ttl = held.record, held.record.claim_ttl_sec
            if (record.lease_expires_at or 0.0) >= record.timeout_at:
                continue
            pause = held.seconds_left(self._steps.clock.time(), self._steps.clock.monotonic()) - ttl * 2 / 3
            if pause <= 0:
                try:
                    self.renew_claim(agent_id, record.id)
                except (ClaimLost, UnknownTask) as lost:
                    self._steps.count("claims_lost")
                    _log.warning("%s", lost)
                    continue
                pause = ttl / 3
            pauses.append(pause)
        return min(pauses, default=None)

    def holders(self) -> Collection[str]:
        """The ids of the agents that hold a task, whoever gave it to them."""
        with self._steps.view.synced() as index:
            return index.holders()

    def release_claims(self, agent_id: str) -> list[str]:
        """Give back, PENDING, what this manager holds for the agent; the ids. An agent that stops does this."""
        released = []
        for held in self._held_here(agent_id):
            task_id, attempt = held.record.id, held.record.attempt
            try:
                self._steps.update(task_id, lambda record, now, epoch=attempt: record.release(agent_id, epoch, now))  # type: ignore[misc]  # a default binds the loop's value
            except (ClaimLost, UnknownTask) as lost:
                _log.info("%s", lost)
            else:
                released.append(task_id)
        return released

    def release_expired_claims(self, now_ts: float | None = None) -> list[str]:
        """Re-queue, or fail for good, tasks whose lease has run out; fail those past their deadline. Their ids.

        Tasks whose dependency failed are failed too, if whoever ended that could not do it.

        `now_ts` is a `time.monotonic()` reading, by default the present one. Leases are stored in wall-clock time;
        the reading is converted by today's offset between the two clocks. Each task is a step of its own: when the
        store fails, those before it are done.
        """
        monotonic = self._steps.clock.monotonic() if now_ts is None else now_ts
        now = self._steps.clock.time() + (monotonic - self._steps.clock.monotonic())
        with self._steps.view.synced() as index:
            due = {task_id: index.version_of(task_id) for task_id in index.due(now, monotonic)}
        released: list[str] = []
        try:
            released += (task_id for task_id, version in due.items() if self._steps.release(task_id, version))
            released += self._steps.fail_dependents()
        finally:
            if due or released:
                self._steps.announce()
        return released

    def take_over(self, agent_id: str) -> list[Claim]:
        """Claim anew what an earlier process of this agent held, so that work goes on without waiting for the leases.

        For one agent in one process at a time: the earlier process, should it still live, loses its claims.
        """
        orphaned = [held.record.id for held in self._held(agent_id) if not self._steps.claims.holds(held.record)]
        return [claim for task_id in orphaned if (claim := self.claim(agent_id, task_id))]

    def award(
        self, task_id: str, agent_id: str, *, start_within_sec: float = 30.0, attempt: int | None = None
    ) -> Claim:
        """Give a PENDING task, submitted with the constraint `award_only`, to an agent; the lease that it then has.

        The agent starts by claiming it, or by renewing the claim; its runtime does so by itself. If it does not within
        `start_within_sec`, `release_expired_claims` makes the task PENDING again, for the next award; that is no
        attempt in the sense of `max_attempts`. Raises `InvalidTransition` when the task is not PENDING or for anybody,
        and when this would be another attempt than `attempt`, if that is given.
        """
        check_agent(agent_id, task_id)
        if not 0 < start_within_sec < math.inf:
            raise ValueError(f"start_within_sec is a finite number above 0, not {start_within_sec!r}")
        record = self._steps.update(task_id, lambda record, now: record.award(agent_id, start_within_sec, attempt, now))
        return Claim(task_id, agent_id, record.attempt, record.lease_expires_at or 0.0)

    # -- the end of tasks

    def wait(self, task_id: str, timeout: float | None = None) -> Task:
        """The task once it has ended, whoever ends it; blocks this thread, never call it in an event loop.

        Raises `TimeoutError` after `timeout` seconds and `UnknownTask` when there is no such task.
        """
        return wait_for_end(self._steps, task_id, timeout).to_task()

    async def wait_async(self, task_id: str, timeout: float | None = None) -> Task:
        """As `wait`, for an event loop."""
        return (await wait_for_end_async(self._steps, task_id, timeout)).to_task()

    def history(self, task_id: str) -> list[TaskEvent]:
        """What has happened to the task, the first and the latest `MAX_HISTORY` events; `UnknownTask` without one."""
        return self._steps.read(task_id)[0].events()

    def list_dead(self, pool_id: str | None = None) -> list[Task]:
        """The tasks that have FAILED (of one pool, if given), in the order of their ends; `error` says why.

        A task that was requeued is no longer among them. The cost is that of the FAILED tasks, not of all.
        """
        return [record.to_task() for record in dead_records(self._steps, pool_id)]

    def requeue(self, task_id: str, *, constraints: Mapping[str, Plain] | None = None) -> str:
        """Submit a task that has FAILED or was CANCELLED anew; the id of the new one: `<id>~2`, then `~3`, ….

        What ended stays as it is. The new task asks for the same, with `constraints` over those of the first, and
        depends on what its dependencies have been requeued as. Doing it twice, or in two processes, makes one new task.
        Raises `InvalidTransition` for a task that has not failed.
        """
        again = self.submit(anew(self._steps, task_id, constraints))
        self._steps.tasks.bury([task_id])
        return again

    # -- following the store

    def sync(self) -> bool:
        """Read what changed in the store since the last look; whether anything did. Costs little when nothing did."""
        return self._steps.view.sync()

    def poll(self) -> bool:
        """`sync`, and tell the listeners when something has changed since the last `poll`; whether it has.

        What a listing in another thread read in between counts too: it told nobody.
        """
        self.sync()
        generation = self._steps.view.generation
        if generation == self._told:
            return False
        self._told = generation
        self._steps.announce()
        return True

    def may_have_changed(self) -> bool:
        """Whether `poll` would tell anything: cheap, never waits for a writer, never a false no."""
        return self._steps.view.generation != self._told or self._steps.view.may_have_changed()

    def due_in(self) -> float | None:
        """In how many seconds `poll` may tell something although the store has not changed; None: never."""
        return self._steps.view.due_in()

    def notices(self) -> Notices | None:
        """What tells that the store was written, as `VersionedStore.notices`."""
        return self._steps.tasks.notices()

    def add_listener(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` whenever tasks may have changed, from whichever thread did it.

        Returns what removes it again; removing twice is no error.
        """
        return self._steps.add_listener(listener)

    def close(self) -> None:
        """Write what is only kept to save commits. The store stays open: who made it closes it."""
        self._steps.tasks.drop_hints()

    # -- helpers

    def _held(self, agent_id: str) -> list[HeldTask]:
        with self._steps.view.synced() as index:
            return index.held_by(agent_id)

    def _held_here(self, agent_id: str) -> list[HeldTask]:
        return [held for held in self._held(agent_id) if self._steps.claims.holds(held.record)]


def _wanted(pool_ids: Collection[str] | None, capabilities: Collection[str] | None) -> Filter:
    return ANYTHING if pool_ids is None and capabilities is None else Filter(pool_ids, capabilities)
