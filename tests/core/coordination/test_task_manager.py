"""Submitting, listing and the plain way of a task, on both stores."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from converge.coordination.errors import ClaimLost, ForeignRecord, InvalidTransition, TaskConflict, UnknownTask
from converge.coordination.task_manager import TaskManager
from converge.core.store import Store
from converge.core.task import Task, TaskState
from converge.core.topic import Topic

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable

    from converge.core.plain import Plain
    from converge.core.store import VersionedStore
    from tests.core.coordination.conftest import ManualClock


def ids(tasks: list[Task]) -> list[str]:
    return [task.id for task in tasks]


def state(manager: TaskManager, task_id: str) -> tuple[TaskState, Plain]:
    task = manager.get_task(task_id)
    assert task is not None
    return task.state, task.result


def test_a_task_goes_from_submit_to_its_result(manager: TaskManager, open_manager: Callable[[], TaskManager]) -> None:
    task = Task(id="t", objective="add", inputs={"x": 1})
    assert manager.submit(task) == "t"
    other = open_manager()
    assert other.list_pending_tasks() == [task]
    claim = other.claim("a", "t")
    assert claim
    assert (claim.task_id, claim.agent_id, claim.attempt, claim.token) == ("t", "a", 1, 1)
    assert ids(manager.list_pending_tasks()) == []
    assert ids(manager.list_held_tasks("a")) == ["t"]
    assert task.state is TaskState.ASSIGNED
    other.report("a", "t", {"sum": 2})
    assert state(open_manager(), "t") == (TaskState.COMPLETED, {"sum": 2})
    manager.sync()
    assert (task.state, task.result, task.assigned_to, task.attempt) == (TaskState.COMPLETED, {"sum": 2}, "a", 1)


def test_without_a_store_a_manager_works_in_memory() -> None:
    manager = TaskManager()
    manager.submit(Task(id="t"))
    assert manager.claim("a", "t")
    assert not manager.blocking
    manager.report("a", "t", None)
    assert manager.list_pending_tasks() == []


class FourMethods(Store):
    """As a third party would write it."""

    def __init__(self) -> None:
        self.data: dict[str, Plain] = {}

    def put(self, key: str, value: Plain) -> None:
        self.data[key] = value

    def get(self, key: str) -> Plain:
        return self.data.get(key)

    def delete(self, key: str) -> None:
        self.data.pop(key, None)

    def list(self, prefix: str = "") -> builtins.list[str]:
        return sorted(key for key in self.data if key.startswith(prefix))


def test_a_store_of_four_methods_is_enough_in_one_process() -> None:
    store = FourMethods()
    one, two = TaskManager(store), TaskManager(store)
    one.submit_many([Task(id="t"), Task(id="u")])
    assert one.claim("a", "t")
    assert not two.claim("b", "t")
    assert two.claim("b", "u")
    one.report("a", "t", 1)
    assert ids(two.list_held_tasks("b")) == ["u"]
    assert state(TaskManager(store), "t") == (TaskState.COMPLETED, 1)


def test_submitting_again_never_resets_a_task(manager: TaskManager, open_manager: Callable[[], TaskManager]) -> None:
    task = Task(id="t", inputs={"x": (1, 2)})  # type: ignore[dict-item]  # a tuple is taken as a list
    manager.submit(task)
    assert manager.claim("a", "t")
    assert manager.submit(task) == "t"
    manager.report("a", "t", "done")
    assert task.state is TaskState.COMPLETED
    assert manager.submit(task) == "t"
    late = Task(id="t", inputs={"x": [1, 2]})
    assert open_manager().submit(late) == "t"
    assert (late.state, late.result) == (TaskState.COMPLETED, "done")
    assert state(manager, "t") == (TaskState.COMPLETED, "done")


@pytest.mark.parametrize("change", [{"objective": "x"}, {"inputs": {"a": 1}}, {"priority": 1}, {"pool_id": "p"}])
def test_another_task_under_the_same_id_is_a_conflict(manager: TaskManager, change: dict[str, Plain]) -> None:
    manager.submit(Task(id="t"))
    with pytest.raises(TaskConflict, match="choose a new id") as caught:
        manager.submit_many([Task(id="new"), Task(id="t", **change)])  # type: ignore[arg-type]  # of several kinds
    assert caught.value.task_id == "t"
    assert manager.get_task("new") is None
    with pytest.raises(TaskConflict):
        manager.submit_many([Task(id="u"), Task(id="u", **change)])  # type: ignore[arg-type]  # as above
    assert ids(manager.list_pending_tasks()) == ["t"]


def test_many_tasks_are_submitted_together_or_not_at_all(manager: TaskManager) -> None:
    assert manager.submit_many([]) == []
    assert manager.submit_many(Task(id=name) for name in "cab") == ["c", "a", "b"]
    assert ids(manager.list_pending_tasks()) == ["c", "a", "b"]
    bad: list[Task] = [Task(id="x", inputs={"o": object()}), Task(id="x", constraints={"max_retries": -1})]  # type: ignore[dict-item]  # the mistake
    bad += [Task(id="x" * 2_000), Task(id="x", state=TaskState.COMPLETED)]
    for task in bad:
        with pytest.raises((TypeError, ValueError)):
            manager.submit_many([Task(id="y"), task])
        assert manager.get_task("y") is None
    assert ids(manager.list_pending_tasks()) == ["c", "a", "b"]


def test_listed_tasks_are_the_callers_own(manager: TaskManager) -> None:
    manager.submit(Task(id="t", inputs={"x": [1]}, required_capabilities=["read"]))
    (task,) = manager.list_pending_tasks()
    task.inputs["x"] = 2
    task.required_capabilities.append("write")
    assert manager.list_pending_tasks()[0].inputs == {"x": [1]}
    assert manager.claim("a", "t")
    result: list[Plain] = [1]
    manager.report("a", "t", result)
    result.append(2)
    assert state(manager, "t") == (TaskState.COMPLETED, [1])


def test_what_an_agent_is_shown_fits_its_pools_capabilities_and_topics(manager: TaskManager) -> None:
    news = Topic("news", {"lang": "de"})
    manager.submit_many(
        [
            Task(id="free"),
            Task(id="pool", pool_id="p"),
            Task(id="skill", required_capabilities=["read", "write"]),
            Task(id="topic", topic=news),
        ]
    )

    def shown(**filters: object) -> str:
        return " ".join(ids(manager.list_pending_tasks_for_agent("a", **filters)))  # type: ignore[arg-type]  # varied

    assert shown() == "free pool skill topic"
    assert shown(pool_ids=[]) == "free skill topic"
    assert shown(pool_ids=["p", "q"]) == "free pool skill topic"
    assert shown(capabilities=[]) == "free pool topic"
    assert shown(capabilities=["read"]) == "free pool topic"
    assert shown(capabilities={"write", "read", "more"}) == "free pool skill topic"
    assert shown(topics=[]) == "free pool skill"
    assert shown(topics=[Topic("news")]) == "free pool skill"
    assert shown(topics=[Topic("news", {"lang": "de", "region": "ch"})]) == "free pool skill topic"
    assert shown(topics=[Topic("news", {"lang": "de"}, "2.0")]) == "free pool skill"
    assert shown(pool_ids=[], capabilities=[], topics=[]) == "free"
    with pytest.raises(TypeError, match='write \\["p"\\]'):
        shown(pool_ids="p")


def test_claiming_checks_what_the_agent_has(manager: TaskManager) -> None:
    manager.submit(Task(id="t", pool_id="p", required_capabilities=["c"]))
    assert not manager.claim("a", "t", pool_ids=[])
    assert not manager.claim("a", "t", pool_ids=["p"], capabilities=[])
    assert manager.claim("a", "t", pool_ids=["p"], capabilities=["c"])


def test_priority_goes_first_and_then_who_waits_longest(manager: TaskManager, clock: ManualClock) -> None:
    for name, priority in [("low", 0), ("high", 5), ("low2", 0), ("high2", 5)]:
        manager.submit(Task(id=name, priority=priority, pool_id=name[:1]))
        clock.set_back(10)
    assert ids(manager.list_pending_tasks()) == ["high", "high2", "low", "low2"]


def test_a_task_that_comes_back_waits_behind_its_priority(
    manager: TaskManager, open_manager: Callable[[], TaskManager]
) -> None:
    manager.submit_many([Task(id=f"t{n}", constraints={"max_retries": 5}) for n in range(4)])
    assert manager.claim("a", "t0")
    manager.fail_task("t0", "later", agent_id="a")
    order = ["t1", "t2", "t3", "t0"]
    assert ids(manager.list_pending_tasks()) == order
    assert ids(open_manager().list_pending_tasks()) == order
    assert set(ids(manager.list_pending_tasks_for_agent("a", limit=3))) <= set(order)


def test_the_order_of_waiting_survives_a_restart(manager: TaskManager, open_manager: Callable[[], TaskManager]) -> None:
    order = ["z", "m", "a", "q"]
    for name in order:
        manager.submit(Task(id=name))
    assert ids(open_manager().list_pending_tasks()) == order


def test_a_limit_bounds_the_list_and_spreads_the_agents(manager: TaskManager) -> None:
    manager.submit_many([Task(id=f"t{n:03}", pool_id=f"p{n % 3}") for n in range(100)])
    manager.submit(Task(id="urgent", priority=9))
    seen = [ids(manager.list_pending_tasks_for_agent(f"agent{n}", limit=5)) for n in range(20)]
    assert {len(shown) for shown in seen} == {5}
    assert {shown[0] for shown in seen} == {"urgent"}
    assert len({shown[1] for shown in seen}) > 5
    assert set().union(*seen) <= {"urgent", *(f"t{n:03}" for n in range(5 * 16))}
    assert manager.list_pending_tasks_for_agent("a", limit=0) == []
    assert len(manager.list_pending_tasks_for_agent("a", limit=1_000)) == 101
    with pytest.raises(ValueError, match="a limit is 0 or more"):
        manager.list_pending_tasks_for_agent("a", limit=-1)


def test_who_does_not_hold_a_task_can_neither_report_nor_fail_it(manager: TaskManager) -> None:
    manager.submit(Task(id="t"))
    for agent in ("a", "", None, 7):
        with pytest.raises(ClaimLost):
            manager.report(agent, "t", 1)  # type: ignore[arg-type]  # mistakes among them
    assert manager.claim("a", "t")
    with pytest.raises(ClaimLost, match="a holds it"):
        manager.report("b", "t", 1)
    with pytest.raises(ClaimLost):
        manager.fail_task("t", "mine!", agent_id="b")
    with pytest.raises(ClaimLost):
        manager.renew_claim("b", "t")
    with pytest.raises(ClaimLost, match="an agent id is a non-empty str"):
        manager.claim("", "t")
    assert state(manager, "t") == (TaskState.ASSIGNED, None)


def test_unknown_tasks_are_said_to_be_unknown(manager: TaskManager) -> None:
    assert manager.get_task("no") is None
    assert manager.claim("a", "no") is False
    assert manager.cancel_task("no") is False
    assert manager.open_among(["no"]) == set()
    for move in (
        lambda: manager.report("a", "no", 1),
        lambda: manager.fail_task("no", "x"),
        lambda: manager.renew_claim("a", "no"),
    ):
        with pytest.raises(UnknownTask, match="there is no task 'no'"):
            move()


@pytest.mark.parametrize("end", ["report", "fail", "cancel"])
def test_a_final_state_is_final(manager: TaskManager, open_manager: Callable[[], TaskManager], end: str) -> None:
    manager.submit(Task(id="t"))
    assert manager.claim("a", "t")
    if end == "report":
        manager.report("a", "t", 1)
    elif end == "fail":
        manager.fail_task("t", "broken")
    else:
        assert manager.cancel_task("t")
    final = state(manager, "t")
    other = open_manager()
    for one in (manager, other):
        assert not one.cancel_task("t")
        assert not one.claim("a", "t")
        with pytest.raises(InvalidTransition):
            one.fail_task("t", "again")
        with pytest.raises(ClaimLost):
            one.report("a", "t", 2)
        with pytest.raises(ClaimLost):
            one.fail_task("t", "x", agent_id="a")
        assert one.list_pending_tasks() == one.list_held_tasks("a") == []
        assert one.release_expired_claims() == []
    assert state(manager, "t") == final


def test_an_equal_report_repeated_returns(manager: TaskManager, open_manager: Callable[[], TaskManager]) -> None:
    manager.submit(Task(id="t"))
    claim = manager.claim("a", "t")
    assert claim
    manager.report("a", "t", {"x": 1, "y": float("nan")})
    manager.report("a", "t", {"y": float("nan"), "x": 1})
    manager.report("a", "t", {"x": 1, "y": float("nan")}, claim=claim)
    open_manager().report("a", "t", {"x": 1, "y": float("nan")})
    with pytest.raises(ClaimLost):
        manager.report("a", "t", {"x": 1, "y": 0.0})


def test_a_result_that_is_not_plain_data_is_refused_and_the_claim_stays(manager: TaskManager) -> None:
    manager.submit(Task(id="t"))
    assert manager.claim("a", "t")
    with pytest.raises(TypeError, match=r"\$\.x: builtins\.object is not plain data"):
        manager.report("a", "t", {"x": object()})  # type: ignore[dict-item]  # the mistake
    with pytest.raises(TypeError, match="a reason is a str"):
        manager.fail_task("t", 5)  # type: ignore[arg-type]  # the mistake
    manager.report("a", "t", {"x": 1})


def test_progress_counts_each_task_once(manager: TaskManager, open_manager: Callable[[], TaskManager]) -> None:
    watcher = open_manager()
    watcher.sync()
    manager.sync()
    manager.submit_many([Task(id=f"t{n}") for n in range(6)])
    assert (watcher.progress().pending, watcher.progress().claimed) == (6, 0)
    for n in range(4):
        assert manager.claim(f"a{n % 2}", f"t{n}")
    assert watcher.progress().claimed_by == {"a0": 2, "a1": 2}
    manager.report("a0", "t0", 1)
    manager.fail_task("t1", "x", agent_id="a1")
    manager.cancel_task("t5")
    for one in (watcher, manager):
        now = one.progress()
        assert (now.pending, now.claimed, now.done, now.failed, now.cancelled) == (1, 2, 3, 1, 1)
        assert now.done_by == {"a0": 1, "a1": 1}


def test_every_object_that_was_submitted_and_is_held_follows_the_store(
    manager: TaskManager, open_manager: Callable[[], TaskManager]
) -> None:
    one, two, dropped = Task(id="t"), Task(id="t"), Task(id="t")
    manager.submit_many([one, two, dropped])
    manager.submit(one)
    del dropped
    gc.collect()
    other = open_manager()
    assert other.claim("a", "t")
    assert (one.state, two.state) == (TaskState.PENDING, TaskState.PENDING)
    manager.sync()
    assert (one.state, two.assigned_to) == (TaskState.ASSIGNED, "a")
    other.fail_task("t", "why")
    manager.poll()
    assert (one.error, two.state) == ("why", TaskState.FAILED)


def test_nothing_is_remembered_of_tasks_that_have_ended(manager: TaskManager) -> None:
    tasks = [Task(id=f"t{n}") for n in range(250)]
    manager.submit_many(tasks)
    for task in tasks:
        assert manager.claim("a", task.id)
        manager.report("a", task.id, None)
    assert manager._steps.claims.task_ids() == manager._steps.mirror.ids() == []
    manager.submit_many(Task(id=f"u{n}") for n in range(10))
    gc.collect()
    assert manager._steps.mirror.ids() == []
    assert len(manager._steps.tasks.open_ids()) <= 10 + 100
    manager.close()
    assert len(manager._steps.tasks.open_ids()) == 10


def test_listeners_hear_of_changes_and_their_failures_stay_theirs(
    manager: TaskManager, open_manager: Callable[[], TaskManager]
) -> None:
    heard: list[str] = []

    def fails() -> None:
        raise RuntimeError("a bad listener")

    remove = [manager.add_listener(lambda: heard.append("x")), manager.add_listener(fails)]
    manager.submit(Task(id="t"))
    assert heard == ["x"]
    assert manager.counters["listener_failed"] == 1
    assert open_manager().claim("a", "t")
    assert heard == ["x"]
    assert manager.may_have_changed()
    assert manager.poll()
    assert not manager.poll()
    assert heard == ["x", "x"]
    for each in (*remove, *remove):
        each()
    manager.cancel_task("t")
    assert heard == ["x", "x"]


def test_listeners_hear_of_what_another_reader_has_seen_first(
    manager: TaskManager, open_manager: Callable[[], TaskManager]
) -> None:
    heard: list[str] = []
    manager.add_listener(lambda: heard.append("x"))
    manager.poll()
    open_manager().submit(Task(id="t"))
    assert manager.progress().pending == 1
    assert manager.may_have_changed()
    assert manager.poll()
    assert heard == ["x", "x"]
    assert not manager.may_have_changed()


def test_a_listener_may_use_the_manager(manager: TaskManager) -> None:
    def claim_all() -> None:
        for task in manager.list_pending_tasks():
            manager.claim("a", task.id)

    manager.add_listener(claim_all)
    manager.submit_many([Task(id="t"), Task(id="u")])
    assert ids(manager.list_held_tasks("a")) == ["t", "u"]


def test_a_foreign_record_spoils_nothing_but_itself(
    manager: TaskManager, open_store: Callable[[], VersionedStore], open_manager: Callable[[], TaskManager]
) -> None:
    manager.submit(Task(id="t"))
    assert ids(manager.list_pending_tasks()) == ["t"]
    store = open_store()
    good = store.get("task:t")
    assert isinstance(good, dict)
    odd: list[Plain] = [7, {"id": "x"}, {**good, "required_capabilities": [["c"]]}, {**good, "new_field": 1}, good]
    for number, value in enumerate(odd):
        store.put_many({f"open:odd{number}": 0, f"task:odd{number}": value})
    manager.submit(Task(id="u"))
    for one in (manager, open_manager()):
        assert ids(one.list_pending_tasks()) == ["t", "u"]
        assert one.counters["foreign_records"] == len(odd)
        for number in range(len(odd)):
            with pytest.raises(ForeignRecord, match="use the version that wrote it"):
                one.claim("a", f"odd{number}")


def test_a_record_that_is_deleted_is_listed_no_longer(
    manager: TaskManager, open_store: Callable[[], VersionedStore]
) -> None:
    manager.submit(Task(id="t"))
    assert ids(manager.list_pending_tasks()) == ["t"]
    open_store().delete("task:t")
    assert manager.list_pending_tasks() == []


def test_opening_costs_the_open_tasks_and_not_the_history(open_store: Callable[[], VersionedStore]) -> None:
    store = open_store()
    manager = TaskManager(store)
    manager.submit_many([Task(id=f"t{n}") for n in range(300)])
    for n in range(290):
        manager.cancel_task(f"t{n}")
    manager.close()
    fresh = TaskManager(store)
    assert len(fresh._steps.tasks.open_ids()) == 10
    assert len(fresh.list_pending_tasks()) == 10
