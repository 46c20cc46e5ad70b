"""The contract of transports, over those of core."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from converge.testing.transport import Medium, TransportContract
from converge.testing.transport.fixtures import OpenMedium
from tests.core.network.transport.connecting import WAITING, Local, Stored


class TestLocalTransport(TransportContract):
    waiting_messages = WAITING + 50

    @pytest.fixture
    def medium(self) -> OpenMedium:
        @asynccontextmanager
        async def medium() -> AsyncIterator[Medium]:
            local = Local()
            yield Medium(local, local.misdeliver)

        return medium


class StoreTransportContract(TransportContract):
    delivery: ClassVar[Literal["at most once", "at least once"]] = "at least once"
    crosses_processes: ClassVar[bool] = True
    waiting_messages = WAITING + 50
    kind: ClassVar[str]

    @pytest.fixture
    def medium(self, tmp_path: Path) -> OpenMedium:
        @asynccontextmanager
        async def medium() -> AsyncIterator[Medium]:
            stored = Stored(self.kind, tmp_path / "store")
            try:
                yield Medium(stored, stored.misdeliver, stored.inject)
            finally:
                stored.close()

        return medium


class TestOnSQLite(StoreTransportContract):
    kind = "sqlite"


class TestOnFiles(StoreTransportContract):
    kind = "file"


class TestInMemory(StoreTransportContract):
    kind = "memory"
    crosses_processes = False
