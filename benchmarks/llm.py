"""What a decision with one tool call costs, when the model answers at once.

    python benchmarks/llm.py [--rounds 5] [--runs 300]

A run is: a user's message → the model calls the tool `multiply` → its result goes back → the model answers. Ours is
`LLMAgent`, twice: with nothing but the executor that calls its tool, which is what the others do; and in an
`AgentRuntime`, which besides carries a message in and the answer out, signed. The others are pydantic-ai and
openai-agents on models of their own kind that answer at once, each in an environment of its own under `.bench`. Each
is measured by the clock on the wall, and again by the CPU time of its process, all threads included, which other work
on the machine disturbs less. The ratio is how many times as fast ours is, and the bar is to be faster. Medians of
rounds in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from environments import environment, run_peer
from figures import Figure, compare, header, report, summary

from converge.core.decisions import SendMessage
from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.tools import ToolRegistry, tool
from converge.extensions.llm import LLMAgent, Reply, ScriptedProvider, ToolCall
from converge.extensions.llm.budget import Budget
from converge.extensions.llm.memory import MemoryWindow
from converge.network.network import AgentNetwork
from converge.network.transport.local import LocalTransport, LocalTransportRegistry
from converge.runtime.executor import StandardExecutor
from converge.runtime.loop import AgentRuntime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from converge.extensions.llm.chat import ChatMessage

PEERS = {"pydantic-ai-slim": "pydantic_ai_decisions.py", "openai-agents": "openai_agents_decisions.py"}
CLOCKS = {"wall": time.perf_counter, "CPU": time.process_time}


@tool
async def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


def at_once(boss: str) -> ScriptedProvider:
    """A model that calls the tool for a message, and sends the result to `boss`."""
    numbers = itertools.count()

    def reply(messages: Sequence[ChatMessage]) -> Reply:
        number, result_of = next(numbers), messages[-1].tool_call_id or ""
        if not result_of.startswith("multiply"):
            call = ToolCall(f"multiply{number}", "multiply", {"a": 6, "b": 7}, '{"a": 6, "b": 7}')
            return Reply("", (call,), finish="tool_calls")
        answer = {"message": {"recipient": boss, "payload": {"text": "It is 42."}}}
        return Reply("", (ToolCall(f"send{number}", "SendMessage", answer),), finish="tool_calls")

    return ScriptedProvider(reply)


def agent(boss: str) -> LLMAgent:
    budget = Budget(requests_per_minute=None, calls_in_a_row=None)
    words, memory = "You are good with numbers.", MemoryWindow(messages=2)
    return LLMAgent(Identity.generate(), at_once(boss), words, tools=[multiply], budget=budget, memory=memory)


async def alone(runs: int, clock: Callable[[], float]) -> float:
    """Microseconds a run by `clock`, without a runtime: `decide` twice, and the executor for the tool."""
    boss = Identity.generate()
    clerk = agent(boss.fingerprint)
    registry = ToolRegistry()
    registry.register(multiply)
    network = AgentNetwork(LocalTransport(clerk.id, LocalTransportRegistry()))
    executor = StandardExecutor(clerk.id, network, tool_registry=registry)
    message = Message(recipient=clerk.id, payload={"text": "What is 6 times 7?"}).sign(boss)

    async def run() -> None:
        clerk.outcomes = ()
        clerk.outcomes = tuple(await executor.execute(await clerk.decide([message], [])))
        assert clerk.outcomes[0].value == 42, clerk.outcomes
        (answer,) = await clerk.decide([], [])
        assert isinstance(answer, SendMessage), answer

    for _ in range(20):
        await run()
    begin = clock()
    for _ in range(runs):
        await run()
    return (clock() - begin) / runs * 1e6


async def in_a_runtime(runs: int, clock: Callable[[], float]) -> float:
    """Microseconds by `clock` from a signed message to the signed answer."""
    boss, registry = Identity.generate(), LocalTransportRegistry()
    clerk = agent(boss.fingerprint)
    mail = LocalTransport(boss.fingerprint, registry)
    await mail.start()
    async with AgentRuntime(clerk, LocalTransport(clerk.id, registry)):

        async def run() -> None:
            await mail.send(Message(recipient=clerk.id, payload={"text": "What is 6 times 7?"}).sign(boss))
            answer = await mail.receive_verified(timeout=30)
            assert answer is not None

        for _ in range(20):
            await run()
        begin = clock()
        for _ in range(runs):
            await run()
        taken = (clock() - begin) / runs * 1e6
    await mail.stop()
    return taken


def beside(peer: str, python: Path, clock: str, rounds: int, runs: int) -> Iterator[Figure]:
    """Both of ours against one of the others."""

    def theirs() -> float:
        return run_peer(python, PEERS[peer], str(runs), clock)

    yield compare(
        f"{clock}, agent and executor / {peer}", 1.0, rounds, lambda: asyncio.run(alone(runs, CLOCKS[clock])), theirs
    )
    yield compare(
        f"{clock}, in a runtime, signed / {peer}", 1.0, rounds,
        lambda: asyncio.run(in_a_runtime(runs, CLOCKS[clock])), theirs,
    )  # fmt: skip


def figures(rounds: int, runs: int) -> Iterator[Figure]:
    for peer in PEERS:
        python = environment(peer)
        if python is None:
            print(f"SKIPPED {peer}: it cannot be installed here", flush=True)
            continue
        try:
            for clock in CLOCKS:
                yield from beside(peer, python, clock, rounds, runs)
        except (subprocess.SubprocessError, ValueError) as error:
            print(f"SKIPPED {peer}: {str(error)[:200]}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=300)
    arguments = parser.parse_args()
    print(header("µs"))
    return summary("llm", report(figures(arguments.rounds, arguments.runs)))


if __name__ == "__main__":
    sys.exit(main())
