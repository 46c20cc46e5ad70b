"""Moves of many tasks, by any number of agents, that are committed together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from converge.coordination.task_index import ANYTHING, Filter
from converge.coordination.task_record import TaskRecord
from converge.core.plain import Plain, pack, unpack_own
from converge.core.task import Task, TaskState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from converge.coordination.claims import Claim
    from converge.coordination.task_steps import TaskSteps

__all__ = ["ClaimMove", "Move", "MoveResult", "ReportMove", "SubmitMove", "carry_out"]

_Entry: TypeAlias = tuple[TaskRecord, int]
MoveResult: TypeAlias = "str | Claim | Literal[False] | Exception | None"
"""What the method of `TaskManager` that a move stands for returns, or the exception that it raises."""


# Each move knows three steps for `carry_out`: `_prepare` gives the record to store and the version it replaces, or None
# when the move has to be judged alone; `_settle` what became of it when that was stored; `_alone` makes it by itself.


class SubmitMove(NamedTuple):
    """`TaskManager.submit(task)`; `traceparent` is the trace that a task which names none is submitted in."""

    task: Task
    traceparent: str | None = None

    @property
    def task_id(self) -> str:
        """The task it is about."""
        return self.task.id

    def _prepare(self, _steps: TaskSteps, now: float) -> _Entry | None:
        if self.task.state is not TaskState.PENDING or self.task.depends_on:
            return None
        return TaskRecord.of(self.task, now, self.traceparent), 0

    def _settle(self, steps: TaskSteps, record: TaskRecord, version: int) -> MoveResult:
        steps.mirror.accept(self.task, record, version)
        return record.id

    def _alone(self, steps: TaskSteps) -> MoveResult:
        return steps.submit([self.task], self.traceparent)[0]


class ClaimMove(NamedTuple):
    """`TaskManager.claim(agent_id, task_id)`; `wanted` is what the task is held against."""

    agent_id: str
    task_id: str
    wanted: Filter = ANYTHING

    def _prepare(self, steps: TaskSteps, now: float) -> _Entry | None:
        found = steps.tasks.last_known(self.task_id) or steps.tasks.read(self.task_id)
        if found is None or steps.claims.holds(found[0]):
            return None
        claimed = steps.next_for_claim(found[0], self.agent_id, self.wanted, now)
        return None if claimed is None else (claimed, found[1])

    def _settle(self, steps: TaskSteps, record: TaskRecord, _version: int) -> MoveResult:
        return steps.claims.remember(record) if record.is_open else False

    def _alone(self, steps: TaskSteps) -> MoveResult:
        return steps.claim(self.agent_id, self.task_id, self.wanted)


class ReportMove(NamedTuple):
    """`TaskManager.report(agent_id, task_id, result)`."""

    agent_id: str
    task_id: str
    result: Plain
    claim: Claim | None = None

    def _prepare(self, steps: TaskSteps, now: float) -> _Entry | None:
        attempt = steps.attempt(self.agent_id, self.task_id, self.claim)
        found = steps.tasks.last_known(self.task_id) or steps.read(self.task_id)
        moved = found[0].report(self.agent_id, attempt, unpack_own(pack(self.result)), now)
        return None if moved is found[0] else (moved, found[1])

    def _settle(self, _steps: TaskSteps, _record: TaskRecord, _version: int) -> MoveResult:
        return None

    def _alone(self, steps: TaskSteps) -> MoveResult:
        steps.report(self.agent_id, self.task_id, self.result, self.claim)
        return None


Move: TypeAlias = SubmitMove | ClaimMove | ReportMove


def carry_out(steps: TaskSteps, moves: Sequence[Move]) -> list[MoveResult]:
    """What became of each move; see `TaskManager.carry_out`.

    What is prepared with what was last known of a task is good for a write at that version, and for no answer: a move
    that comes to nothing that way is judged once more, alone and by what the store holds.
    """
    results: dict[int, MoveResult] = {}
    doomed = False
    submitted = [move.task for move in moves if isinstance(move, SubmitMove)]
    with steps.claiming, steps.mirror.submitting(submitted):
        prepared: dict[str, tuple[int, TaskRecord, int]] = {}
        now = steps.clock.time()
        for index, move in enumerate(moves):
            if (task_id := move.task_id) not in prepared and (entry := _prepared(steps, move, now)) is not None:
                prepared[task_id] = index, *entry
        try:
            stored = steps.tasks.write_many([entry[1:] for entry in prepared.values()]) if prepared else []
        except Exception as error:  # noqa: BLE001  # it is what becomes of each of them
            results = dict.fromkeys((index for index, _, _ in prepared.values()), error)
            stored = [None] * len(prepared)
        for (index, record, _), version in zip(prepared.values(), stored, strict=True):
            if version is not None:
                steps.note_stored(record, version)
                results[index] = moves[index]._settle(steps, record, version)
                doomed |= record.has_failed
    if doomed:
        steps.fail_dependents_or_leave_them()
    if any(stored):
        steps.announce()
    return [results[index] if index in results else _alone(steps, move) for index, move in enumerate(moves)]


def _prepared(steps: TaskSteps, move: Move, now: float) -> _Entry | None:
    try:
        return move._prepare(steps, now)
    except (ValueError, TypeError):
        return None  # the move raises it again when it is alone


def _alone(steps: TaskSteps, move: Move) -> MoveResult:
    try:
        return move._alone(steps)
    except Exception as error:  # noqa: BLE001  # the moves before it are done
        return error
