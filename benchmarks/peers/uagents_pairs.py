"""Pairs of uAgents that send through the dispatcher of one process; nothing is registered and nothing leaves it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from typing import Any

import uagents.agent as module
from uagents import Agent, Context, Model

PAYLOAD, PAIRS, ROUNDS = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
module.get_ledger = lambda *_, **__: None
module.get_almanac_contract = lambda *_, **__: None


class Text(Model):
    payload: dict[str, Any]


def agent(name: str, loop: asyncio.AbstractEventLoop) -> Any:
    return Agent(
        name=name, seed=name, loop=loop, log_level=logging.CRITICAL, enable_agent_inspector=False,
        publish_agent_details=False,
    )  # fmt: skip


def started(one: Any) -> Any:
    one.include(one._protocol)
    one.start_message_receivers()
    return one


async def main() -> float:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    running = [PAIRS]
    pairs = []
    for number in range(PAIRS):
        echo, asker, left = agent(f"echo{number}", loop), agent(f"asker{number}", loop), [ROUNDS]

        @echo.on_message(model=Text)
        async def back(ctx: Context, sender: str, message: Text) -> None:
            await ctx.send(sender, Text(payload=message.payload))

        @asker.on_message(model=Text)
        async def again(ctx: Context, sender: str, message: Text, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0]:
                await ctx.send(sender, Text(payload=PAYLOAD))
                return
            running[0] -= 1
            if not running[0]:
                done.set_result(None)

        pairs.append((started(asker), started(echo)))
    await asyncio.sleep(0.05)
    begin = time.perf_counter()
    for asker, echo in pairs:
        await asker._build_context().send(echo.address, Text(payload=PAYLOAD))
    await asyncio.wait_for(done, 100)
    return (time.perf_counter() - begin) / (2 * PAIRS * ROUNDS) * 1e6


logging.disable(logging.CRITICAL)
print(asyncio.run(main()), flush=True)
os._exit(0)  # its tasks never end
