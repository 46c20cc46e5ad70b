"""Starting and stopping many runtimes at once, so that what they ask of the store shares hops and commits."""

from __future__ import annotations

import asyncio
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from converge.runtime.keys import Member
    from converge.runtime.loop import AgentRuntime

__all__ = ["AT_ONCE", "alike", "start_together", "stop_together"]

AT_ONCE = 256
"""How many are started, or stopped, at the same time: thousands would wait for each other beyond their time limits."""

_ROOM_SEC = 1.0


def alike(members: Iterable[Member]) -> Iterator[list[Member]]:
    """The members in their order, in groups of one `[[agents]]` table each, of at most `AT_ONCE`.

    An agent of a later table may rely on those of the earlier ones being there when it starts.
    """
    for _, group in groupby(members, key=lambda member: id(member.config)):
        same = [*group]
        for first in range(0, len(same), AT_ONCE):
            yield same[first : first + AT_ONCE]


async def start_together(runtimes: Sequence[AgentRuntime]) -> None:
    """Start all of `runtimes` at once. When one cannot start, those that are not there yet are given up.

    Then, and when this is cancelled, no start goes on; those that had started run, and are the caller's to stop. What
    the first of them has raised, in their order, is raised.
    """
    starts = [asyncio.create_task(runtime.start()) for runtime in runtimes]
    try:
        await asyncio.wait(starts, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        given_up = [start for start in starts if not start.done()]
        for start in given_up:
            start.cancel()
        results = await asyncio.gather(*starts, return_exceptions=True)
    for start, result in zip(starts, results, strict=True):
        if isinstance(result, BaseException) and start not in given_up:
            raise result


async def stop_together(runtimes: Sequence[AgentRuntime]) -> None:
    """Stop all of `runtimes`, `AT_ONCE` at a time; one that takes long makes room for the next after a second.

    So it is over within `STOP_TIMEOUT_SEC`, and a second for each `AT_ONCE` of those that hang.
    """
    room = asyncio.Semaphore(AT_ONCE)

    async def stop(runtime: AgentRuntime) -> None:
        async with room:
            stopping = asyncio.create_task(runtime.stop())
            try:
                await asyncio.wait({stopping}, timeout=_ROOM_SEC)
            except asyncio.CancelledError:
                stopping.cancel()
                raise
        await stopping

    await asyncio.gather(*(stop(runtime) for runtime in runtimes))
