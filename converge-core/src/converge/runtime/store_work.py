"""Neighbouring decisions that are carried out in one hop to the store."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from converge.coordination.task_moves import SubmitMove
from converge.core.agent import Outcome
from converge.core.decisions import ClaimTask, Decision
from converge.runtime.calls import described
from converge.runtime.decision_trace import MoveTrace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from converge.coordination.task_moves import Move, MoveResult

__all__ = ["StoreWork", "in_turns"]


class StoreWork:
    """Some decisions that are made one by one, and then some that move tasks, which are committed together.

    To be made where the decisions are carried out, in the trace that they belong to.
    """

    def __init__(
        self,
        others: Sequence[Decision],
        moving: Sequence[Decision],
        carry_out: Callable[[Decision], Outcome],
        move_of: Callable[[Decision], Move | Outcome],
    ) -> None:
        self._others, self._moving = others, moving
        self._carry_out, self._move_of = carry_out, move_of
        self._done: list[Outcome] = []
        self._judged: list[Move | Outcome] = []
        self._trace = MoveTrace(moving)

    def moves(self) -> list[Move]:
        """Carry out the first ones; what the rest asks of the task manager. To be called once."""
        self._done = [self._carry_out(decision) for decision in self._others]
        self._judged = [self._in_trace(self._move_of(decision), index) for index, decision in enumerate(self._moving)]
        return [move for move in self._judged if not isinstance(move, Outcome)]

    def outcomes(self, results: Sequence[MoveResult]) -> list[Outcome]:
        """The outcomes of all decisions, where `results` are those of the moves."""
        left = iter(results)
        moved = [
            judged if isinstance(judged, Outcome) else _outcome(decision, next(left))
            for decision, judged in zip(self._moving, self._judged, strict=True)
        ]
        self._trace.end(moved)
        return self._done + moved

    def _in_trace(self, judged: Move | Outcome, index: int) -> Move | Outcome:
        return judged._replace(traceparent=self._trace.traceparent(index)) if isinstance(judged, SubmitMove) else judged


def in_turns(
    decisions: Iterable[Decision], moves: Callable[[Decision], bool]
) -> Iterator[tuple[list[Decision], list[Decision]]]:
    """The decisions in their order, as pairs of neighbours that move no task and then neighbours that do."""
    others: list[Decision] = []
    for moving, group in groupby(decisions, key=moves):
        if moving:
            yield others, [*group]
            others = []
        else:
            others = [*group]
    if others:
        yield others, []


def _outcome(decision: Decision, result: MoveResult) -> Outcome:
    if isinstance(result, Exception):
        return Outcome(decision, "failed", error=described(result))
    if result is False and isinstance(decision, ClaimTask):
        return Outcome(
            decision,
            "refused",
            error=f"task {decision.task_id} is not to be had: held, ended, unknown, of another pool, "
            "or asking for what this agent is not capable of",
        )
    return Outcome(decision, "done", result)
