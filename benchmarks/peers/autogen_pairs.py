"""Pairs of agents in the single-threaded runtime of autogen-core; a call is a message and its answer."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from dataclasses import dataclass
from typing import Any

from autogen_core import AgentId, MessageContext, RoutedAgent, SingleThreadedAgentRuntime, message_handler

PAYLOAD, PAIRS, ROUNDS = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])


@dataclass
class Text:
    payload: dict[str, Any]


@dataclass
class Go:
    rounds: int


class Echo(RoutedAgent):
    def __init__(self) -> None:
        super().__init__("echo")

    @message_handler
    async def on_text(self, message: Text, ctx: MessageContext) -> Text:
        return message


class Asker(RoutedAgent):
    def __init__(self) -> None:
        super().__init__("asker")

    @message_handler
    async def on_go(self, message: Go, ctx: MessageContext) -> None:
        for _ in range(message.rounds):
            await self.send_message(Text(PAYLOAD), AgentId("echo", self.id.key))


async def main() -> float:
    runtime = SingleThreadedAgentRuntime()
    await Echo.register(runtime, "echo", Echo)
    await Asker.register(runtime, "asker", Asker)
    runtime.start()
    for number in range(PAIRS):
        await runtime.try_get_underlying_agent_instance(AgentId("echo", str(number)), Echo)
        await runtime.try_get_underlying_agent_instance(AgentId("asker", str(number)), Asker)
    begin = time.perf_counter()
    await asyncio.gather(*(runtime.send_message(Go(ROUNDS), AgentId("asker", str(number))) for number in range(PAIRS)))
    taken = time.perf_counter() - begin
    await runtime.stop()
    return taken / (2 * PAIRS * ROUNDS) * 1e6


logging.disable(logging.CRITICAL)
print(asyncio.run(main()))
