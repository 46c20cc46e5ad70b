"""How each step of the start of a runtime is undone.

Functions of the runtime instead of bound methods: each of those would cost every idle agent 64 bytes. They are part of
`AgentRuntime`, which is why they may look inside.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from converge.runtime.approving import ApprovalWatch
from converge.runtime.renewing import ClaimRenewer
from converge.runtime.watch import TaskWatch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from converge.runtime.loop import AgentRuntime

__all__ = ["UNDO"]


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
        await TaskWatch.of(mine._tasks).close(mine._scheduler.notify)


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


UNDO: dict[str, Callable[[AgentRuntime], object]] = {
    "thread": _close_thread,
    "executor": _close_executor,
    "transport": _stop_transport,
    "context": _unbind,
    "watch": _end_watch,
    "claims": _give_back,
    "renewing": _end_renewing,
    "approvals": _end_approvals,
    "presence": _unregister,
    "started": _tell_stopped,
    "on_stop": _on_stop,
}
"""What is called, and awaited if it can be, for each step."""
