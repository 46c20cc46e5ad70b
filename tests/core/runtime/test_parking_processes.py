"""An agent with poison in its mailbox, in processes that are killed."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from converge.core.identity import Identity
from converge.core.message import Message
from converge.extensions.storage.sqlite import SQLiteStore
from converge.network.transport.store import StoreTransport
from converge.runtime.parking import Parking

WORKER = Path(__file__).with_name("parking_worker.py")
GOOD = 30


def deliver(path: Path, recipient: Identity, *numbers: object) -> None:
    sender = Identity.generate()

    async def send() -> None:
        async with StoreTransport(recipient.fingerprint, store), StoreTransport(sender.fingerprint, store) as transport:
            for n in numbers:
                await transport.send(Message(recipient=recipient.fingerprint, payload={"n": n}).sign(sender))

    with SQLiteStore(path) as store:
        asyncio.run(send())


def parked_in(path: Path, agent: Identity) -> tuple[list[str], int]:
    """What is parked, and how many messages wait in the mailbox."""
    with SQLiteStore(path) as store:
        found = Parking(agent.fingerprint, store).stored()
        return [str(each.message.payload["n"]) for each in found.values()], len(store.list("mail:"))


class Life:
    """A process of the agent, until it is killed."""

    def __init__(self, path: Path) -> None:
        key = path.with_name("agent.pem")
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), str(path), str(key)], stdout=subprocess.PIPE, text=True
        )
        self.lines = [self._next()]

    def _next(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def goes_on(self, lines: int) -> None:
        self.lines += [self._next() for _ in range(lines)]

    def ends(self) -> list[str]:
        self._process.kill()
        assert self._process.stdout is not None
        self.lines += self._process.stdout.read().split("\n")  # `communicate` passes over what was read ahead
        self._process.stdout.close()
        self._process.wait(60)
        return self.lines


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_poison_is_parked_once_and_all_else_is_handled_whenever_the_agent_is_killed(tmp_path: Path, seed: int) -> None:
    chance, path, agent = random.Random(seed), tmp_path / "store.db", Identity.generate()
    agent.save(tmp_path / "agent.pem")
    deliver(path, agent, *range(GOOD // 2), "poison", *range(GOOD // 2, GOOD))
    said: Counter[str] = Counter()
    for _ in range(3):
        life = Life(path)
        life.goes_on(chance.randrange(1, 8))
        said.update(life.ends())
    last, deadline = Life(path), time.monotonic() + 60
    while parked_in(path, agent) != (["poison"], 0):
        assert time.monotonic() < deadline, parked_in(path, agent)
        time.sleep(0.05)
    said.update(last.ends())
    assert said["ready"] == 4
    assert said["failing"] >= 5
    assert {line for line in said if line.startswith("handled")} == {f"handled {n}" for n in range(GOOD)}
    deliver(path, agent, "later")
    again = Life(path)
    again.goes_on(1)
    assert again.ends()[:2] == ["ready", "handled later"], "what is parked is not shown again"
