"""Random histories of two managers and three agents on one store, compared with a model step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from attrs import define
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from converge.coordination.claims import Claim, ClaimBook
from converge.coordination.errors import ClaimLost, InvalidTransition
from converge.coordination.task_index import TaskIndex
from converge.coordination.task_manager import TaskManager
from converge.coordination.task_mirror import TaskMirror
from converge.coordination.task_record import TaskRecord
from converge.coordination.task_store import TaskStore
from converge.core.task import Task, TaskState
from converge.extensions.storage.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.core.plain import Plain
    from tests.core.coordination.conftest import ManualClock

TTL = 10.0
SLOTS = ["t0", "t1", "t2"]
AGENTS = ["a", "b", "c"]
CONSTRAINTS: list[dict[str, Plain]] = [{}, {"max_attempts": 2}, {"max_retries": 1}]
PENDING, ASSIGNED, COMPLETED, FAILED, CANCELLED = "pending", "assigned", "completed", "failed", "cancelled"


@define
class Modelled:
    """What a task has to be."""

    max_attempts: int
    max_retries: int
    state: str = PENDING
    holder: str | None = None
    attempt: int = 0
    failures: int = 0
    ends_at: float = 0.0
    result: Plain = None

    def requeue(self, *, failed: bool = False) -> None:
        over = self.attempt >= self.max_attempts or (failed and self.failures > self.max_retries)
        self.state = FAILED if over else PENDING
        if not over:
            self.holder = None


managers_drawn = st.sampled_from([0, 1])
slots_drawn = st.sampled_from(SLOTS)
agents_drawn = st.sampled_from(AGENTS)


class TaskLife(RuleBasedStateMachine):
    make_store: Callable[[], MemoryStore]
    make_clock: Callable[[], ManualClock]

    def __init__(self) -> None:
        super().__init__()
        self.store, self.clock = type(self).make_store(), type(self).make_clock()
        self.managers = [TaskManager(self.store, clock=self.clock) for _ in range(2)]
        self.known: list[dict[tuple[str, str], int]] = [{}, {}]  # attempts that each manager remembers
        self.model: dict[str, Modelled] = {}
        self.turns = dict.fromkeys(SLOTS, 0)  # a new task takes the place of one that has ended
        self.objects: list[dict[str, Task]] = [{}, {}]

    def moved(self, task_id: str) -> None:
        """A manager forgets the claims on a task that has ended; its own answer is ClaimLost either way."""
        if self.model[task_id].state not in (PENDING, ASSIGNED):
            for known in self.known:
                for agent in AGENTS:
                    known.pop((agent, task_id), None)

    def may(self, number: int, agent: str, task_id: str) -> bool:
        """Whether this manager's claim for this agent is the live one."""
        task = self.model[task_id]
        epoch = self.known[number].get((agent, task_id))
        return task.state == ASSIGNED and task.holder == agent and epoch in (None, task.attempt)

    def name(self, slot: str) -> str:
        """The task that is in a slot now; a task stands for itself."""
        return f"{slot}.{self.turns[slot]}" if slot in self.turns else slot

    @rule(number=managers_drawn, slot=slots_drawn, constraints=st.sampled_from(CONSTRAINTS), fresh=st.booleans())
    def submit(self, number: int, slot: str, constraints: dict[str, Plain], fresh: bool) -> None:
        known = self.model.get(self.name(slot))
        if fresh and known is not None and known.state not in (PENDING, ASSIGNED):
            self.turns[slot] += 1
        task_id = self.name(slot)
        there = self.managers[number].get_task(task_id)
        given = {"claim_ttl_sec": TTL, **constraints} if there is None else dict(there.constraints)
        task = Task(id=task_id, constraints=given)
        assert self.managers[number].submit(task) == task_id
        self.objects[number][task_id] = task
        attempts = 2 if constraints else 20
        self.model.setdefault(task_id, Modelled(attempts, 1 if "max_retries" in constraints else 0))

    @precondition(lambda self: self.model)
    @rule(number=managers_drawn, slot=slots_drawn, agent=agents_drawn)
    def claim(self, number: int, slot: str, agent: str) -> None:
        task_id = self.name(slot)
        claim = self.managers[number].claim(agent, task_id)
        task = self.model.get(task_id)
        if task is None or task.state not in (PENDING, ASSIGNED):
            assert claim is False
            return
        expired = task.state == ASSIGNED and self.clock.time() >= task.ends_at
        if task.state == ASSIGNED:
            mine = task.holder == agent and self.known[number].get((agent, task_id)) == task.attempt
            if mine:
                assert claim
                assert claim.attempt == task.attempt
                return
            if task.holder != agent and not expired:
                assert claim is False
                return
            task.requeue()
            if task.state == FAILED:
                assert claim is False
                self.moved(task_id)
                return
        assert claim
        task.state, task.holder, task.attempt = ASSIGNED, agent, task.attempt + 1
        task.ends_at = self.clock.time() + TTL
        assert (claim.agent_id, claim.attempt) == (agent, task.attempt)
        self.known[number][agent, task_id] = task.attempt

    @precondition(lambda self: self.model)
    @rule(number=managers_drawn, slot=slots_drawn, agent=agents_drawn, value=st.integers(0, 1))
    def report(self, number: int, slot: str, agent: str, value: int) -> None:
        task_id = self.name(slot)
        if task_id not in self.model:
            return
        task = self.model[task_id]
        repeated = task.state == COMPLETED and task.holder == agent and task.result == value
        if self.may(number, agent, task_id):
            self.managers[number].report(agent, task_id, value)
            task.state, task.result = COMPLETED, value
            self.moved(task_id)
        elif repeated:
            try:
                self.managers[number].report(agent, task_id, value)
            except ClaimLost:  # this manager still knows that its own attempt was an older one
                return
        else:
            assert_refused(ClaimLost, lambda: self.managers[number].report(agent, task_id, value))

    @precondition(lambda self: self.model)
    @rule(number=managers_drawn, slot=slots_drawn, agent=agents_drawn)
    def renew(self, number: int, slot: str, agent: str) -> None:
        task_id = self.name(slot)
        if task_id not in self.model:
            return
        if self.may(number, agent, task_id):
            claim = self.managers[number].renew_claim(agent, task_id)
            task = self.model[task_id]
            task.ends_at = self.clock.time() + TTL
            assert claim.attempt == task.attempt
            self.known[number][agent, task_id] = task.attempt
        else:
            assert_refused(ClaimLost, lambda: self.managers[number].renew_claim(agent, task_id))

    @precondition(lambda self: self.model)
    @rule(number=managers_drawn, slot=slots_drawn, agent=agents_drawn)
    def fail(self, number: int, slot: str, agent: str) -> None:
        task_id = self.name(slot)
        if task_id not in self.model:
            return
        if self.may(number, agent, task_id):
            self.managers[number].fail_task(task_id, "no", agent_id=agent)
            task = self.model[task_id]
            task.failures += 1
            task.requeue(failed=True)
            self.moved(task_id)
        else:
            assert_refused(ClaimLost, lambda: self.managers[number].fail_task(task_id, "no", agent_id=agent))

    @precondition(lambda self: self.model)
    @rule(number=managers_drawn, slot=slots_drawn, cancel=st.booleans())
    def end(self, number: int, slot: str, cancel: bool) -> None:
        task_id = self.name(slot)
        if task_id not in self.model:
            return
        task = self.model[task_id]
        is_open = task.state in (PENDING, ASSIGNED)
        if cancel:
            assert self.managers[number].cancel_task(task_id) is is_open
        elif is_open:
            self.managers[number].fail_task(task_id, "by an administrator")
        else:
            assert_refused(InvalidTransition, lambda: self.managers[number].fail_task(task_id, "by an administrator"))
        if is_open:
            task.state = CANCELLED if cancel else FAILED
            self.moved(task_id)

    @precondition(lambda self: self.model)
    @rule(number=managers_drawn)
    def release_expired(self, number: int) -> None:
        due = {
            task_id
            for task_id, task in self.model.items()
            if task.state == ASSIGNED and self.clock.time() >= task.ends_at
        }
        assert set(self.managers[number].release_expired_claims(self.clock.monotonic())) == due
        for task_id in due:
            self.model[task_id].requeue()
            self.moved(task_id)

    @precondition(lambda self: self.model)
    @rule(number=managers_drawn, agent=agents_drawn)
    def take_over(self, number: int, agent: str) -> None:
        orphaned = {
            task_id
            for task_id, task in self.model.items()
            if task.state == ASSIGNED
            and task.holder == agent
            and self.known[number].get((agent, task_id)) != task.attempt
        }
        claims = {claim.task_id: claim.attempt for claim in self.managers[number].take_over(agent)}
        for task_id in orphaned:
            task = self.model[task_id]
            task.requeue()
            self.moved(task_id)
            if task.state == PENDING:
                task.state, task.holder, task.attempt = ASSIGNED, agent, task.attempt + 1
                task.ends_at = self.clock.time() + TTL
                self.known[number][agent, task_id] = task.attempt
        assert claims == {task_id: self.model[task_id].attempt for task_id in orphaned if self.is_held(task_id)}

    def is_held(self, task_id: str) -> bool:
        return self.model[task_id].state == ASSIGNED

    @precondition(lambda self: self.model)
    @rule(number=managers_drawn, agent=agents_drawn)
    def give_back(self, number: int, agent: str) -> None:
        held = {
            task_id
            for task_id, task in self.model.items()
            if task.state == ASSIGNED
            and task.holder == agent
            and self.known[number].get((agent, task_id)) == task.attempt
        }
        assert set(self.managers[number].release_claims(agent)) == held
        for task_id in held:
            self.model[task_id].requeue()
            self.moved(task_id)

    @precondition(lambda self: any(task.state == ASSIGNED for task in self.model.values()))
    @rule(number=managers_drawn, pick=st.integers(0, len(SLOTS) - 1), move=st.sampled_from(["report", "renew", "fail"]))
    def a_paused_process_wakes_up(self, number: int, pick: int, move: str) -> None:
        """Its agent has been started anew elsewhere, and goes on there."""
        held = [(task_id, task.holder) for task_id, task in sorted(self.model.items()) if task.state == ASSIGNED]
        task_id, holder = held[pick % len(held)]
        assert holder is not None
        self.claim(number, task_id, holder)
        self.claim(1 - number, task_id, holder)
        if move == "report":
            self.report(number, task_id, holder, pick)
        elif move == "renew":
            self.renew(number, task_id, holder)
        else:
            self.fail(number, task_id, holder)

    @rule(seconds=st.sampled_from([1.0, 4.0, TTL]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(number=managers_drawn, closed=st.booleans())
    def reopen(self, number: int, closed: bool) -> None:
        if closed:
            self.managers[number].close()
        self.managers[number] = TaskManager(self.store, clock=self.clock)
        self.known[number].clear()
        self.objects[number].clear()

    @rule(number=managers_drawn)
    def look(self, number: int) -> None:
        self.managers[number].sync()
        for task_id, task in self.objects[number].items():
            model = self.model[task_id]
            assert (task.state.value, task.result, task.attempt) == (model.state, model.result, model.attempt)

    @invariant()
    def every_manager_and_a_new_one_see_what_is(self) -> None:
        pending = {task_id for task_id, task in self.model.items() if task.state == PENDING}
        for manager in (*self.managers, TaskManager(self.store, clock=self.clock)):
            assert {task.id for task in manager.list_pending_tasks()} == pending
            for agent in AGENTS:
                held = {
                    task_id for task_id, task in self.model.items() if (task.state, task.holder) == (ASSIGNED, agent)
                }
                assert {task.id for task in manager.list_held_tasks(agent)} == held

    @invariant()
    def every_task_is_as_the_model_says(self) -> None:
        for task_id, model in self.model.items():
            task = self.managers[0].get_task(task_id)
            assert task is not None
            assert (task.state, task.result, task.attempt) == (TaskState(model.state), model.result, model.attempt)
            if model.state in (PENDING, ASSIGNED, COMPLETED):
                assert task.assigned_to == model.holder


def assert_refused(error: type[Exception], move: Callable[[], object]) -> None:
    try:
        move()
    except error:
        return
    raise AssertionError(f"no {error.__name__} was raised")


def check(clock: type[ManualClock], examples: int, *, of_mutant: bool = False) -> None:
    machine = type("Machine", (TaskLife,), {"make_store": MemoryStore, "make_clock": clock})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            database=None,
            phases=(Phase.generate,) if of_mutant else tuple(Phase),
            derandomize=of_mutant,  # so that a mutant that is caught once is caught always
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )


def test_every_history_is_one_that_the_model_allows(clock: ManualClock) -> None:
    check(type(clock), 300)


def agent_alone(record: TaskRecord, agent_id: str, attempt: int | None) -> None:
    if record.assigned_to != agent_id or record.state != ASSIGNED:
        raise ClaimLost("no", record.id)


def without_the_last(tasks: TaskStore) -> list[str]:
    return [hint.removeprefix("open:") for hint in tasks._store.list("open:")][:-1]


MUTANTS = {
    "the attempt is not compared": (TaskRecord, "_check_claimant", agent_alone),
    "a live lease counts as expired": (TaskRecord, "is_expired", lambda record, now: True),
    "attempts are not bounded": (TaskRecord, "max_attempts", 1_000),
    "an end is not final": (TaskRecord, "is_open", True),
    "a hint is lost": (TaskStore, "open_ids", without_the_last),
    "a claim is forgotten": (ClaimBook, "remember", lambda book, record: Claim(record.id, "a", record.attempt, 0.0)),
    "the index keeps what it had": (TaskIndex, "forget", lambda index, task_id: None),
    "the mirror is not updated": (TaskMirror, "update", lambda mirror, record, version: None),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_model_catches_a_manager_in_which(mutant: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*MUTANTS[mutant])
    with pytest.raises((AssertionError, ValueError)):
        check(type(clock), 1_000, of_mutant=True)
