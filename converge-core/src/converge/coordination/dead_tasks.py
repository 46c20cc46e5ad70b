"""Tasks that have FAILED: listing them, and submitting them anew."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from converge.coordination.errors import InvalidTransition

if TYPE_CHECKING:
    from collections.abc import Mapping

    from converge.coordination.task_record import TaskRecord
    from converge.coordination.task_steps import TaskSteps
    from converge.core.plain import Plain
    from converge.core.task import Task

__all__ = ["anew", "dead_records"]

_AGAIN = re.compile(r"(?P<base>.*)~(?P<number>[1-9][0-9]*)", re.DOTALL)


def dead_records(steps: TaskSteps, pool_id: str | None) -> list[TaskRecord]:
    """The records that say FAILED and were not requeued, in the order of their ends."""
    found: list[TaskRecord] = []
    not_dead: list[str] = []
    for task_id in steps.tasks.dead_ids():
        entry = steps.tasks.read_known(task_id)
        if entry is None or entry[0].is_open:
            continue  # somebody is just about to end it, or was; the hint stays
        if not entry[0].is_dead or steps.tasks.read_known(_next_id(task_id)) is not None:
            not_dead.append(task_id)
        elif pool_id is None or entry[0].pool_id == pool_id:
            found.append(entry[0])
    steps.tasks.bury(not_dead)
    return sorted(found, key=lambda record: record.ended_at)


def anew(steps: TaskSteps, task_id: str, constraints: Mapping[str, Plain] | None) -> Task:
    """The task to be submitted in the place of one that has failed or was cancelled."""
    record, _ = steps.read(task_id)
    if not record.has_failed:
        raise InvalidTransition(
            f"task {task_id} is {record.state}; only a FAILED or CANCELLED one is requeued", task_id
        )
    task = record.to_first_task(_next_id(task_id))
    task.depends_on = [_latest(steps, name) for name in task.depends_on]
    task.constraints |= constraints or {}
    return task


def _next_id(task_id: str) -> str:
    again = _AGAIN.fullmatch(task_id)
    return f"{task_id}~2" if again is None else f"{again['base']}~{int(again['number']) + 1}"


def _latest(steps: TaskSteps, task_id: str) -> str:
    """The last of the tasks that were submitted anew for this one, or itself."""
    while steps.tasks.read_known(following := _next_id(task_id)) is not None:
        task_id = following
    return task_id
