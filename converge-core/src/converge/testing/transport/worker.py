"""What the contract of transports runs in a process of its own: `worker.py TASK ARGUMENTS`; not to be imported."""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
import sys
from typing import TYPE_CHECKING

from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.topic import Topic

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.network.transport.base import Transport


__all__ = ["echo", "hold", "main", "say", "send", "told_to_stop"]


def say(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


async def told_to_stop() -> None:
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.readline)


async def echo(transport: Transport, identity: Identity) -> None:
    """Answer each message with what it says, until told to stop."""
    await transport.subscribe(Topic("news"))
    say(identity.fingerprint)

    async def answer() -> None:
        while True:
            message = await transport.receive_verified()
            if message is not None:
                await transport.send(message.reply(message.payload).sign(identity))
                await transport.acknowledge([message])

    answering = asyncio.create_task(answer())
    stopped = asyncio.create_task(told_to_stop())
    await asyncio.wait({answering, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if answering.done():
        answering.result()
    answering.cancel()


async def hold(transport: Transport, identity: Identity) -> None:
    """Tell of each message, acknowledge it, and tell of that."""
    say(identity.fingerprint)
    while True:
        message = await transport.receive_verified()
        if message is not None:
            say(["received", message.payload["n"]])
            await transport.acknowledge([message])
            say(["acknowledged", message.payload["n"]])


async def send(transport: Transport, identity: Identity, recipient: str) -> None:
    """Send without end, and tell of each message that is sent."""
    for number in range(100_000):
        await transport.send(Message(recipient=recipient, payload={"n": number}).sign(identity))
        say(number)


async def main() -> None:
    task, arguments = sys.argv[1], json.loads(sys.argv[2])
    connect: Callable[[Identity], Transport] = pickle.loads(base64.b64decode(sys.stdin.buffer.readline()))
    public, private, *rest = arguments
    identity = Identity(bytes.fromhex(public), bytes.fromhex(private))
    tasks = {"echo": echo, "hold": hold, "send": send}
    async with connect(identity) as transport:
        await tasks[task](transport, identity, *rest)  # type: ignore[operator]  # the arguments are those of the task


if __name__ == "__main__":
    asyncio.run(main())
