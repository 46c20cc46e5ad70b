"""Starting and stopping under traffic, again and again: nothing stays behind, and nothing is handled twice."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from converge.extensions.storage.memory import MemoryStore
from converge.extensions.storage.sqlite import SQLiteStore
from converge.network.transport.local import LocalTransport, LocalTransportRegistry
from converge.network.transport.store import StoreTransport
from tests.core.runtime.cycling import Setup, cycles

if TYPE_CHECKING:
    from pathlib import Path

    from converge.core.store import Store


@pytest.fixture(params=["memory", "sqlite", "store transport"])
def setup(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    with ExitStack() as stack:
        store: Store = MemoryStore()
        if request.param != "memory":
            store = stack.enter_context(SQLiteStore(tmp_path / "store.db"))
        registry = LocalTransportRegistry()
        made = Setup(
            store,
            (lambda agent_id: StoreTransport(agent_id, store))
            if request.param == "store transport"
            else (lambda agent_id: LocalTransport(agent_id, registry)),
        )
        yield made
        made.tasks.close()


@pytest.mark.parametrize("anew", [False, True], ids=["same runtimes", "new runtimes"])
async def test_cycles_under_traffic_leave_nothing_and_handle_nothing_twice(setup: Setup, anew: bool) -> None:
    await cycles(setup, 4, anew=anew)


@pytest.mark.soak
@pytest.mark.parametrize("anew", [False, True], ids=["same runtimes", "new runtimes"])
async def test_many_cycles_under_traffic_leave_nothing_and_handle_nothing_twice(setup: Setup, anew: bool) -> None:
    await cycles(setup, 400, anew=anew)
