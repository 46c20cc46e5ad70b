"""A process with one agent that fails on poison: `parking_worker.py <store> <key file>`. Prints what it handles."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from converge.core.agent import Agent
from converge.core.decisions import Decision
from converge.core.identity import Identity
from converge.core.message import Message
from converge.extensions.storage.sqlite import SQLiteStore
from converge.network.transport.store import StoreTransport
from converge.runtime import retries
from converge.runtime.loop import AgentRuntime
from converge.runtime.parking import Parking

if TYPE_CHECKING:
    from converge.core.task import Task


def say(what: str) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


class Picky(Agent):
    async def decide(self, messages: list[Message], tasks: list[Task]) -> list[Decision]:
        for message in messages:
            if message.payload["n"] == "poison":
                say("failing")
                raise ValueError("poison")
        for message in messages:
            say(f"handled {message.payload['n']}")
        return []


async def main(path: str, pem: str) -> None:
    retries._FIRST_PAUSE_SEC = 0.005
    agent = Picky(Identity.load(pem))
    with SQLiteStore(path) as store:
        runtime = AgentRuntime(agent, StoreTransport(agent.id, store), parking=Parking(agent.id, store))
        say("ready")
        async with runtime:
            await runtime.wait_stopped()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
