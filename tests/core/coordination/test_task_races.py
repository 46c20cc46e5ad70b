"""Threads that do different things to one task at the same instant."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

import pytest

from converge.coordination.errors import ClaimLost, InvalidTransition
from converge.coordination.task_manager import TaskManager
from converge.core.errors import VersionConflict
from converge.core.task import Task, TaskState
from converge.extensions.storage.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from converge.core.plain import Plain


@pytest.fixture(autouse=True)
def switch_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def at_once(*calls: Callable[[], object]) -> list[object]:
    """What each call returned or raised, all started at one barrier."""
    barrier = threading.Barrier(len(calls))
    results: list[object] = [None] * len(calls)

    def run(number: int) -> None:
        barrier.wait()
        try:
            results[number] = calls[number]()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_one_of_several_agents_gets_each_task(open_manager: Callable[[], TaskManager]) -> None:
    managers = [open_manager(), open_manager()]
    names = [f"t{n:02}" for n in range(40)]
    managers[0].submit_many([Task(id=name) for name in names])

    def claim_all(number: int) -> list[str]:
        return [name for name in names if managers[number % 2].claim(f"a{number}", name)]

    won = at_once(*(lambda number=number: claim_all(number) for number in range(4)))
    assert sorted(name for names_won in won for name in names_won) == names  # type: ignore[attr-defined]  # lists


class ReadCheckPut(MemoryStore):
    """The mistake that the races have to catch."""

    def compare_and_set(self, key: str, value: Plain, expected: int) -> int:
        found = self.get_versioned(key)
        if (found[1] if found else 0) != expected:
            raise VersionConflict(key, expected, None)
        self.put(key, value)
        found = self.get_versioned(key)
        assert found is not None
        return found[1]


def ends(one: TaskManager, two: TaskManager, name: str) -> list[Callable[[], object]]:
    def report() -> str:
        one.report("a", name, "result")
        return "completed"

    def give_up() -> str:
        one.fail_task(name, "failed", agent_id="a")
        return "pending"

    def cancel() -> object:
        return two.cancel_task(name) and "cancelled"

    def end() -> str:
        two.fail_task(name, "broken")
        return "failed"

    return [report, give_up, cancel, end]


def winners(managers: list[TaskManager], rounds: int) -> list[int]:
    """How many of report, fail, cancel and an administrator's end won, for each task."""
    counts = []
    one, two = managers
    for number in range(rounds):
        name = f"t{number}"
        one.submit(Task(id=name, constraints={"max_retries": 3}))
        assert one.claim("a", name)
        outcomes = at_once(*ends(one, two, name))
        won = [outcome for outcome in outcomes if isinstance(outcome, str)]
        lost = [outcome for outcome in outcomes if outcome is not False and not isinstance(outcome, str)]
        assert all(isinstance(outcome, ClaimLost | InvalidTransition) for outcome in lost), lost
        # after the claimant gave it back, the task is open, so that an administrator may still end it
        counts.append(len([outcome for outcome in won if outcome != "pending"]) or len(won))
        task = managers[1].get_task(name)
        assert task is not None
        if counts[-1] == 1:
            assert task.state.value in won
            assert task.result == ("result" if task.state is TaskState.COMPLETED else None)
    return counts


def test_report_fail_and_cancel_at_one_instant_have_one_winner(open_manager: Callable[[], TaskManager]) -> None:
    assert set(winners([open_manager(), open_manager()], 300)) == {1}


def test_the_race_catches_a_store_that_reads_checks_and_puts() -> None:
    for _ in range(20):
        store = ReadCheckPut()
        try:
            if max(winners([TaskManager(store), TaskManager(store)], 40)) > 1:
                return
        except AssertionError:
            return  # the winner's state is not the stored one
    pytest.fail("two winners were never seen")


def test_an_agent_that_claims_twice_at_one_instant_gets_one_claim(open_manager: Callable[[], TaskManager]) -> None:
    manager = open_manager()
    for number in range(40):
        manager.submit(Task(id=f"t{number}"))
        claims = at_once(*[lambda name=f"t{number}": manager.claim("a", name)] * 3)
        assert len(set(claims)) == 1, claims
        manager.report("a", f"t{number}", None)


def test_a_release_takes_nothing_from_one_who_reports(open_manager: Callable[[], TaskManager], clock: object) -> None:
    owner, reaper = open_manager(), open_manager()
    for number in range(40):
        name = f"t{number}"
        owner.submit(Task(id=name, constraints={"claim_ttl_sec": 1}))
        assert owner.claim("a", name)
        clock.advance(2)  # type: ignore[attr-defined]  # a ManualClock
        report, released = at_once(
            lambda name=name: owner.report("a", name, 1),  # type: ignore[misc]  # a default binds the name
            reaper.release_expired_claims,
        )
        task = reaper.get_task(name)
        assert task is not None
        if report is None:
            assert (task.state, task.result, released) == (TaskState.COMPLETED, 1, [])
        else:
            assert isinstance(report, ClaimLost)
            assert (task.state, released) == (TaskState.PENDING, [name])
            assert owner.cancel_task(name)


def test_submitting_one_id_at_one_instant_makes_one_task(open_manager: Callable[[], TaskManager]) -> None:
    managers = [open_manager(), open_manager()]
    for number in range(30):
        name = f"t{number}"
        same = at_once(*[lambda name=name, one=one: one.submit(Task(id=name)) for one in managers])
        assert same == [name, name]
        differing = at_once(
            *[lambda name=name, one=one: one.submit(Task(id=f"{name}x", objective=str(one))) for one in managers]
        )
        assert sorted(type(outcome).__name__ for outcome in differing) == ["TaskConflict", "str"]
    assert len(managers[1].list_pending_tasks()) == 60


def claim_and_report(manager: TaskManager, name: str) -> None:
    if manager.claim("a", name):
        manager.report("a", name, 1)


def test_a_submitted_object_ends_as_the_store_does_whoever_was_faster(
    open_manager: Callable[[], TaskManager],
) -> None:
    manager = open_manager()
    for number in range(40):
        task = Task(id=f"t{number}")
        manager.submit(task)
        at_once(
            lambda name=task.id: claim_and_report(manager, name),  # type: ignore[misc]  # a default binds the name
            lambda name=task.id: manager.cancel_task(name),  # type: ignore[misc]  # as above
            manager.sync,
        )
        stored = manager.get_task(task.id)
        assert stored is not None
        assert (task.state, task.result, task.error) == (stored.state, stored.result, stored.error)


def test_listing_while_others_work_misses_no_pending_task(open_manager: Callable[[], TaskManager]) -> None:
    manager = open_manager()
    names = [f"t{number:02}" for number in range(60)]

    def submit() -> None:
        for name in names:
            manager.submit(Task(id=name))

    def work(agent: str) -> list[str]:
        done: list[str] = []
        while not submitted.is_set() or manager.list_pending_tasks():
            for task in manager.list_pending_tasks_for_agent(agent, limit=3):
                if manager.claim(agent, task.id):
                    manager.report(agent, task.id, agent)
                    done.append(task.id)
        return done

    submitted = threading.Event()

    def submit_all() -> None:
        submit()
        submitted.set()

    results = at_once(submit_all, lambda: work("a"), lambda: work("b"))
    assert sorted([*results[1], *results[2]]) == names  # type: ignore[misc]  # lists of names
    assert manager.progress().pending == 0
