"""Trust from what became of tasks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve

from converge.coordination.pool_manager import PoolManager
from converge.coordination.pool_outcomes import TaskTrust, outcomes_of
from converge.coordination.task_manager import TaskManager
from converge.coordination.task_record import MAX_HISTORY, TaskRecord
from converge.core.task import Task
from converge.extensions.storage.memory import MemoryStore
from converge.policy.trust import TrustModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.core.store import Store, VersionedStore


def trust_in(store: Store) -> TrustModel:
    return TrustModel(half_life_sec=math.inf, store=store)


def expected(successes: int, failures: int) -> Any:
    return pytest.approx((successes + 1) / (successes + failures + 2))


def claimed(tasks: TaskManager, task_id: str, agent_id: str, **constraints: Any) -> None:
    tasks.submit(Task(id=task_id, constraints=constraints))
    assert tasks.claim(agent_id, task_id)


def test_what_claimants_did_counts_and_what_others_decided_does_not(
    open_store: Callable[[], VersionedStore], clock: Any
) -> None:
    store = open_store()
    tasks, model = TaskManager(store, clock=clock), trust_in(store)
    trust = TaskTrust(store, model)
    claimed(tasks, "done", "good")
    tasks.report("good", "done", 1)
    claimed(tasks, "failed", "bad")
    tasks.fail_task("failed", "cannot", agent_id="bad")
    claimed(tasks, "retried", "bad", max_retries=1)
    tasks.fail_task("retried", "again", agent_id="bad")
    assert tasks.claim("good", "retried")
    tasks.report("good", "retried", 1)
    claimed(tasks, "late", "slow", claim_ttl_sec=5.0)
    clock.advance(6)
    assert tasks.release_expired_claims(clock.monotonic()) == ["late"]
    claimed(tasks, "lost", "slow", claim_ttl_sec=5.0, max_attempts=1)
    clock.advance(6)
    tasks.release_expired_claims(clock.monotonic())
    claimed(tasks, "cancelled", "other")
    tasks.cancel_task("cancelled")
    claimed(tasks, "ended", "other", max_retries=1)
    tasks.fail_task("ended", "enough")
    claimed(tasks, "given back", "other")
    tasks.release_claims("other")
    claimed(tasks, "running", "other")
    assert trust.poll() == 6
    assert trust.poll() == 0
    assert model.get_trust("good") == expected(2, 0)
    assert model.get_trust("bad") == expected(0, 2)
    assert model.get_trust("slow") == expected(0, 2)
    assert model.get_trust("other") == 0.5


def test_an_administrator_who_fails_a_task_after_its_claimant_did_blames_nobody_twice(
    open_store: Callable[[], VersionedStore], clock: Any
) -> None:
    store = open_store()
    tasks, model = TaskManager(store, clock=clock), trust_in(store)
    claimed(tasks, "t", "a", max_retries=2)
    tasks.fail_task("t", "again", agent_id="a")
    assert tasks.claim("b", "t")
    tasks.fail_task("t", "enough")
    assert TaskTrust(store, model).poll() == 1
    assert (model.get_trust("a"), model.get_trust("b")) == (expected(0, 1), 0.5)


def test_any_number_that_follow_one_store_and_restarts_count_once(
    open_store: Callable[[], VersionedStore], clock: Any
) -> None:
    store = open_store()
    tasks = TaskManager(store, clock=clock)
    followers = [TaskTrust(open_store(), trust_in(open_store())) for _ in range(3)]
    for number in range(150):
        claimed(tasks, f"t{number}", "a")
        tasks.report("a", f"t{number}", number)
        if number % 50 == 0:
            followers[number // 50].poll()
    counted = [follower.poll() for follower in followers]
    assert sum(counted) < 150
    for follower in followers:
        follower.close()
    late = TaskTrust(open_store(), trust_in(open_store()))
    assert late.poll() == 0
    assert TaskTrust(store, trust_in(store), name="another").poll() == 0
    assert trust_in(store).get_trust("a") == expected(150, 0)


def test_a_restart_goes_on_where_it_was_and_a_copied_store_begins_anew() -> None:
    store = MemoryStore()
    tasks, model = TaskManager(store), trust_in(store)
    first = TaskTrust(store, model)
    claimed(tasks, "t", "a")
    tasks.report("a", "t", 1)
    assert first.poll() == 1
    first.close()
    remembered = store.get("trust-feed:default")
    assert isinstance(remembered, int)
    looked: list[int | None] = []

    class Watching(MemoryStore):
        def changes(self, cursor: int | None = None, prefix: str = "") -> Any:
            if prefix == "task:":
                looked.append(cursor)
            return super().changes(cursor, prefix)

    copy = Watching()
    for key in store.list():
        copy.put(key, store.get(key))
    copy.put("trust-feed:default", 10_000)
    assert TaskTrust(copy, trust_in(copy)).poll() == 0
    assert looked == [0]
    other = TaskTrust(store, model)
    claimed(tasks, "u", "a")
    tasks.report("a", "u", 1)
    assert other.poll() == 1
    assert model.get_trust("a") == expected(2, 0)


def test_the_trust_model_of_a_pool_learns_from_the_tasks_of_the_pool(
    open_store: Callable[[], VersionedStore], clock: Any
) -> None:
    store = open_store()
    pools, tasks = PoolManager(store), TaskManager(store, clock=clock)
    spec = {"use": "default", "half_life_sec": math.inf}
    pools.create_pool({"id": "p", "trust_model": spec, "trust_threshold": 0.6})
    pools.create_pool({"id": "untrusting"})
    trust = TaskTrust(store, pools=pools)
    tasks.add_listener(trust)
    assert not pools.join_pool("a", "p")
    for pool in ("p", "untrusting", "missing", None):
        tasks.submit(Task(id=f"of {pool}", pool_id=pool))
        assert tasks.claim("a", f"of {pool}")
        tasks.report("a", f"of {pool}", 1)
    assert PoolManager(open_store()).join_pool("a", "p")
    model = pools.get_pool("p").trust_model  # type: ignore[union-attr]  # it was made above
    assert model is not None
    assert model.get_trust("a") == expected(1, 0)
    assert (trust.poll(), trust.counters) == (0, {})


def test_a_pool_and_a_model_for_all_both_learn() -> None:
    store = MemoryStore()
    pools, tasks, model = PoolManager(store), TaskManager(store), trust_in(store)
    pools.create_pool({"id": "p", "trust_model": "default"})
    tasks.submit(Task(id="t", pool_id="p"))
    assert tasks.claim("a", "t")
    tasks.report("a", "t", 1)
    assert TaskTrust(store, model, pools=pools).poll() == 1
    own = pools.get_pool("p").trust_model  # type: ignore[union-attr]  # it was made above
    assert own is not None
    assert own.get_trust("a") == pytest.approx(2 / 3, abs=1e-6)
    assert model.get_trust("a") == expected(1, 0)


def test_a_model_that_refuses_and_records_that_are_none_stop_nothing(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    tasks, model = TaskManager(store), trust_in(store)
    for agent in ("a", "b"):
        claimed(tasks, agent, agent)
        tasks.report(agent, agent, 1)
    store.put("trust:default:a", "odd")
    store.put("task:odd", {"id": "odd"})
    trust = TaskTrust(store, model)
    assert trust.poll() == 1
    assert trust.counters == {"failed": 1}
    assert model.get_trust("b") == expected(1, 0)
    assert "holds no task" in caplog.text
    assert "holds no trust" in caplog.text


def test_a_poll_that_the_store_failed_is_made_good_by_the_next() -> None:
    class Failing(MemoryStore):
        fails = False

        def compare_and_set(self, key: str, value: Any, expected: int) -> int:
            if self.fails and key == "trust:default:b":
                raise OSError(28, "No space left on device")
            return super().compare_and_set(key, value, expected)

    store = Failing()
    tasks, model = TaskManager(store), trust_in(store)
    for agent in ("a", "b"):
        claimed(tasks, agent, agent)
        tasks.report(agent, agent, 1)
    trust = TaskTrust(store, model)
    store.fails = True
    with pytest.raises(OSError, match="No space"):
        trust.poll()
    store.fails = False
    assert trust.poll() == 1
    assert (model.get_trust("a"), model.get_trust("b")) == (expected(1, 0), expected(1, 0))


def ended(**changes: Any) -> TaskRecord:
    record = TaskRecord.of(Task(id="t"), 1.0).claim("a", 2.0).fail("a", 1, "no", 3.0)
    return evolve(record, **changes)


def test_a_history_that_lost_events_blames_nobody_for_its_last_one() -> None:
    assert [outcome.key for outcome in outcomes_of(ended())] == ["t#1"]
    assert outcomes_of(ended(failures=0)) == []
    long = [*[[1.0, "claimed", "a", 1, None]] * (MAX_HISTORY - 1), [2.0, "failed", "a", 1, "no"]]
    assert outcomes_of(ended(history=long)) == []


@pytest.mark.parametrize(
    "event",
    [
        None,
        [],
        "completed",
        [1.0, "completed", "a", 1],
        [None, "completed", "a", 1, None],
        [math.nan, "completed", "a", 1, None],
        [-1.0, "completed", "a", 1, None],
        [True, "completed", "a", 1, None],
        [1.0, "completed", None, 1, None],
        [1.0, "completed", "", 1, None],
        [1.0, "completed", "a", True, None],
        [1.0, "completed", "a", 0, None],
        [1.0, "expired", "a", 1, None],
        [1.0, ["completed"], "a", 1, None],
    ],
)
def test_an_event_that_is_none_is_no_outcome(event: Any) -> None:
    assert outcomes_of(ended(history=[event, [3.0, "completed", "a", 2, None]]))[:-1] == []
