"""Limits that several processes share: never more than they allow, whoever asks, and a restart gives nothing."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converge.core.store import VersionedStore
from converge.extensions.storage.memory import MemoryStore
from converge.extensions.storage.sqlite import SQLiteStore
from converge.policy.limits import Exceeded, Limiter, Limits, take
from converge.policy.rates import Limit
from converge.policy.shared_limits import SharedLimiter

if TYPE_CHECKING:
    from pathlib import Path

START = 1_700_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def used(limiter: SharedLimiter, name: str, count: int) -> int:
    """How many of a batch of `count` the limiter allows."""
    limiter.reserve({name: count})
    return sum(take([limiter], [name]) is None for _ in range(count))


def test_what_one_has_used_up_the_others_cannot_use(clock: Clock) -> None:
    store, limits = MemoryStore(), Limits(messages=Limit(total=5), tasks=Limit(total=1))
    one, two = (SharedLimiter(limits, "pool p", store, clock=clock) for _ in range(2))
    assert (used(one, "messages", 3), used(two, "messages", 3), used(one, "messages", 1)) == (3, 2, 0)
    assert used(two, "tasks", 2) == 1
    later = SharedLimiter(limits, "pool p", store, clock=clock)
    assert used(later, "messages", 1) == 0, "a restart gives nothing"
    other = SharedLimiter(limits, "pool q", store, clock=clock)
    assert used(other, "messages", 9) == 5


def test_who_is_refused_learns_which_limit_it_is_and_how_long_to_wait(clock: Clock) -> None:
    limiter = SharedLimiter(Limits(messages=Limit(per_minute=6, burst=1)), "pool p", MemoryStore(), clock=clock)
    assert used(limiter, "messages", 1) == 1
    limiter.reserve({"messages": 1})
    exceeded = take([limiter], ["messages"])
    assert isinstance(exceeded, Exceeded)
    assert (exceeded.owner, exceeded.scope, round(exceeded.wait_sec, 6)) == ("pool p", "pool", 10.0)
    assert str(exceeded).endswith("6 per minute, 1 at once; possible again in 10 s")
    clock.now += 10
    assert used(limiter, "messages", 2) == 1


def test_without_a_reservation_nothing_is_allowed(clock: Clock) -> None:
    limiter = SharedLimiter(Limits(messages=Limit(total=5)), "pool p", MemoryStore(), clock=clock)
    assert isinstance(take([limiter], ["messages"]), Exceeded)
    assert take([limiter], ["claims"]) is None, "what is not limited needs none"


def test_what_a_batch_has_left_is_for_the_next_one(clock: Clock) -> None:
    store = MemoryStore()
    limiter = SharedLimiter(Limits(messages=Limit(total=3)), "pool p", store, clock=clock)
    limiter.reserve({"messages": 3})
    assert take([limiter], ["messages"]) is None
    (record,) = [store.get(key) for key in store.list("limits:")]
    assert used(limiter, "messages", 2) == 2
    assert [store.get(key) for key in store.list("limits:")] == [record]


def test_a_limit_that_is_changed_begins_anew_and_the_others_go_on(clock: Clock) -> None:
    store = MemoryStore()
    one = SharedLimiter(Limits(messages=Limit(total=2), claims=Limit(total=2)), "pool p", store, clock=clock)
    assert (used(one, "messages", 5), used(one, "claims", 5)) == (2, 2)
    two = SharedLimiter(Limits(messages=Limit(total=3), claims=Limit(total=2)), "pool p", store, clock=clock)
    assert (used(two, "messages", 5), used(two, "claims", 5)) == (3, 0)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5), st.floats(-3, 5)), max_size=40),
    st.integers(1, 5),
    st.sampled_from([0.5, 2.0]),
)
@settings(max_examples=150)
def test_however_the_processes_ask_no_window_has_more_than_the_rate(
    steps: list[tuple[int, int, float]], burst: int, rate: float
) -> None:
    clock, store = Clock(), MemoryStore()
    limits = Limits(messages=Limit(per_second=rate, burst=burst))
    limiters = [SharedLimiter(limits, "pool p", store, clock=clock) for _ in range(3)]
    latest, allowed = 0.0, []  # of the times that it was asked at: it knows no others
    for who, count, pause in steps:
        clock.now += pause
        latest = max(latest, clock.now)
        allowed += [latest] * used(limiters[who], "messages", count)
    for index, begin in enumerate(allowed):
        for end_index in range(index, len(allowed)):
            assert end_index - index + 1 <= burst + rate * (allowed[end_index] - begin) + 1e-6


class ReadsThenPuts(SharedLimiter):
    """Forgets that somebody may come between."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        store = self._store

        class Careless:
            blocking = store.blocking
            get_versioned = store.get_versioned

            @staticmethod
            def compare_and_set(key: str, value: Any, expected: int) -> int:
                store.put(key, value)
                return 1

        self._store = Careless()  # type: ignore[assignment]  # as far as it is used


def spend(path: str, kind: type[SharedLimiter], tries: int, results: Any, barrier: Any) -> None:
    with SQLiteStore(path, durability="process") as store:
        limiter = kind(Limits(messages=Limit(total=300)), "pool p", store)
        barrier.wait(60)
        results.put(sum(used(limiter, "messages", 1) for _ in range(tries)))


def spent_together(path: Path, kind: type[SharedLimiter]) -> int:
    """How many messages four processes may send that try 150 each, where 300 are allowed."""
    SQLiteStore(path, durability="process").close()
    context = multiprocessing.get_context("spawn")
    results, barrier = context.Queue(), context.Barrier(4)
    processes = [context.Process(target=spend, args=(str(path), kind, 150, results, barrier)) for _ in range(4)]
    for process in processes:
        process.start()
    total = sum(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return int(total)


def test_four_processes_spend_a_budget_exactly(tmp_path: Path) -> None:
    assert spent_together(tmp_path / "store.db", SharedLimiter) == 300


def test_the_race_catches_a_limiter_that_reads_and_then_puts(tmp_path: Path) -> None:
    assert spent_together(tmp_path / "store.db", ReadsThenPuts) > 300


@pytest.mark.parametrize("record", [3, {"messages": {"limit": "x"}}, {}])
def test_a_record_of_another_shape_begins_anew_or_is_an_error(record: Any, clock: Clock) -> None:
    store = MemoryStore()
    store.put("limits:pool p", record)
    limiter = SharedLimiter(Limits(messages=Limit(total=1)), "pool p", store, clock=clock)
    if isinstance(record, dict):
        assert used(limiter, "messages", 2) == 1
    else:
        with pytest.raises(ValueError, match="delete it to begin anew"):
            limiter.reserve({"messages": 1})


@pytest.mark.parametrize("state", [["x", 1.0], [float("nan"), 1.0], [True, 1], [1.0]])
def test_a_count_that_is_none_is_an_error(state: Any, clock: Clock) -> None:
    limit, store = Limit(total=1), MemoryStore()
    store.put("limits:pool p", {"messages": {"limit": repr(limit), "meters": [state]}})
    limiter = SharedLimiter(Limits(messages=limit), "pool p", store, clock=clock)
    with pytest.raises(ValueError):
        limiter.reserve({"messages": 1})


def test_it_says_whether_it_may_block(tmp_path: Path) -> None:
    with SQLiteStore(tmp_path / "store.db") as store:
        assert isinstance(store, VersionedStore)
        assert SharedLimiter(Limits(), "pool p", store).blocking
    assert not SharedLimiter(Limits(), "pool p", MemoryStore()).blocking
    assert isinstance(SharedLimiter(Limits(), "pool p", MemoryStore()), Limiter)
