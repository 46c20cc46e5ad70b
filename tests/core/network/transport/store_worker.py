"""What the tests of the store transport run in processes of their own: `store_worker.py WHAT KIND PATH SEED …`."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
from typing import TYPE_CHECKING

from converge.core.identity import Identity
from converge.core.message import Message
from converge.extensions.storage.file import FileStore
from converge.extensions.storage.sqlite import SQLiteStore
from converge.network.transport.store import StoreTransport

if TYPE_CHECKING:
    from converge.core.store import Store


def identity_of(name: str) -> Identity:
    """The same identity in every process."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    seed = hashlib.sha256(name.encode()).digest()
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return Identity(public, seed)


def opened(kind: str, path: str) -> Store:
    return FileStore(path) if kind == "file" else SQLiteStore(path, durability="process")


def say(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


async def send(store: Store, name: str, recipient: str, count: int) -> None:
    """Send numbered messages, and print each number once it is sent."""
    identity = identity_of(name)
    async with StoreTransport(identity.fingerprint, store) as transport:
        for number in range(count):
            message = Message(recipient=identity_of(recipient).fingerprint, payload={"from": name, "n": number})
            await transport.send(message.sign(identity))
            say(number)


async def receive(store: Store, name: str, count: int, die_after: int) -> None:
    """Print what comes, acknowledge what was printed, and die in the middle after so many."""
    async with StoreTransport(identity_of(name).fingerprint, store) as transport:
        say("ready")
        for number in range(count):
            message = None
            while message is None:
                message = await transport.receive_verified(timeout=60)
            say(f"{message.payload['from']} {message.payload['n']}")
            if number + 1 == die_after:
                os.kill(os.getpid(), signal.SIGKILL)
            await transport.acknowledge([message])


if __name__ == "__main__":
    what, kind, path, name, *rest = sys.argv[1:]
    with opened(kind, path) as opened_store:
        if what == "send":
            asyncio.run(send(opened_store, name, rest[0], int(rest[1])))
        else:
            asyncio.run(receive(opened_store, name, int(rest[0]), int(rest[1])))
