"""Tasks: what the agent is shown, who wakes it, and what becomes of its claims."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from converge.coordination.pool_manager import PoolManager
from converge.coordination.task_manager import TaskManager
from converge.core.decisions import ClaimTask, CreatePool, JoinPool, ReportTask, SubmitTask
from converge.core.message import Message
from converge.core.store import Store
from converge.core.task import Task, TaskState
from converge.extensions.storage.memory import MemoryStore
from converge.extensions.storage.sqlite import SQLiteStore
from tests.core.runtime.conftest import PATIENCE_SEC, Scripted, World, until
from tests.core.runtime.leases import WatchedLeases

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "tasks.db") as made:
        yield made


class Worker(Scripted):
    """Claims what it sees and reports what it holds."""

    def __init__(self, *capabilities: str) -> None:
        super().__init__(*[self._work] * 1000)
        for name in capabilities:
            self.capabilities.add(name)

    def _work(self, messages: list[Message], tasks: list[Task]) -> list[Any]:
        return [
            ReportTask(task.id, f"by {self.id}") if task.assigned_to == self.id else ClaimTask(task.id)
            for task in tasks
        ]


def state_of(tasks: TaskManager, task_id: str) -> TaskState:
    task = tasks.get_task(task_id)
    assert task is not None
    return task.state


async def ended(tasks: TaskManager, *task_ids: str) -> None:
    await until(lambda: all(state_of(tasks, task_id).is_final for task_id in task_ids))


async def test_a_task_is_claimed_shown_as_held_and_reported(world: World, store: Store) -> None:
    tasks, agent = TaskManager(store), Worker()
    tasks.submit(Task(id="t"))
    await world.started(agent, task_manager=tasks)
    await ended(tasks, "t")
    await agent.called(3)
    assert [[(task.id, task.state) for task in shown] for _, shown, _ in agent.shown] == [
        [("t", TaskState.PENDING)],
        [("t", TaskState.ASSIGNED)],
        [],
    ]
    done = tasks.get_task("t")
    assert done is not None
    assert done.result == f"by {agent.id}"


async def test_what_is_awarded_to_me_is_started_for_me(world: World, store: Store) -> None:
    tasks, agent = TaskManager(store), Scripted()
    await world.started(agent, task_manager=tasks)
    await agent.called(1)
    tasks.submit(Task(id="t", constraints={"award_only": True}))
    tasks.award("t", agent.id)
    await until(lambda: [event.event for event in tasks.history("t")] == ["submitted", "awarded", "started"])
    await until(lambda: [(task.id, task.assigned_to) for task in agent.shown[-1][1]] == [("t", agent.id)])


async def test_a_task_is_shown_when_what_it_needs_is_completed_and_when_its_pause_is_over(
    world: World, store: Store
) -> None:
    tasks, agent = TaskManager(store), Worker()
    tasks.submit_many(
        [Task(id="b", depends_on=["a"]), Task(id="a", constraints={"retry_backoff_sec": 0.05, "max_retries": 1})]
    )
    tasks.claim("other", "a")
    tasks.fail_task("a", "broken", agent_id="other")
    await world.started(agent, task_manager=tasks)
    await ended(tasks, "a", "b")
    assert [tasks.get_task(task_id).result for task_id in "ab"] == [f"by {agent.id}"] * 2  # type: ignore[union-attr]  # there


async def test_what_i_hold_comes_before_what_i_could_claim(world: World) -> None:
    tasks, agent = TaskManager(), Scripted()
    tasks.submit_many([Task(id="free", priority=9), Task(id="mine")])
    tasks.claim(agent.id, "mine")
    await world.started(agent, task_manager=tasks)
    await agent.called(1)
    assert [task.id for task in agent.shown[0][1]] == ["mine", "free"]


async def test_only_tasks_of_my_pools_and_capabilities_are_shown_and_a_joined_pool_shows_its_tasks(
    world: World,
) -> None:
    tasks, pools, agent = TaskManager(), PoolManager(), Scripted([], [JoinPool("p")])
    agent.capabilities.add("read")
    pools.create_pool({"id": "p"})
    tasks.submit_many(
        [
            Task(id="plain"),
            Task(id="reading", required_capabilities=["read"]),
            Task(id="writing", required_capabilities=["write"]),
            Task(id="pooled", pool_id="p"),
        ]
    )
    peer = await world.peer()
    await world.started(agent, task_manager=tasks, pool_manager=pools)
    await agent.called(1)
    assert {task.id for task in agent.shown[0][1]} == {"plain", "reading"}
    await peer.tell(agent.id)
    await agent.called(3)
    assert {task.id for task in agent.shown[2][1]} == {"plain", "reading", "pooled"}


async def test_an_unchanged_set_of_tasks_does_not_ask_the_agent_again(world: World) -> None:
    tasks, agent = TaskManager(), Scripted()
    await world.started(agent, task_manager=tasks)
    await agent.called(1)
    tasks.submit(Task(id="elsewhere", required_capabilities=["other"]))
    tasks.submit(Task(id="here"))
    await agent.called(2)
    tasks.submit(Task(id="elsewhere too", required_capabilities=["other"]))
    tasks.submit(Task(id="here too"))
    await agent.called(3)
    assert [len(shown) for _, shown, _ in agent.shown] == [0, 1, 2]


async def test_a_task_submitted_here_wakes_an_idle_agent(world: World, store: Store) -> None:
    tasks, agent = TaskManager(store), Worker()
    await world.started(agent, task_manager=tasks, receive_timeout_sec=3600)
    await agent.called(1)
    await asyncio.to_thread(tasks.submit, Task(id="from a thread"))
    tasks.submit(Task(id="from here"))
    await ended(tasks, "from a thread", "from here")


async def test_a_task_submitted_through_another_manager_wakes_an_idle_agent(world: World, store: Store) -> None:
    tasks, others, agent = TaskManager(store), TaskManager(store), Worker()
    await world.started(agent, task_manager=tasks, receive_timeout_sec=3600)
    await agent.called(1)
    others.submit(Task(id="t"))
    await ended(others, "t")


async def test_a_task_submitted_by_another_process_wakes_an_idle_agent(world: World, tmp_path: Path) -> None:
    program = (
        "import sys\nfrom converge.coordination.task_manager import TaskManager\nfrom converge.core.task import Task\n"
        "from converge.extensions.storage.sqlite import SQLiteStore\n"
        "with SQLiteStore(sys.argv[1]) as store: TaskManager(store).submit(Task(id='t'))\n"
    )
    with SQLiteStore(tmp_path / "tasks.db") as store:
        tasks, agent = TaskManager(store), Worker()
        runtime = await world.started(agent, task_manager=tasks, receive_timeout_sec=3600)
        await agent.called(1)
        command = [sys.executable, "-c", program, str(tmp_path / "tasks.db")]
        await asyncio.to_thread(subprocess.run, command, check=True, timeout=30)
        await ended(tasks, "t")
        await runtime.stop()


async def test_an_idle_agent_is_woken_although_somebody_else_here_has_read_the_change_first(world: World) -> None:
    store = MemoryStore()
    tasks, others, agent = TaskManager(store), TaskManager(store), Worker()
    await world.started(agent, task_manager=tasks, receive_timeout_sec=3600)
    await agent.called(1)
    others.submit(Task(id="t"))
    tasks.progress()
    await ended(tasks, "t")


async def test_every_task_is_done_once_by_agents_that_share_a_manager_or_only_the_store(
    world: World, store: Store
) -> None:
    shared, own = TaskManager(store), TaskManager(store)
    agents = [Worker() for _ in range(4)]
    for agent in agents:
        await world.started(agent, task_manager=shared if agent in agents[:3] else own, receive_timeout_sec=1.0)
    ids = [f"t{n}" for n in range(40)]
    shared.submit_many([Task(id=task_id) for task_id in ids])
    await ended(shared, *ids)
    assert {str(task.result) for task in map(shared.get_task, ids) if task} <= {f"by {agent.id}" for agent in agents}
    assert [task.attempt for task in map(shared.get_task, ids) if task] == [1] * 40


async def test_claims_are_renewed_while_the_agent_works_and_given_back_when_it_stops(
    world: World, store: Store
) -> None:
    released = asyncio.Event()

    async def work() -> list[Any]:
        await released.wait()
        return []

    ttl = 0.6
    tasks, agent = WatchedLeases(store), Scripted([ClaimTask("t")], lambda messages, seen: work())
    tasks.submit(Task(id="t", constraints={"claim_ttl_sec": ttl}))
    runtime = await world.started(agent, task_manager=tasks, claim_ttl_interval_sec=0.01)
    await agent.called(2)
    await tasks.outlive(ttl)
    held = tasks.get_task("t")
    assert held is not None
    assert (held.assigned_to, held.attempt) == (agent.id, 1), "nobody renewed it"
    await runtime.stop()
    back = tasks.get_task("t")
    assert back is not None
    assert (back.state, back.assigned_to) == (TaskState.PENDING, None)


async def test_a_claim_that_the_agent_made_by_itself_is_renewed_too(world: World) -> None:
    tasks, agent, ttl = WatchedLeases(), Scripted(), 0.6

    def claim(messages: list[Message], seen: list[Task]) -> list[Any]:
        assert agent.context.tasks is not None
        assert agent.context.tasks.claim(agent.id, "t")
        return []

    agent.answers = [claim]
    tasks.submit(Task(id="t", constraints={"claim_ttl_sec": ttl}))
    await world.started(agent, task_manager=tasks, claim_ttl_interval_sec=0.01)
    await agent.called(2)
    await tasks.outlive(ttl)
    held = tasks.get_task("t")
    assert held is not None
    assert (held.assigned_to, held.attempt) == (agent.id, 1)


async def test_expired_claims_of_others_are_released_for_those_who_wait(world: World) -> None:
    tasks, agent = TaskManager(), Worker()
    tasks.submit(Task(id="t", constraints={"claim_ttl_sec": 0.05}))
    assert tasks.claim("an agent that died", "t")
    await world.started(agent, task_manager=tasks, claim_ttl_interval_sec=0.01)
    await ended(tasks, "t")
    done = tasks.get_task("t")
    assert done is not None
    assert (done.assigned_to, done.attempt) == (agent.id, 2)
    assert world.counted("converge_claims_released_total") == 1


async def test_a_start_takes_over_what_an_earlier_process_of_the_agent_held(world: World, store: Store) -> None:
    agent = Worker()
    before = TaskManager(store)
    before.submit(Task(id="t", constraints={"claim_ttl_sec": 3600}))
    stale = before.claim(agent.id, "t")
    assert stale
    tasks = TaskManager(store)
    await world.started(agent, task_manager=tasks)
    await ended(tasks, "t")
    with pytest.raises(ValueError, match="t"):
        before.report(agent.id, "t", "too late", claim=stale)
    done = tasks.get_task("t")
    assert done is not None
    assert (done.result, done.attempt) == (f"by {agent.id}", 2)


async def test_neighbouring_decisions_on_a_blocking_store_are_one_hop(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from converge.coordination.task_desk import TaskDesk
    from converge.runtime.threads import StoreThread

    hops = list[str]()
    plain = StoreThread.run

    async def noted(self: StoreThread, call: Any, *args: Any) -> Any:
        hops.append(call.__qualname__)
        return await plain(self, call, *args)

    monkeypatch.setattr(StoreThread, "run", noted)
    with SQLiteStore(tmp_path / "tasks.db") as store:
        decisions = [CreatePool({"id": "p"}), JoinPool("p"), *[SubmitTask(Task(id=f"t{n}")) for n in range(5)]]
        agent, tasks = Scripted(decisions), TaskManager(store)
        runtime = await world.started(agent, task_manager=tasks, pool_manager=PoolManager(store))
        await until(lambda: len(agent.outcomes) == 7 or agent.calls > 1)
        executing = f"{TaskDesk.__name__}._serve.<locals>.<lambda>"
        assert hops.count(executing) == 1
        assert [hop for hop in hops if "Executor" in hop or "StoreWork" in hop] == []
        assert len(tasks.list_pending_tasks()) == 5
        await runtime.stop()


async def test_wait_for_tasks_returns_when_all_have_ended_also_by_others(world: World, store: Store) -> None:
    tasks, others, agent = TaskManager(store), TaskManager(store), Scripted()
    await world.started(agent, task_manager=tasks, receive_timeout_sec=3600)
    await agent.called(1)
    tasks.submit_many([Task(id="a"), Task(id="b")])
    waiting = asyncio.create_task(agent.context.wait_for_tasks(["a", "b", "unknown"]))
    await agent.called(2)
    assert others.claim("other", "a")
    others.report("other", "a", 1)
    assert not waiting.done()
    others.cancel_task("b")
    async with asyncio.timeout(PATIENCE_SEC):
        found = await waiting
    assert [(task.id, task.state) for task in found] == [("a", TaskState.COMPLETED), ("b", TaskState.CANCELLED)]


async def test_the_context_of_a_runtime_without_a_task_manager_says_so(world: World) -> None:
    agent = Scripted()
    await world.started(agent)
    await agent.called(1)
    with pytest.raises(RuntimeError, match="this runtime has no task manager"):
        await agent.context.wait_for_tasks([])
    assert (agent.context.tasks, agent.context.pools, agent.context.ballots) == (None, None, None)


async def test_the_context_runs_what_blocks_in_the_store_thread(world: World) -> None:
    import threading

    agent = Scripted()
    runtime = await world.started(agent)
    context = agent.context
    assert (await context.run(threading.current_thread)).name.startswith("converge-store")
    with pytest.raises(RuntimeError, match=r"it raised StopIteration"):
        await context.run(next, iter([]))
    await runtime.stop()
    with pytest.raises(RuntimeError, match="the store thread is closed"):
        await context.run(len, [])


async def test_a_task_that_asks_for_what_the_agent_cannot_do_is_not_claimed(world: World) -> None:
    tasks = TaskManager()
    tasks.submit(Task(id="hard", required_capabilities=["flying"]))
    agent = Scripted([ClaimTask("hard")])
    await world.started(agent, task_manager=tasks)
    await agent.called(1)
    tasks.submit(Task(id="easy"))
    await agent.called(2)
    [outcome] = agent.shown[1][2]
    assert outcome.status == "refused"
    assert "not capable of" in str(outcome.error)
    assert state_of(tasks, "hard") is TaskState.PENDING


class Failing(MemoryStore):
    """Refuses to complete a task while `full`."""

    full = True

    def compare_and_set(self, key: str, value: Any, expected: int) -> int:
        if self.full and key.startswith("task:") and value["state"] == "completed":
            raise OSError(28, "No space left on device")
        return super().compare_and_set(key, value, expected)


async def test_a_report_that_failed_is_made_again_when_the_store_is_back(world: World) -> None:
    store = Failing()
    tasks = TaskManager(store)
    tasks.submit(Task(id="t"))
    report = [ReportTask("t", 1)]
    agent = Scripted([ClaimTask("t")], report, report)
    await world.started(agent, task_manager=tasks)
    await agent.called(2)
    store.full = False
    await agent.called(3)
    assert [outcome.status for outcome in agent.shown[2][2]] == ["failed"]
    assert "No space left" in str(agent.shown[2][2][0].error)
    await ended(tasks, "t")


async def test_an_agent_that_keeps_failing_at_a_task_is_not_called_in_a_circle(world: World) -> None:
    agent = Scripted(*[[ReportTask("nothing", 1)]] * 1000)
    await world.started(agent, task_manager=TaskManager())
    await agent.called(1)
    started = asyncio.get_running_loop().time()
    await agent.called(3)
    assert asyncio.get_running_loop().time() - started > 2.5, "after one second, then after two"
