"""The progress bar of a run, and the output of its processes around it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from types import TracebackType

    from converge.coordination.task_index import TaskProgress
    from converge.runtime.config import Config

__all__ = ["Display"]


class Display:
    """Shows on standard error how many tasks are pending, claimed and done, in all and for each agent.

    A context manager. What the agents print goes above the bar: `line` for child processes, and rich itself
    redirects the output of this process.
    """

    def __init__(self, config: Config, *, enabled: bool) -> None:
        self._config = config
        self._names: dict[str, str] = {}
        self._rows: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not enabled,
            refresh_per_second=10,
        )

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, traceback)

    def update(self, now: TaskProgress) -> None:
        """Show how far the work is."""
        total = now.pending + now.claimed + now.done
        ended = "".join(
            f", {count} {word}" for count, word in ((now.failed, "failed"), (now.cancelled, "cancelled")) if count
        )
        self._row("tasks", now.done, total, f"{now.pending} pending, {now.claimed} claimed, {now.done} done{ended}")
        for agent_id in sorted({*now.claimed_by, *now.done_by}, key=self._name):
            claimed, done = now.claimed_by.get(agent_id, 0), now.done_by.get(agent_id, 0)
            self._row(f"  {self._name(agent_id)}", done, now.done, f"{claimed} claimed, {done} done")

    def line(self, text: str, is_error: bool) -> None:
        """Print a line of a child process above the bar."""
        if self._progress.disable or not sys.stderr.isatty():
            print(text, file=sys.stderr if is_error else sys.stdout, flush=True)  # output of the agents
        else:
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _row(self, name: str, completed: int, total: int, figures: str) -> None:
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = self._progress.add_task(name, figures="")
        self._progress.update(row, completed=completed, total=total or None, figures=figures)

    def _name(self, agent_id: str) -> str:
        if agent_id not in self._names:
            from converge.runtime.keys import members

            self._names = {member.identity.fingerprint: member.name for member in members(self._config)}
        return self._names.get(agent_id, agent_id[:8])
