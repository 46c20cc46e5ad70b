"""Runs of openai-agents with one tool call, on a model that answers at once; prints microseconds a run.

A run is: a user's text → the model calls `multiply` → its result goes back → the model answers. Tracing is off.
Called with how many runs, and `wall` or `CPU`: which time is counted.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from typing import Any

from agents import Agent, ModelResponse, Runner, Usage, function_tool, set_tracing_disabled
from agents.models.interface import Model
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

RUNS = int(sys.argv[1])
clock = time.process_time if sys.argv[2] == "CPU" else time.perf_counter
set_tracing_disabled(True)
numbers = itertools.count()


class AtOnce(Model):
    async def get_response(self, *arguments: Any, **options: Any) -> ModelResponse:
        given = options["input"] if "input" in options else arguments[1]
        items = given if isinstance(given, list) else []
        number = next(numbers)
        if items and items[-1].get("type") == "function_call_output":
            text = ResponseOutputText(text=f"It is {items[-1]['output']}.", type="output_text", annotations=[])
            answer: Any = ResponseOutputMessage(
                id=f"m{number}", content=[text], role="assistant", status="completed", type="message"
            )
        else:
            answer = ResponseFunctionToolCall(
                arguments='{"a": 6, "b": 7}', call_id=f"c{number}", name="multiply", type="function_call"
            )
        return ModelResponse(output=[answer], usage=Usage(), response_id=None)

    def stream_response(self, *arguments: Any, **options: Any) -> Any:
        raise NotImplementedError


@function_tool
async def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


agent = Agent(name="numbers", instructions="You are good with numbers.", model=AtOnce(), tools=[multiply])


async def main() -> float:
    for _ in range(20):
        done = await Runner.run(agent, "What is 6 times 7?")
        assert done.final_output == "It is 42.", done.final_output
    begin = clock()
    for _ in range(RUNS):
        await Runner.run(agent, "What is 6 times 7?")
    return (clock() - begin) / RUNS * 1e6


print(asyncio.run(main()))
