"""A task names the trace it was submitted in, and is no other task for that."""

from __future__ import annotations

import pytest

from converge.coordination.errors import TaskConflict
from converge.coordination.task_desk import TaskDesk
from converge.coordination.task_manager import TaskManager
from converge.coordination.task_moves import SubmitMove
from converge.coordination.task_record import TaskRecord
from converge.core.plain import pack, unpack
from converge.core.task import Task
from converge.extensions.storage.memory import MemoryStore
from converge.observability.tracing import trace

HEADER = f"00-{'a' * 32}-{'1' * 16}-01"


def stored(tasks: TaskManager, task_id: str = "t") -> str | None:
    found = tasks.get_task(task_id)
    assert found is not None
    return found.traceparent


def test_a_task_submitted_in_a_span_names_it() -> None:
    tasks, task = TaskManager(), Task(id="t")
    with trace("mine") as span:
        tasks.submit(task)
        tasks.submit_many([Task(id="u"), Task(id="v", traceparent=HEADER)])
    assert stored(tasks) == task.traceparent == stored(tasks, "u") == span.traceparent
    assert stored(tasks, "v") == HEADER


def test_a_task_submitted_outside_any_span_names_none() -> None:
    tasks, task = TaskManager(), Task(id="t")
    tasks.submit(task)
    assert (stored(tasks), task.traceparent) == (None, None)


def test_submitting_it_again_in_another_trace_is_the_same_task_and_keeps_the_first() -> None:
    tasks, again = TaskManager(), Task(id="t", traceparent=HEADER)
    with trace("mine") as span:
        tasks.submit(Task(id="t"))
    tasks.submit(again)
    assert stored(tasks) == again.traceparent == span.traceparent
    with pytest.raises(TaskConflict):
        tasks.submit(Task(id="t", objective="another", traceparent=span.traceparent))


async def test_the_desk_and_a_move_name_it_too() -> None:
    tasks = TaskManager()
    with trace("mine") as span:
        await TaskDesk.of(tasks).submit(Task(id="t"))
    assert stored(tasks) == span.traceparent
    assert tasks.carry_out([SubmitMove(Task(id="u"), HEADER), SubmitMove(Task(id="v", depends_on=["u"]), HEADER)]) == [
        "u",
        "v",
    ]
    assert stored(tasks, "u") == stored(tasks, "v") == HEADER


def test_it_stays_over_the_life_of_the_task_and_a_new_attempt_under_a_new_id_begins_without() -> None:
    store = MemoryStore()
    tasks = TaskManager(store)
    tasks.submit(Task(id="t", traceparent=HEADER))
    (listed,) = tasks.list_pending_tasks()
    tasks.claim("a", "t")
    (held,) = tasks.list_held_tasks("a")
    assert listed.traceparent == held.traceparent == HEADER
    tasks.fail_task("t", "no")
    assert stored(TaskManager(store)) == HEADER
    assert stored(tasks, tasks.requeue("t")) is None


def test_a_record_that_was_stored_before_there_were_traces_is_read() -> None:
    record = TaskRecord.of(Task(id="t"), 1.0)
    plain = record.to_plain()
    del plain["traceparent"]
    assert TaskRecord.from_plain(unpack(pack(plain))) == record


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="traceparent is str or None, not 7"):
        TaskManager().submit(Task(id="t", traceparent=7))  # type: ignore[arg-type]  # what is refused is the point
