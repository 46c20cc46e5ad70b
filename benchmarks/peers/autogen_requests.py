"""Calls of autogen-core's `send_message`, so many in flight; prints microseconds a call with its answer."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from dataclasses import dataclass
from typing import Any

from autogen_core import AgentId, MessageContext, RoutedAgent, SingleThreadedAgentRuntime, message_handler

PAYLOAD, WINDOW, CALLS = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])


@dataclass
class Text:
    payload: dict[str, Any]


class Echo(RoutedAgent):
    def __init__(self) -> None:
        super().__init__("echo")

    @message_handler
    async def on_text(self, message: Text, ctx: MessageContext) -> Text:
        return message


async def main() -> float:
    runtime = SingleThreadedAgentRuntime()
    await Echo.register(runtime, "echo", Echo)
    runtime.start()
    echo = AgentId("echo", "0")

    async def ask(count: int) -> None:
        for _ in range(count):
            await runtime.send_message(Text(PAYLOAD), echo)

    await ask(10)
    begin = time.perf_counter()
    await asyncio.gather(*(ask(CALLS // WINDOW) for _ in range(WINDOW)))
    taken = time.perf_counter() - begin
    await runtime.stop()
    return taken / (CALLS // WINDOW * WINDOW) * 1e6


logging.disable(logging.CRITICAL)
print(asyncio.run(main()))
