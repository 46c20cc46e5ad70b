"""The steps of the start of a runtime, and how each is undone.

They are part of `AgentRuntime`, which is why they may look inside. An `AsyncExitStack` does the same and more, but
keeps a closure and bound methods for each step, 1.5 kB that every idle agent would pay for; this keeps one number.
"""

from __future__ import annotations

import inspect
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING

from converge.runtime.shared.approvals import ApprovalWatch
from converge.runtime.shared.claims import ClaimRenewer
from converge.runtime.shared.tasks import TaskWatch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from converge.runtime.loop import AgentRuntime

__all__ = ["Step", "undo"]


class Step(IntEnum):
    """How far a start has come, in the order of its steps; each is noted before it is taken, as half of it needs
    undoing too.
    """

    NONE = 0
    THREAD = 1
    EXECUTOR = 2
    TRANSPORT = 3
    CONTEXT = 4
    WATCH = 5
    CLAIMS = 6
    RENEWING = 7
    APPROVALS = 8
    PRESENCE = 9
    STARTED = 10
    ON_STOP = 11


async def undo(mine: AgentRuntime) -> None:
    """Undo the start of `mine`, the last step first. A step that raises keeps none from being undone; its error is
    raised then.
    """
    while mine._reached is not Step.NONE:
        step = mine._reached
        mine._reached = Step(step - 1)
        try:
            made = _UNDO[step](mine)
            if inspect.isawaitable(made):
                await made
        except BaseException:
            await undo(mine)
            raise


def _give_back(mine: AgentRuntime) -> object:
    if mine._tasks is None:
        return None
    return mine._guarded("giving the claims back", partial(mine._on_store, mine._tasks.release_claims, mine.agent.id))


def _close_executor(mine: AgentRuntime) -> object:
    close = getattr(mine._executor, "close", None)  # an executor need not have it
    return None if close is None else mine._guarded("closing the executor", close)


def _close_thread(mine: AgentRuntime) -> None:
    mine._store_thread.close()


def _stop_transport(mine: AgentRuntime) -> Awaitable[None]:
    return mine._guarded("stopping the transport", mine.transport.stop)


def _unbind(mine: AgentRuntime) -> None:
    mine.agent.bind(None)


async def _end_watch(mine: AgentRuntime) -> None:
    if mine._tasks is not None:
        await TaskWatch.of(mine._tasks).close(mine)


async def _end_renewing(mine: AgentRuntime) -> None:
    if mine._tasks is not None:
        await ClaimRenewer.of(mine._tasks).close(mine.agent.id)


async def _end_approvals(mine: AgentRuntime) -> None:
    if mine._gate is not None:
        await ApprovalWatch.of(mine._gate.approvals).close(mine.agent.id)


def _unregister(mine: AgentRuntime) -> Awaitable[None]:
    return mine._guarded("unregistering", mine._presence.withdraw)


def _tell_stopped(mine: AgentRuntime) -> Awaitable[None]:
    return mine._teller.tell("agent_stopped")


def _on_stop(mine: AgentRuntime) -> Awaitable[None]:
    return mine._guarded("on_stop", mine.agent.on_stop)


_UNDO: dict[Step, Callable[[AgentRuntime], object]] = {
    Step.THREAD: _close_thread,
    Step.EXECUTOR: _close_executor,
    Step.TRANSPORT: _stop_transport,
    Step.CONTEXT: _unbind,
    Step.WATCH: _end_watch,
    Step.CLAIMS: _give_back,
    Step.RENEWING: _end_renewing,
    Step.APPROVALS: _end_approvals,
    Step.PRESENCE: _unregister,
    Step.STARTED: _tell_stopped,
    Step.ON_STOP: _on_stop,
}
"""What is called, and awaited if it can be, for each step."""
