"""Pairs of SPADE agents of one container, with its own XMPP server on loopback."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from typing import Any

import spade
from spade.agent import Agent
from spade.behaviour import CyclicBehaviour
from spade.message import Message

PAYLOAD, PAIRS, ROUNDS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


class Reacting(CyclicBehaviour):
    async def run(self) -> None:
        message = await self.receive(timeout=10)
        if message is not None:
            await self.agent.react(self, str(message.sender))


class Party(Agent):
    react: Any

    async def setup(self) -> None:
        self.behaviour = Reacting()
        self.add_behaviour(self.behaviour)


async def main() -> None:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    running = [PAIRS]

    async def back(behaviour: Any, sender: str) -> None:
        await behaviour.send(Message(to=sender, body=PAYLOAD))

    def asking() -> Any:
        left = [ROUNDS]

        async def again(behaviour: Any, sender: str) -> None:
            left[0] -= 1
            if left[0]:
                await behaviour.send(Message(to=sender, body=PAYLOAD))
                return
            running[0] -= 1
            if not running[0]:
                done.set_result(None)

        return again

    parties = []
    for number in range(2 * PAIRS):
        party = Party(f"agent{number}@localhost", "secret")
        party.react = asking() if number % 2 else back
        await party.start(auto_register=True)
        parties.append(party)
    await asyncio.sleep(0.2)
    begin = time.perf_counter()
    for echo, asker in zip(parties[::2], parties[1::2], strict=True):
        await asker.behaviour.send(Message(to=str(echo.jid), body=PAYLOAD))
    await asyncio.wait_for(done, 60)
    print((time.perf_counter() - begin) / (2 * PAIRS * ROUNDS) * 1e6, flush=True)
    os.killpg(0, 9)  # its server's processes outlive it; this script was started as the leader of its group


if __name__ == "__main__":
    json.loads(PAYLOAD)
    logging.disable(logging.CRITICAL)
    spade.run(main(), embedded_xmpp_server=True)
