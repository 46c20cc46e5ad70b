"""Expiry, renewal, fencing and the bound on attempts, with a clock that the test moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from converge.coordination.errors import ClaimLost
from converge.coordination.task_manager import TaskManager
from converge.core.task import Task, TaskState

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.core.plain import Plain
    from converge.core.store import VersionedStore
    from tests.core.coordination.conftest import ManualClock

TTL = 30.0


def submit(manager: TaskManager, task_id: str = "t", **constraints: Plain) -> None:
    manager.submit(Task(id=task_id, constraints={"claim_ttl_sec": TTL, **constraints}))


def get(manager: TaskManager, task_id: str = "t") -> Task:
    task = manager.get_task(task_id)
    assert task is not None
    return task


def test_a_live_claim_is_released_neither_early_nor_twice(manager: TaskManager, clock: ManualClock) -> None:
    submit(manager)
    assert manager.claim("a", "t")
    clock.advance(TTL - 1)
    assert manager.release_expired_claims() == []
    assert not manager.claim("b", "t")
    clock.advance(1)
    assert manager.release_expired_claims() == ["t"]
    assert manager.release_expired_claims() == []
    assert (get(manager).state, get(manager).assigned_to) == (TaskState.PENDING, None)


def test_now_ts_is_a_monotonic_reading_of_any_moment(manager: TaskManager, clock: ManualClock) -> None:
    submit(manager)
    assert manager.claim("a", "t")
    assert manager.release_expired_claims(clock.monotonic() + TTL - 1) == []
    assert manager.release_expired_claims(clock.monotonic() + TTL) == ["t"]


def test_another_host_with_another_uptime_releases_at_the_same_moment(
    manager: TaskManager, open_store: Callable[[], VersionedStore], clock: ManualClock
) -> None:
    submit(manager)
    assert manager.claim("a", "t")
    elsewhere = type(clock)(wall=clock.time(), uptime=5_000_000.0)
    reaper = TaskManager(open_store(), clock=elsewhere)
    elsewhere.advance(TTL - 1)
    assert reaper.release_expired_claims(elsewhere.monotonic()) == []
    elsewhere.advance(1)
    assert reaper.release_expired_claims(elsewhere.monotonic()) == ["t"]


def test_a_wall_clock_set_back_does_not_keep_a_dead_claim(
    manager: TaskManager, open_manager: Callable[[], TaskManager], clock: ManualClock
) -> None:
    submit(manager)
    assert manager.claim("a", "t")
    reaper = open_manager()
    reaper.sync()
    clock.set_back(3_600)
    clock.advance(TTL - 1)
    assert reaper.release_expired_claims() == []
    clock.advance(1)
    assert reaper.release_expired_claims() == ["t"]


def test_a_working_agent_keeps_its_claim_when_the_wall_clock_is_set_back(
    manager: TaskManager, open_manager: Callable[[], TaskManager], clock: ManualClock
) -> None:
    submit(manager)
    assert manager.claim("a", "t")
    manager.sync()
    reaper = open_manager()
    reaper.sync()
    clock.set_back(3_600)
    for _ in range(12):
        pause = manager.renew_claims("a")
        assert pause is not None
        assert reaper.release_expired_claims() == []
        clock.advance(pause)


def test_claims_are_renewed_at_a_third_of_their_ttl(
    manager: TaskManager, open_manager: Callable[[], TaskManager], clock: ManualClock
) -> None:
    assert manager.renew_claims("a") is None
    submit(manager)
    claim = manager.claim("a", "t")
    assert claim
    assert manager.renew_claims("a") == pytest.approx(TTL / 3)
    for _ in range(10):
        clock.advance(TTL / 3)
        assert manager.renew_claims("a") == pytest.approx(TTL / 3)
        assert open_manager().release_expired_claims() == []
    assert manager.claim("a", "t") == manager.renew_claim("a", "t")
    assert get(manager).attempt == 1
    assert open_manager().renew_claims("a") is None


def test_renewals_end_at_the_timeout(manager: TaskManager, clock: ManualClock) -> None:
    submit(manager, timeout_sec=2 * TTL, max_attempts=2)
    assert manager.claim("a", "t")
    rounds = 0
    while (pause := manager.renew_claims("a")) is not None:
        clock.advance(pause)
        rounds += 1
        assert rounds < 10
    assert manager.counters["claims_lost"] == 0
    assert manager.release_expired_claims() == []
    clock.advance(TTL)
    assert manager.release_expired_claims() == ["t"]
    assert manager.claim("a", "t")
    clock.advance(2 * TTL)
    with pytest.raises(ClaimLost, match="timeout_sec is over"):
        manager.renew_claim("a", "t")


def test_a_claim_that_was_lost_is_noticed_at_the_renewal(
    manager: TaskManager, open_manager: Callable[[], TaskManager], clock: ManualClock
) -> None:
    submit(manager)
    assert manager.claim("a", "t")
    assert manager.renew_claims("a") is not None
    clock.advance(TTL)
    assert open_manager().claim("b", "t")
    assert manager.renew_claims("a") is None
    with pytest.raises(ClaimLost, match="b holds it"):
        manager.renew_claim("a", "t")


def test_a_stale_claimant_is_fenced_off(
    manager: TaskManager, open_manager: Callable[[], TaskManager], clock: ManualClock
) -> None:
    submit(manager)
    stale = manager.claim("a", "t")
    assert stale
    clock.advance(TTL)
    other = open_manager()
    assert other.claim("b", "t")
    for move in (
        lambda: manager.report("a", "t", "stale"),
        lambda: manager.fail_task("t", "stale", agent_id="a"),
        lambda: manager.renew_claim("a", "t"),
    ):
        with pytest.raises(ClaimLost, match="b holds it"):
            move()
    other.report("b", "t", "good")
    with pytest.raises(ClaimLost, match="it is completed"):
        manager.report("a", "t", "stale")
    assert get(manager).result == "good"


def test_an_old_attempt_of_the_same_agent_is_fenced_off_too(
    manager: TaskManager, open_manager: Callable[[], TaskManager], clock: ManualClock
) -> None:
    submit(manager)
    first = manager.claim("a", "t")
    restarted = open_manager()
    second = restarted.claim("a", "t")
    assert first
    assert second
    assert (first.attempt, second.attempt) == (1, 2)
    with pytest.raises(ClaimLost, match="attempt 2 holds it, this is attempt 1"):
        manager.report("a", "t", "from the one that was paused")
    with pytest.raises(ClaimLost):
        restarted.report("a", "t", "an old token", claim=first)
    clock.advance(TTL)
    assert restarted.release_expired_claims() == ["t"]
    with pytest.raises(ClaimLost, match="nobody holds it"):
        restarted.report("a", "t", "too late")
    third = restarted.claim("a", "t")
    assert third
    with pytest.raises(ClaimLost):
        restarted.report("a", "t", "an old token", claim=second)
    restarted.report("a", "t", "good", claim=third)


def test_a_claim_given_has_to_be_the_callers(manager: TaskManager) -> None:
    for name in "tu":
        submit(manager, name)
    claim = manager.claim("a", "t")
    assert claim
    assert manager.claim("b", "u")
    for agent, task_id in (("b", "t"), ("a", "u")):
        with pytest.raises(ClaimLost, match="the claim given is on task t by a"):
            manager.report(agent, task_id, 1, claim=claim)


def test_claiming_what_i_hold_gives_the_same_claim(manager: TaskManager) -> None:
    submit(manager)
    claim = manager.claim("a", "t")
    assert claim
    assert manager.claim("a", "t") == claim


def test_an_expired_claim_that_nobody_took_may_report(manager: TaskManager, clock: ManualClock) -> None:
    submit(manager)
    assert manager.claim("a", "t")
    clock.advance(10 * TTL)
    manager.report("a", "t", "late, and still good")
    assert manager.release_expired_claims() == []
    assert get(manager).result == "late, and still good"


def test_a_restarted_agent_goes_on_at_once(manager: TaskManager, open_manager: Callable[[], TaskManager]) -> None:
    for name in "tuv":
        submit(manager, name)
    assert manager.claim("a", "t")
    assert manager.claim("a", "u")
    assert manager.claim("b", "v")
    restarted = open_manager()
    assert [(claim.task_id, claim.attempt) for claim in restarted.take_over("a")] == [("t", 2), ("u", 2)]
    assert restarted.take_over("a") == []
    restarted.report("a", "t", 1)
    assert [(claim.task_id, claim.attempt) for claim in manager.take_over("a")] == [("u", 3)]
    assert get(manager, "v").assigned_to == "b"


def test_an_agent_that_stops_gives_back_what_it_claimed_here(
    manager: TaskManager, open_manager: Callable[[], TaskManager]
) -> None:
    for name in "tuv":
        submit(manager, name)
    other = open_manager()
    assert manager.claim("a", "t")
    assert other.claim("a", "u")
    assert manager.claim("b", "v")
    assert manager.release_claims("a") == ["t"]
    assert manager.release_claims("a") == []
    assert [task.id for task in other.list_pending_tasks()] == ["t"]
    with pytest.raises(ClaimLost):
        manager.report("a", "t", "after giving it back")


def test_a_poison_task_is_given_up_and_says_why(
    manager: TaskManager, open_manager: Callable[[], TaskManager], clock: ManualClock
) -> None:
    submit(manager, max_retries=3)
    handed_out = 0
    while open_manager().claim(f"w{handed_out}", "t"):
        handed_out += 1
        clock.advance(TTL)
        assert handed_out < 50
    assert handed_out == 4
    task = get(manager)
    assert (task.state, task.error) == (TaskState.FAILED, "lease expired at attempt 4 of 4")
    assert manager.list_pending_tasks() == []


def test_taking_over_again_and_again_ends_too(manager: TaskManager, open_manager: Callable[[], TaskManager]) -> None:
    submit(manager, max_attempts=3)
    assert manager.claim("a", "t")
    taken = [bool(open_manager().take_over("a")) for _ in range(4)]
    assert taken == [True, True, False, False]
    assert get(manager).state is TaskState.FAILED


def test_a_failing_claimant_retries_as_often_as_the_task_says(manager: TaskManager) -> None:
    submit(manager, max_retries=1)
    assert manager.claim("a", "t")
    manager.fail_task("t", "first", agent_id="a")
    assert get(manager).state is TaskState.PENDING
    assert manager.claim("b", "t")
    manager.fail_task("t", "second", agent_id="b")
    assert (get(manager).state, get(manager).error) == (TaskState.FAILED, "second")


def test_nobody_starts_after_the_deadline(manager: TaskManager, clock: ManualClock) -> None:
    for name in "tuv":
        submit(manager, name, deadline=clock.time() + 10)
    assert manager.claim("a", "t")
    clock.advance(9)
    assert manager.release_expired_claims() == []
    clock.advance(1)
    assert not manager.claim("a", "u")
    assert get(manager, "u").state is TaskState.FAILED
    assert manager.release_expired_claims() == ["v"]
    assert get(manager, "v").error == "the deadline has passed: no attempt may start any more"
    manager.report("a", "t", "it had begun in time")


def test_a_reaper_with_an_old_view_takes_nothing_back(
    manager: TaskManager, open_manager: Callable[[], TaskManager], clock: ManualClock
) -> None:
    for name in "tu":
        submit(manager, name)
    reaper = open_manager()
    assert manager.claim("a", "t")
    assert manager.claim("a", "u")
    reaper.sync()
    clock.advance(TTL)
    manager.report("a", "t", "done")
    manager.renew_claim("a", "u")
    assert reaper.release_expired_claims() == []
    assert get(manager).result == "done"
