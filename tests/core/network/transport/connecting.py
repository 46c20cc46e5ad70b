"""What the contract of transports is given for those of core; importable by other processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.snapshot import Snapshot
from converge.core.store import Store
from converge.extensions.storage.file import FileStore
from converge.extensions.storage.memory import MemoryStore
from converge.extensions.storage.sqlite import SQLiteStore
from converge.network.transport.local import LocalTransport, LocalTransportRegistry
from converge.network.transport.store import StoreTransport

WAITING = 200


class Local:
    """Local transports of one registry."""

    def __init__(self) -> None:
        self.registry = LocalTransportRegistry()

    def __call__(self, identity: Identity) -> LocalTransport:
        return LocalTransport(identity.fingerprint, self.registry, maxsize=WAITING)

    async def misdeliver(self, agent_id: str, message: Message) -> None:
        mailbox = self.registry.mailbox(agent_id)
        assert mailbox is not None
        assert mailbox.put(Snapshot(message)) is None


class Stored:
    """Store transports of one store, which each process opens for itself."""

    def __init__(self, kind: str, path: Path) -> None:
        self.kind, self.path = kind, path
        self._store: Store | None = None

    @property
    def store(self) -> Store:
        if self._store is None:
            self._store = self.open()
        return self._store

    def open(self) -> Store:
        if self.kind == "memory":
            return MemoryStore()
        return FileStore(self.path) if self.kind == "file" else SQLiteStore(self.path, durability="process")

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    def __call__(self, identity: Identity) -> StoreTransport:
        return StoreTransport(identity.fingerprint, self.store, maxsize=WAITING)

    async def misdeliver(self, agent_id: str, message: Message) -> None:
        await self.inject(agent_id, message.to_bytes())

    async def inject(self, agent_id: str, frame: bytes) -> None:
        self._injected = getattr(self, "_injected", 0) + 1
        self.store.put(f"mail:{agent_id}:injected{self._injected}", [4_000_000_000.0, frame])

    def __getstate__(self) -> dict[str, Any]:
        return {"kind": self.kind, "path": self.path, "_store": None}
