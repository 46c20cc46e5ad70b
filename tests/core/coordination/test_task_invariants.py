"""Random histories with crashes at any store operation and clocks that jump: what must hold whatever happens.

Where `test_task_model` knows after each step exactly what is, here a process may die in the middle of a step, so that
only what was acknowledged is known; and wall clocks jump by an hour. The invariants are G5 to G9 of docs/guarantees.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from converge.coordination.errors import ClaimLost, InvalidTransition
from converge.coordination.task_manager import Claim, TaskManager
from converge.coordination.task_record import TaskRecord
from converge.coordination.task_store import TaskStore
from converge.core.store import Write
from converge.core.task import Task
from converge.extensions.storage.memory import MemoryStore
from tests.core.coordination.conftest import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.core.plain import Plain
    from converge.core.store import Change

TTL = 10.0
AGENTS = ["a", "b", "c"]
FINAL = {"completed", "failed", "cancelled"}
CONSTRAINTS: list[dict[str, Plain]] = [
    {}, {"max_attempts": 1}, {"max_retries": 1}, {"max_retries": 3, "retry_backoff_sec": 3.0}, {"award_only": True},
]  # fmt: skip
managers_drawn, agents_drawn = st.sampled_from([0, 1]), st.sampled_from(AGENTS)
places_drawn = st.integers(0, 5)


class ProcessDied(BaseException):
    """Nothing catches this on the way out, as nothing survives SIGKILL."""


class DyingStore(MemoryStore):
    """Its user dies at the n-th operation from now, before it is done or right after."""

    left = 0
    done_first = False

    def _dies(self) -> bool:
        self.left -= 1
        return self.left == 0

    def _write(self, key: str, packed: bytes) -> int:
        dies = self._dies()
        if dies and not self.done_first:
            raise ProcessDied
        version = super()._write(key, packed)
        if dies:
            raise ProcessDied
        return version

    def _remove(self, key: str) -> None:
        if self._dies():
            raise ProcessDied
        super()._remove(key)

    def get_versioned(self, key: str) -> tuple[Plain, int] | None:
        if self._dies():
            raise ProcessDied
        return super().get_versioned(key)

    def changes(self, cursor: int | None = None, prefix: str = "") -> tuple[int, list[Change]]:
        if self._dies():
            raise ProcessDied
        return super().changes(cursor, prefix)


class TaskDisorder(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = DyingStore()
        self.clocks = [ManualClock(), ManualClock()]
        self.managers = [self.manager(number) for number in range(2)]
        self.made = 0
        self.ids: list[str] = []
        self.accepted: set[str] = set()  # submissions that returned
        self.ends: dict[str, dict[str, Any]] = {}  # the first final record that was seen
        self.reported: dict[str, Plain] = {}  # results whose report returned
        self.claims: dict[str, dict[int, str]] = {}  # who was seen to hold each attempt
        self.mine: list[Claim] = []

    def manager(self, number: int) -> TaskManager:
        return TaskManager(self.store, clock=self.clocks[number])

    def records(self) -> dict[str, dict[str, Any]]:
        left, self.store.left = self.store.left, 0
        found = {key: self.store.get(key) for key in self.store.list("task:")}
        self.store.left = left
        return {key.removeprefix("task:"): value for key, value in found.items()}  # type: ignore[misc]  # records are dicts

    def attempt(self, number: int, step: Callable[[TaskManager], Any]) -> Any:  # passes through
        """What the step returns or None when it was refused; a process that dies in it is started anew."""
        try:
            return step(self.managers[number])
        except (ClaimLost, InvalidTransition):
            return None
        except ProcessDied:
            self.store.left = 0
            self.managers[number] = self.manager(number)
            return None

    def pick(self, place: int) -> str:
        return self.ids[-1 - place % len(self.ids)]

    @rule(left=st.integers(1, 9), done_first=st.booleans())
    def die_soon(self, left: int, done_first: bool) -> None:
        self.store.left, self.store.done_first = left, done_first

    @rule(number=managers_drawn, constraints=st.sampled_from(CONSTRAINTS), needs=st.booleans(), two=st.booleans())
    def submit(self, number: int, constraints: dict[str, Plain], needs: bool, two: bool) -> None:
        there = self.records()
        needed = [self.pick(0)] if needs and self.ids and self.pick(0) in there else []
        tasks = []
        for _ in range(1 + two):
            self.made += 1
            tasks.append(Task(id=f"t{self.made}", constraints={"claim_ttl_sec": TTL, **constraints}, depends_on=needed))
        self.ids += [task.id for task in tasks]
        if self.attempt(number, lambda manager: manager.submit_many(tasks)):
            self.accepted.update(task.id for task in tasks)

    @precondition(lambda self: self.ids)
    @rule(number=managers_drawn, agent=agents_drawn, place=places_drawn)
    def claim(self, number: int, agent: str, place: int) -> None:
        if claim := self.attempt(number, lambda manager: manager.claim(agent, self.pick(place))):
            self.mine.append(claim)

    @precondition(lambda self: self.ids)
    @rule(number=managers_drawn, agent=agents_drawn, places=st.lists(places_drawn, max_size=3, unique=True))
    def claim_many(self, number: int, agent: str, places: list[int]) -> None:
        ids = [*dict.fromkeys(self.pick(place) for place in places)]
        claims = self.attempt(number, lambda manager: manager.claim_many(agent, ids))
        self.mine += [claim for claim in claims or [] if claim]

    @precondition(lambda self: self.mine)
    @rule(number=managers_drawn, place=places_drawn, value=st.integers(0, 2))
    def report(self, number: int, place: int, value: int) -> None:
        claim = self.mine[-1 - place % len(self.mine)]
        before = self.records()[claim.task_id]
        stale = before["state"] in FINAL or (before["assigned_to"], before["attempt"]) != (
            claim.agent_id,
            claim.attempt,
        )

        def step(manager: TaskManager) -> bool:
            manager.report(claim.agent_id, claim.task_id, value, claim=claim)
            return True

        if self.attempt(number, step):
            again = before["state"] == "completed" and before["result"] == value and before["attempt"] == claim.attempt
            assert again or not stale, "a claimant that has lost its claim was let in"
            self.reported[claim.task_id] = value

    @precondition(lambda self: self.mine)
    @rule(number=managers_drawn, place=places_drawn, renew=st.booleans())
    def renew_or_fail(self, number: int, place: int, renew: bool) -> None:
        claim = self.mine[-1 - place % len(self.mine)]
        if renew:
            self.attempt(number, lambda manager: manager.renew_claim(claim.agent_id, claim.task_id, claim=claim))
        else:
            self.attempt(
                number, lambda manager: manager.fail_task(claim.task_id, "no", agent_id=claim.agent_id, claim=claim)
            )

    @precondition(lambda self: self.accepted)
    @rule(number=managers_drawn, place=places_drawn, agent=agents_drawn)
    def award(self, number: int, place: int, agent: str) -> None:
        task_id = self.pick(place)
        if task_id in self.accepted:
            self.attempt(number, lambda manager: manager.award(task_id, agent, start_within_sec=4.0))

    @precondition(lambda self: self.ids)
    @rule(number=managers_drawn, place=places_drawn)
    def cancel(self, number: int, place: int) -> None:
        self.attempt(number, lambda manager: manager.cancel_task(self.pick(place)))

    @rule(number=managers_drawn, agent=agents_drawn)
    def tend(self, number: int, agent: str) -> None:
        self.attempt(number, lambda manager: manager.renew_claims(agent))
        self.attempt(number, lambda manager: manager.release_expired_claims())

    @rule(number=managers_drawn, agent=agents_drawn, take_over=st.booleans())
    def stop_or_restart(self, number: int, agent: str, take_over: bool) -> None:
        if not take_over:
            self.attempt(number, lambda manager: manager.release_claims(agent))
        elif claims := self.attempt(number, lambda manager: manager.take_over(agent)):
            self.mine += claims

    @rule(seconds=st.sampled_from([1.0, 4.0, TTL]))
    def advance(self, seconds: float) -> None:
        for clock in self.clocks:
            clock.advance(seconds)

    @rule(number=managers_drawn, hours=st.sampled_from([-1, 1]))
    def jump(self, number: int, hours: int) -> None:
        self.clocks[number].set_back(-3600.0 * hours)

    @rule(number=managers_drawn)
    def reopen(self, number: int) -> None:
        self.managers[number] = self.manager(number)

    @invariant()
    def what_is_final_stays_and_what_was_reported_is_there(self) -> None:
        records = self.records()
        assert self.accepted <= set(records), "a submission that returned is lost"
        for task_id, record in records.items():
            if record["state"] in FINAL:
                assert self.ends.setdefault(task_id, record) == record, "a final record has changed"
        for task_id, value in self.reported.items():
            assert (records[task_id]["state"], records[task_id]["result"]) == ("completed", value)

    @invariant()
    def each_attempt_has_one_holder_and_there_are_not_too_many(self) -> None:
        for task_id, record in self.records().items():
            events = [event for event in record["history"] if event[1] in ("claimed", "awarded")]
            assert [event[3] for event in events] == sorted({event[3] for event in events})
            holders = self.claims.setdefault(task_id, {})
            for _, _, agent, attempt, _ in events:
                assert holders.setdefault(attempt, agent) == agent, "two agents under one attempt"
            most = TaskRecord.from_plain(record).max_attempts
            assert record["attempt"] - record["not_started"] <= most

    @invariant()
    def a_new_process_sees_all_that_is_open_and_whoever_claims_a_listed_task_gets_it(self) -> None:
        left, self.store.left = self.store.left, 0
        fresh = TaskManager(self.store, clock=self.clocks[0])
        records = self.records()
        open_ids = {task_id for task_id, record in records.items() if record["state"] not in FINAL}
        assert fresh.open_among(set(records)) == open_ids
        listed = {task.id for task in fresh.list_pending_tasks()}
        for task_id, record in records.items():
            waits = (
                any(records[name]["state"] != "completed" for name in record["depends_on"])
                or bool(record["constraints"].get("award_only"))
                or (record["not_before"] is not None and record["not_before"] > self.clocks[0].time())
            )
            assert (task_id in listed) == (record["state"] == "pending" and not waits)
        self.store.left = left


def check(examples: int, steps: int, *, of_mutant: bool = False) -> None:
    run_state_machine_as_test(
        TaskDisorder,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            database=None,
            phases=(Phase.generate,) if of_mutant else tuple(Phase),
            derandomize=of_mutant,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )


def test_no_crash_and_no_clock_breaks_what_is_promised() -> None:
    check(150, 40)


@pytest.mark.soak
def test_no_crash_and_no_clock_breaks_what_is_promised_in_many_histories() -> None:
    check(4_000, 80)


def without_hint(store: TaskStore, moves: list[tuple[TaskRecord, int]]) -> list[int | None]:
    writes = [Write("task:" + record.id, record.to_plain(), version) for record, version in moves]
    return store._store.compare_and_set_many(writes)


MUTANTS: dict[str, tuple[type, str, object]] = {
    "the attempt is not compared": (TaskRecord, "_check_claimant", lambda record, agent_id, attempt: None),
    "an end is not final": (TaskRecord, "is_open", True),
    "attempts are not bounded": (TaskRecord, "is_exhausted", False),
    "a task gets no hint": (TaskStore, "write_many", without_hint),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_invariants_catch_a_manager_in_which(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*MUTANTS[mutant])
    with pytest.raises((AssertionError, ValueError)):
        check(2_000, 40, of_mutant=True)  # ids are random, so it may take longer than the last time
