"""Starting and stopping many runtimes at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from converge.runtime import together
from converge.runtime.together import AT_ONCE, alike, start_together, stop_together


class Life:
    """A runtime, as far as it matters here."""

    def __init__(self, error: Exception | None = None, *, hangs: bool = False) -> None:
        self.error, self.hangs = error, hangs
        self.state = "new"

    async def start(self) -> None:
        self.state = "starting"
        try:
            await (asyncio.Event().wait() if self.hangs else asyncio.sleep(0))
            if self.error is not None:
                raise self.error
            self.state = "running"
        except asyncio.CancelledError:
            self.state = "given up"
            raise

    async def stop(self) -> None:
        self.state = "stopping"
        await (asyncio.Event().wait() if self.hangs else asyncio.sleep(0))
        self.state = "stopped"


def started(*lives: Life) -> Any:
    return start_together(lives)  # type: ignore[arg-type]  # starts and stops as a runtime


def stopped(*lives: Life) -> Any:
    return stop_together(lives)  # type: ignore[arg-type]  # as above


async def test_all_are_started() -> None:
    lives = [Life() for _ in range(10)]
    await started(*lives)
    assert {life.state for life in lives} == {"running"}


async def test_when_one_cannot_start_its_error_is_raised_and_no_start_goes_on() -> None:
    good, bad, slow = Life(), Life(OSError("no carrier")), Life(hangs=True)
    with pytest.raises(OSError, match=r"^no carrier$"):
        await started(slow, good, bad)
    assert [life.state for life in (good, slow)] == ["running", "given up"]


async def test_when_starting_is_cancelled_no_start_goes_on() -> None:
    slow = [Life(hangs=True) for _ in range(3)]
    starting = asyncio.create_task(started(*slow))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert {life.state for life in slow} == {"given up"}


async def test_more_than_fit_at_once_are_stopped_also_behind_some_that_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "AT_ONCE", 2)
    monkeypatch.setattr(together, "_ROOM_SEC", 0.01)
    lives = [Life(hangs=True), Life(hangs=True), *(Life() for _ in range(20))]
    stopping = asyncio.create_task(stopped(*lives))
    async with asyncio.timeout(30):
        while {life.state for life in lives[2:]} != {"stopped"}:  # noqa: ASYNC110  # of no one event
            await asyncio.sleep(0.005)
    assert [life.state for life in lives[:2]] == ["stopping"] * 2
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping


def test_groups_are_of_one_table_and_bounded() -> None:
    class Member:
        def __init__(self, config: object) -> None:
            self.config = config

    first, second = object(), object()
    members: list[Any] = [Member(first), *(Member(second) for _ in range(AT_ONCE + 1))]
    assert [len(group) for group in alike(members)] == [1, AT_ONCE, 1]
