"""What messages between agents of one process cost, beside bare queues, bare signatures and other agent libraries.

Run: `python benchmarks/messages.py [--rounds N] [--only WORD]`. Sides of a comparison run in turn, round by round;
figures are medians over the rounds. Exit code 1 when a bar is missed.

- Pairs: 50 pairs of agents, one message in flight each, unsigned, `send` to `receive` over the local transport, against
  the same over two bare `asyncio.Queue`s a pair, which make no message and copy nothing; a round trip of one pair; one
  message to 100 subscribers.
- Peers: the same pairs in autogen-core, uagents, spade and pykka, each in an environment of its own, which is made in
  `.bench` the first time. A peer that cannot be installed is printed as SKIPPED, and counts neither way.
- Agent to agent through two runtimes, signed, fresh and known: 64 messages in flight against the rate of bare Ed25519
  signatures; one in flight against one signature and one round trip through the queues, for each message.
- A message to a topic with one subscriber among 10,000 agents against 100.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from environments import environment, run_peer
from figures import Figure, compare, header, micros, report, summary

from converge.core.agent import Agent
from converge.core.decisions import Decision, SendMessage
from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.topic import Topic
from converge.network.identity_registry import IdentityRegistry
from converge.network.transport.local import LocalTransport, LocalTransportRegistry
from converge.runtime.loop import AgentRuntime

if TYPE_CHECKING:
    from collections.abc import Iterator

    from converge.core.task import Task

PEERS = {
    "autogen-core": "autogen_pairs.py",
    "pykka": "pykka_pairs.py",
    "spade": "spade_pairs.py",
    "uagents": "uagents_pairs.py",
}
PAYLOAD = {
    "kind": "bid", "task": "t-4711", "amount": 12.5, "note": "x" * 160, "tags": ["a", "b"], "n": 42,
    "ref": "0192f1a0-7c3e-7b1a-9d55-0a1b2c3d4e5f",
}  # fmt: skip
PAIRS, ROUNDS_A_PAIR, ROUND_TRIPS, NEWS, SUBSCRIBERS = 50, 60, 2_000, 60, 100
WINDOW, SIGNED = 64, 6_400


# Over the local transport


async def pairs(count: int, rounds: int) -> float:
    registry = LocalTransportRegistry()
    ends = [LocalTransport(f"agent-{number}", registry) for number in range(2 * count)]
    for end in ends:
        await end.start()

    async def ask(end: LocalTransport, other: str) -> None:
        for _ in range(rounds):
            await end.send(Message(sender=end.agent_id, recipient=other, payload=PAYLOAD))
            await end.receive()

    async def answer(end: LocalTransport) -> None:
        for _ in range(rounds):
            message = await end.receive()
            await end.send(Message(sender=end.agent_id, recipient=message.sender, payload=message.payload))

    begin = time.perf_counter()
    await asyncio.gather(
        *(ask(ends[2 * number], ends[2 * number + 1].agent_id) for number in range(count)),
        *(answer(end) for end in ends[1::2]),
    )
    return micros(begin, 2 * count * rounds)


async def queue_pairs(count: int, rounds: int) -> float:
    queues: list[asyncio.Queue[object]] = [asyncio.Queue() for _ in range(2 * count)]

    async def ask(mine: asyncio.Queue[object], theirs: asyncio.Queue[object]) -> None:
        for _ in range(rounds):
            theirs.put_nowait(PAYLOAD)
            await mine.get()

    async def answer(mine: asyncio.Queue[object], theirs: asyncio.Queue[object]) -> None:
        for _ in range(rounds):
            theirs.put_nowait(await mine.get())

    begin = time.perf_counter()
    await asyncio.gather(
        *(ask(queues[2 * number], queues[2 * number + 1]) for number in range(count)),
        *(answer(queues[2 * number + 1], queues[2 * number]) for number in range(count)),
    )
    return micros(begin, 2 * count * rounds)


async def news(subscribers: int, others: int, messages: int) -> float:
    """Microseconds a message and subscriber."""
    registry, topic = LocalTransportRegistry(), Topic("news")
    sender = LocalTransport("sender", registry)
    ends = [LocalTransport(f"agent-{number}", registry) for number in range(subscribers)]
    for end in (sender, *ends):
        await end.start()
    for end in ends:
        await end.subscribe(topic)
    for number in range(others):
        idle = LocalTransport(f"idle-{number}", registry)
        await idle.start()
        await idle.subscribe(Topic("other", {"number": number % 1000}))

    async def listen(end: LocalTransport) -> None:
        for _ in range(messages):
            await end.receive()

    listening = [asyncio.create_task(listen(end)) for end in ends]
    await asyncio.sleep(0)
    begin = time.perf_counter()
    for number in range(messages):
        await sender.send(Message(sender="sender", topics=[topic], payload=PAYLOAD))
        if number % 10 == 9:
            await asyncio.sleep(0)
    await asyncio.gather(*listening)
    return micros(begin, messages * subscribers)


async def queue_news(subscribers: int, messages: int) -> float:
    queues: list[asyncio.Queue[object]] = [asyncio.Queue() for _ in range(subscribers)]

    async def listen(queue: asyncio.Queue[object]) -> None:
        for _ in range(messages):
            await queue.get()

    listening = [asyncio.create_task(listen(queue)) for queue in queues]
    await asyncio.sleep(0)
    begin = time.perf_counter()
    for number in range(messages):
        for queue in queues:
            queue.put_nowait(PAYLOAD)
        if number % 10 == 9:
            await asyncio.sleep(0)
    await asyncio.gather(*listening)
    return micros(begin, messages * subscribers)


# Through runtimes


class Echo(Agent):
    """Sends everything back."""

    async def decide(self, messages: list[Message], tasks: list[Task]) -> list[Decision]:
        return [SendMessage(Message(recipient=message.sender, payload=message.payload)) for message in messages]


class Asker(Agent):
    """Keeps so many messages in flight until it has had all the answers."""

    def __init__(self, echo: str, window: int, total: int) -> None:
        super().__init__(Identity.generate())
        self.echo, self.window, self.left, self.to_come = echo, window, total, total
        self.done = asyncio.Event()

    def some(self, count: int) -> list[Message]:
        count = min(count, self.left)
        self.left -= count
        return [Message(recipient=self.echo, payload=PAYLOAD) for _ in range(count)]

    async def decide(self, messages: list[Message], tasks: list[Task]) -> list[Decision]:
        self.to_come -= len(messages)
        if self.to_come == 0:
            self.done.set()
        return [SendMessage(message) for message in self.some(len(messages))]


async def agents(window: int, total: int) -> float:
    registry, allowed = LocalTransportRegistry(), IdentityRegistry()
    echo = Echo(Identity.generate())
    asker = Asker(echo.id, window, total)
    for agent in (echo, asker):
        allowed.register(agent.id, agent.identity.public_key)
    runtimes = [
        AgentRuntime(each, LocalTransport(each.id, registry), identity_registry=allowed) for each in (echo, asker)
    ]
    async with runtimes[0], runtimes[1]:
        await asyncio.sleep(0.01)  # the first calls of decide are over
        begin = time.perf_counter()
        await asker.context.network.send_many(asker.some(window))
        await asker.done.wait()
        return micros(begin, 2 * total)


def signatures(count: int = 2_000) -> float:
    key, data = Ed25519PrivateKey.generate(), bytes(51)
    begin = time.perf_counter()
    for _ in range(count):
        key.sign(data)
    return micros(begin, count)


# Cases


def local(rounds: int) -> Iterator[Figure]:
    def round_trip() -> float:
        return 2 * asyncio.run(pairs(1, ROUND_TRIPS))

    def queue_round_trip() -> float:
        return 2 * asyncio.run(queue_pairs(1, ROUND_TRIPS))

    yield compare(
        "local, 100 agents in pairs / queues", 0.4, rounds,
        lambda: asyncio.run(pairs(PAIRS, ROUNDS_A_PAIR)), lambda: asyncio.run(queue_pairs(PAIRS, ROUNDS_A_PAIR)),
    )  # fmt: skip
    yield compare("local, a round trip / queues", 1 / 3, rounds, round_trip, queue_round_trip)
    yield compare(
        "local, one to 100 / queues", 0.3, rounds,
        lambda: asyncio.run(news(SUBSCRIBERS, 0, NEWS)), lambda: asyncio.run(queue_news(SUBSCRIBERS, NEWS)),
    )  # fmt: skip
    yield compare(
        "a topic with one subscriber, 10,000 agents / 100", 0.67, rounds,
        lambda: asyncio.run(news(1, 10_000, 500)), lambda: asyncio.run(news(1, 100, 500)),
    )  # fmt: skip


def signed(rounds: int) -> Iterator[Figure]:
    yield compare(
        "runtimes, signed, 64 in flight / bare signatures", 3.0, rounds,
        lambda: asyncio.run(agents(WINDOW, SIGNED)), signatures,
    )  # fmt: skip
    yield compare(
        "runtimes, signed, 1 in flight / signature + queues", 1 / 3, rounds,
        lambda: asyncio.run(agents(1, 500)), lambda: signatures() + 2 * asyncio.run(queue_pairs(1, ROUND_TRIPS)),
    )  # fmt: skip


def peers(rounds: int) -> Iterator[Figure]:
    for peer, script in PEERS.items():
        python = environment(peer)
        if python is None:
            print(f"SKIPPED {peer}: it cannot be installed here", flush=True)
            continue
        try:
            theirs = partial(run_peer, python, script, json.dumps(PAYLOAD), str(PAIRS), "20")
            yield compare(
                f"local, 100 agents in pairs / {peer}", 1.0, rounds,
                lambda: asyncio.run(pairs(PAIRS, ROUNDS_A_PAIR)), theirs,
            )  # fmt: skip
        except (subprocess.SubprocessError, ValueError) as error:
            print(f"SKIPPED {peer}: {str(error)[:200]}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="only cases with this word in their name: local, signed, peers")
    arguments = parser.parse_args()
    figures: list[Figure] = []
    print(header("µs"))
    for name, case in {"local": local, "signed": signed, "peers": peers}.items():
        figures += report(case(arguments.rounds) if arguments.only in name else ())
    return summary("messages", figures)


if __name__ == "__main__":
    sys.exit(main())
