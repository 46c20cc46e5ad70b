"""Contracts: announced, bid for, awarded as a lease, and passed on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from converge.coordination.contract_net import ContractNet, ContractState
from converge.coordination.errors import ContractRefused, ForeignRecord, InvalidTransition, UnknownTask
from converge.coordination.task_manager import TaskManager
from converge.core.errors import VersionConflict
from converge.core.task import Task, TaskState
from converge.extensions.storage.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.core.plain import Plain
    from converge.core.store import VersionedStore
    from tests.core.coordination.conftest import ManualClock


@pytest.fixture
def open_net(
    open_store: Callable[[], VersionedStore], clock: ManualClock
) -> Callable[[], tuple[ContractNet, TaskManager]]:
    """Gives a contract net and its task manager on the same data at each call."""

    def open_one() -> tuple[ContractNet, TaskManager]:
        store = open_store()
        tasks = TaskManager(store, clock=clock)
        return ContractNet(tasks, store, clock=clock), tasks

    return open_one


@pytest.fixture
def both(open_net: Callable[[], tuple[ContractNet, TaskManager]]) -> tuple[ContractNet, TaskManager]:
    return open_net()


def announced(net: ContractNet, **terms: float) -> str:
    return net.announce("boss", Task(id="t"), closes_in_sec=60, **terms)  # type: ignore[arg-type]  # numbers


def holder(tasks: TaskManager) -> str | None:
    task = tasks.get_task("t")
    assert task is not None
    return task.assigned_to


def test_the_lowest_bid_gets_the_lease_and_nobody_else_the_task(
    both: tuple[ContractNet, TaskManager], clock: ManualClock
) -> None:
    net, tasks = both
    announced(net)
    for agent, amount in (("a", 5), ("b", 3), ("c", 3), ("d", 9)):
        net.bid(agent, "t", amount, {"why": agent})
    assert tasks.list_pending_tasks() == []
    assert tasks.claim("a", "t") is False
    with pytest.raises(ContractRefused, match="the bidding is not over"):
        net.award("boss", "t")
    clock.advance(60)
    claim = net.award("boss", "t")
    assert claim
    assert (claim.agent_id, claim.attempt) == ("b", 1), "of equal bids the first"
    assert tasks.claim("a", "t") is False
    started = tasks.claim("b", "t")
    assert started
    assert started.attempt == 1, "starting is no further attempt"
    tasks.report("b", "t", "done", claim=started)
    assert net.advance("t") is None
    assert net.get("t").state is ContractState.CLOSED
    assert [event.event for event in tasks.history("t")] == ["submitted", "awarded", "started", "completed"]


def test_the_runner_up_gets_it_when_the_winner_does_not_start_in_time(
    both: tuple[ContractNet, TaskManager], open_net: Callable[[], tuple[ContractNet, TaskManager]], clock: ManualClock
) -> None:
    net, tasks = both
    announced(net, start_within_sec=10)
    for agent, amount in (("a", 1), ("b", 2), ("c", 3)):
        net.bid(agent, "t", amount)
    first = net.award("boss", "t", early=True)
    assert net.advance("t") is None, "it has time left"
    clock.advance(10)
    other_net, other_tasks = open_net()
    assert other_tasks.release_expired_claims() == ["t"]
    second = other_net.advance("t")
    assert second
    assert (second.agent_id, second.attempt) == ("b", 2)
    assert net.advance("t") is None
    with pytest.raises(ValueError, match="not held by a"):
        tasks.report("a", "t", "late", claim=first or None)
    assert other_tasks.renew_claims("b") is not None, "renewing starts what was awarded"
    clock.advance(200)
    assert tasks.release_expired_claims() == []
    other_tasks.report("b", "t", "done")


def test_a_failed_attempt_goes_to_the_next_bidder_while_retries_are_left_and_then_the_task_fails(
    both: tuple[ContractNet, TaskManager], clock: ManualClock
) -> None:
    net, tasks = both
    net.announce("boss", Task(id="t", constraints={"max_retries": 5}), closes_in_sec=1, start_within_sec=5)
    for agent, amount in (("a", 1), ("b", 2)):
        net.bid(agent, "t", amount)
    net.award("boss", "t", early=True)
    tasks.claim("a", "t")
    tasks.fail_task("t", "too hard", agent_id="a")
    claim = net.advance("t")
    assert claim
    assert claim.agent_id == "b"
    clock.advance(5)
    tasks.release_expired_claims()
    assert net.advance("t") is None
    task = tasks.get_task("t")
    assert task is not None
    assert (task.state, task.error) == (TaskState.FAILED, "no bidder is left to do it")
    assert net.get("t").awards == [("a", 1), ("b", 2)]


def test_awards_that_nobody_starts_use_up_no_attempts(
    both: tuple[ContractNet, TaskManager], clock: ManualClock
) -> None:
    net, tasks = both
    net.announce("boss", Task(id="t", constraints={"max_retries": 0}), closes_in_sec=1, start_within_sec=5)
    for number in range(30):
        net.bid(f"a{number:02}", "t", number)
    net.award("boss", "t", early=True)
    for _ in range(29):
        clock.advance(5)
        tasks.release_expired_claims()
        assert net.advance("t")
    assert holder(tasks) == "a29"
    assert tasks.claim("a29", "t")
    tasks.report("a29", "t", 1)


def test_nobody_bids_closes_and_fails(both: tuple[ContractNet, TaskManager], clock: ManualClock) -> None:
    net, tasks = both
    announced(net)
    clock.advance(60)
    assert net.award("boss", "t") is None
    assert [task.error for task in tasks.list_dead()] == ["nobody has bid for it"]
    assert net.get("t").state is ContractState.CLOSED


def test_every_actor_is_checked(both: tuple[ContractNet, TaskManager], clock: ManualClock) -> None:
    net, tasks = both
    net.announce("boss", Task(id="t"), closes_in_sec=10, max_amount=5, bidders=["a", "b", "boss"])
    for agent, amount, why in (
        ("x", 1, "not among the bidders"),
        ("a", 6, "above 5"),
        ("boss", 1, "it is the initiator"),
    ):
        with pytest.raises(ContractRefused, match=why):
            net.bid(agent, "t", amount)
    for odd in (float("nan"), float("inf"), -1, True, "1", None):
        with pytest.raises(ValueError, match="amount is a finite number"):
            net.bid("a", "t", odd)  # type: ignore[arg-type]  # the point
    with pytest.raises(TypeError):
        net.bid("a", "t", 1, object())  # type: ignore[arg-type]  # the point
    net.bid("a", "t", 4)
    net.bid("a", "t", 2)
    assert [(bid.agent_id, bid.amount) for bid in net.get("t").bids] == [("a", 2.0)]
    with pytest.raises(ContractRefused, match="boss announced it, not a"):
        net.award("a", "t", early=True)
    with pytest.raises(ContractRefused, match="boss announced it, not a"):
        net.withdraw("a", "t")
    clock.advance(10)
    with pytest.raises(ContractRefused, match="the bidding is over"):
        net.bid("b", "t", 1)
    net.award("boss", "t")
    with pytest.raises(ContractRefused, match="it is awarded already"):
        net.award("boss", "t")
    with pytest.raises(UnknownTask):
        net.bid("a", "u", 1)
    for unknown in (net.get, net.advance):
        with pytest.raises(UnknownTask):
            unknown("u")
    tasks.submit(Task(id="free"))
    with pytest.raises(InvalidTransition, match="for whoever claims it"):
        tasks.award("free", "a")


def test_a_contract_that_is_withdrawn_ends_its_task(both: tuple[ContractNet, TaskManager]) -> None:
    net, tasks = both
    announced(net)
    net.bid("a", "t", 1)
    net.withdraw("boss", "t")
    assert tasks.get_task("t").state is TaskState.CANCELLED  # type: ignore[union-attr]  # it is there
    with pytest.raises(ContractRefused):
        net.bid("a", "t", 1)
    assert net.advance("t") is None


def test_announcing_again_is_safe_and_on_other_terms_refused(both: tuple[ContractNet, TaskManager]) -> None:
    net, _ = both
    assert announced(net) == announced(net) == "t"
    net.bid("a", "t", 1)
    assert announced(net) == "t"
    with pytest.raises(ContractRefused, match="by another agent or on other terms"):
        announced(net, start_within_sec=99)
    for terms in ({"closes_in_sec": -1.0}, {"closes_in_sec": 1.0, "start_within_sec": 0.0}):
        with pytest.raises(ValueError, match="_sec is"):
            net.announce("boss", Task(id="v"), **terms)  # type: ignore[arg-type]  # numbers


@pytest.mark.parametrize("nth", range(1, 12))
def test_whoever_dies_before_any_write_the_next_one_goes_on_and_each_attempt_has_one_award(
    nth: int, clock: ManualClock
) -> None:
    class Dying(MemoryStore):
        left = 1_000

        def _write(self, key: str, packed: bytes) -> int:
            self.left -= 1
            if self.left == 0:
                raise OSError("dead")
            return super()._write(key, packed)

    store = Dying()
    tasks = TaskManager(store, clock=clock)
    net = ContractNet(tasks, store, clock=clock)
    net.announce("boss", Task(id="t"), closes_in_sec=1, start_within_sec=5)
    for agent, amount in (("a", 1), ("b", 2)):
        net.bid(agent, "t", amount)
    store.left = nth
    for _ in range(12):
        tasks = TaskManager(store, clock=clock)
        net = ContractNet(tasks, store, clock=clock)
        try:
            if net.get("t").state is ContractState.ANNOUNCED:
                net.award("boss", "t", early=True)
            clock.advance(6)
            tasks.release_expired_claims()
            net.advance("t")
        except OSError:
            continue
    assert net.get("t").awards == [("a", 1), ("b", 2)]
    awarded = [(event.agent_id, event.attempt) for event in tasks.history("t") if event.event == "awarded"]
    assert awarded == [("a", 1), ("b", 2)]
    assert tasks.get_task("t").state is TaskState.FAILED  # type: ignore[union-attr]  # it is there


def test_an_award_that_was_overtaken_is_not_made(both: tuple[ContractNet, TaskManager]) -> None:
    _, tasks = both
    tasks.submit(Task(id="t", constraints={"award_only": True}))
    assert tasks.award("t", "a", attempt=1).attempt == 1
    with pytest.raises(InvalidTransition, match="1 is not the next"):
        tasks.award("t", "b", attempt=1)
    for seconds in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="start_within_sec"):
            tasks.award("t", "b", start_within_sec=seconds)


@pytest.mark.parametrize(
    "change",
    [
        {"task_id": "other"}, {"state": "no"}, {"bids": [["a"]]}, {"bids": 1}, {"awards": [["a", "1"]]},
        {"closes_at": "x"}, {"extra": 1}, {"initiator": None},
    ],
)  # fmt: skip
def test_what_is_no_contract_is_refused(change: dict[str, Plain]) -> None:
    store = MemoryStore()
    net = ContractNet(TaskManager(store), store)
    announced(net)
    found = store.get_versioned("contract:t")
    assert found is not None
    plain = found[0]
    assert isinstance(plain, dict)
    store.put("contract:t", plain | change)
    with pytest.raises(ForeignRecord):
        net.get("t")
    store.put("contract:t", 7)
    with pytest.raises(ForeignRecord):
        net.bid("a", "t", 1)


def test_bids_at_one_instant_are_all_kept(
    both: tuple[ContractNet, TaskManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    net, _ = both
    announced(net)
    store, conflicts = net._store, iter([True, True, False])
    original = store.compare_and_set

    def contended(key: str, value: Plain, expected: int) -> int:
        if next(conflicts, False):
            net_of_another.bid(f"other{next(numbers)}", "t", 1)
            raise VersionConflict(key, expected, None)
        return original(key, value, expected)

    net_of_another, numbers = ContractNet(net._tasks, store, clock=net._clock), iter(range(9))
    with monkeypatch.context() as patched:
        patched.setattr(store, "compare_and_set", contended)
        net.bid("a", "t", 1)
    assert "a" in {bid.agent_id for bid in net.get("t").bids}
    assert len(net.get("t").bids) >= 2
