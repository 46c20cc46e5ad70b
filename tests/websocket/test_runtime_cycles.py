"""Agents on a hub that start and stop under traffic, again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from converge.extensions.storage.sqlite import SQLiteStore
from converge.network.transport.websocket import WebSocketHub, WebSocketTransport
from tests.core.runtime.cycling import Setup, cycles

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def setup(hub: WebSocketHub, tmp_path: Path) -> Iterator[Setup]:
    with SQLiteStore(tmp_path / "store.db") as store:
        made = Setup(store, lambda agent_id: WebSocketTransport(agent_id, hub.uri))
        yield made
        made.tasks.close()


@pytest.mark.parametrize("anew", [False, True], ids=["same runtimes", "new runtimes"])
async def test_cycles_under_traffic_leave_nothing_and_handle_nothing_twice(setup: Setup, anew: bool) -> None:
    await cycles(setup, 5, anew=anew)


@pytest.mark.soak
@pytest.mark.parametrize("anew", [False, True], ids=["same runtimes", "new runtimes"])
async def test_many_cycles_under_traffic_leave_nothing_and_handle_nothing_twice(setup: Setup, anew: bool) -> None:
    await cycles(setup, 400, anew=anew)
