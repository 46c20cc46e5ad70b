"""A clock that the test moves, and managers on one set of data, in memory and in SQLite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from converge.coordination.task_manager import TaskManager
from converge.extensions.storage.memory import MemoryStore
from converge.extensions.storage.sqlite import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from converge.core.store import VersionedStore


class ManualClock:
    """Both clocks of one host, moved by the test."""

    def __init__(self, wall: float = 1_700_000_000.0, uptime: float = 1_000.0) -> None:
        self._wall, self._uptime = wall, uptime

    def time(self) -> float:
        return self._wall

    def monotonic(self) -> float:
        return self._uptime

    def advance(self, seconds: float) -> None:
        self._wall += seconds
        self._uptime += seconds

    def set_back(self, seconds: float) -> None:
        """A step of the wall clock, which the monotonic one does not make."""
        self._wall -= seconds


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "sqlite"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], VersionedStore]]:
    """Gives a store object on the same data at each call, as another process would open it."""
    opened: list[VersionedStore] = []

    def open_one() -> VersionedStore:
        if request.param == "memory":
            store: VersionedStore = opened[0] if opened else MemoryStore()
        else:
            store = SQLiteStore(tmp_path / "tasks.db", durability="process")
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def open_manager(open_store: Callable[[], VersionedStore], clock: ManualClock) -> Callable[[], TaskManager]:
    """Gives a new manager on the same data at each call: another process, or the same one after a restart."""
    return lambda: TaskManager(open_store(), clock=clock)


@pytest.fixture
def manager(open_manager: Callable[[], TaskManager]) -> TaskManager:
    return open_manager()
