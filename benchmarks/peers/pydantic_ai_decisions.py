"""Runs of pydantic-ai with one tool call, on a model that answers at once; prints microseconds a run.

A run is: a user's text → the model calls `multiply` → its result goes back → the model answers.
Called with how many runs, and `wall` or `CPU`: which time is counted.
"""

from __future__ import annotations

import asyncio
import sys
import time

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

RUNS = int(sys.argv[1])
clock = time.process_time if sys.argv[2] == "CPU" else time.perf_counter


def model(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    last = messages[-1].parts[-1]
    if last.part_kind == "tool-return":
        return ModelResponse(parts=[TextPart(f"It is {last.content}.")])
    return ModelResponse(parts=[ToolCallPart("multiply", {"a": 6, "b": 7})])


agent = Agent(FunctionModel(model), system_prompt="You are good with numbers.")


@agent.tool_plain
async def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


async def main() -> float:
    for _ in range(20):
        done = await agent.run("What is 6 times 7?")
        assert done.output == "It is 42.", done.output
    begin = clock()
    for _ in range(RUNS):
        await agent.run("What is 6 times 7?")
    return (clock() - begin) / RUNS * 1e6


print(asyncio.run(main()))
