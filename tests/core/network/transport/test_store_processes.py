"""Real processes that write to each other through one store, and are killed."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from pathlib import Path

import pytest

from converge.network.transport.store import StoreTransport
from tests.core.network.transport.store_worker import identity_of, opened

WORKER = Path(__file__).with_name("store_worker.py")
COUNT = 40


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WORKER), *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def output(process: subprocess.Popen[str]) -> list[str]:
    out, err = process.communicate(timeout=60)
    assert process.returncode in (0, -9), err
    return out.splitlines()


@pytest.fixture(params=["sqlite", "file"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def with_a_mailbox(kind: str, path: Path, *names: str) -> None:
    async def make() -> None:
        for name in names:
            async with StoreTransport(identity_of(name).fingerprint, store):
                pass

    with opened(kind, str(path)) as store:
        asyncio.run(make())


def test_a_receiver_killed_before_it_acknowledged_gets_the_message_again_and_no_other_twice(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "store"
    with_a_mailbox(kind, path, "bob")
    killed = start("receive", kind, path, "bob", 2 * COUNT, 17)
    senders = [start("send", kind, path, name, "bob", COUNT) for name in ("alice", "carol")]
    first = output(killed)
    assert first.pop(0) == "ready"
    assert len(first) == 17
    second = output(start("receive", kind, path, "bob", 2 * COUNT - 16, 0))[1:]
    for sender in senders:
        assert len(output(sender)) == COUNT
    assert second[0] == first[-1], "the one that was not acknowledged comes again, and first"
    for name in ("alice", "carol"):
        numbers = [int(line.split()[1]) for line in [*first[:-1], *second] if line.startswith(name)]
        assert numbers == [*range(COUNT)], "each once, in the order in which it was sent"


def test_what_a_killed_sender_was_told_is_sent_arrives(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "store"
    with_a_mailbox(kind, path, "bob", "eve")
    sender = start("send", kind, path, "alice", "bob", 10_000)
    assert sender.stdout is not None
    for _ in range(25):
        sender.stdout.readline()
    sender.kill()
    sent = 25 + len(output(sender))

    async def receive(name: str) -> list[int]:
        numbers: list[int] = []
        async with StoreTransport(identity_of(name).fingerprint, store) as transport:
            while True:
                try:
                    message = await transport.receive_verified(timeout=0.2 if len(numbers) >= sent else 10)
                except TimeoutError:
                    return numbers
                assert message is not None
                numbers.append(message.payload["n"])

    with opened(kind, str(path)) as store:
        numbers = asyncio.run(receive("bob"))
        assert store.list(f"mail:{identity_of('eve').fingerprint}:") == []
    assert numbers[:sent] == [*range(sent)]
    assert len(numbers) <= sent + 1, "one more may be stored whose sender did not live to be told"


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
def test_a_receiver_killed_again_and_again_gets_each_message_once_but_for_the_one_it_was_killed_with(
    kind: str, tmp_path: Path, seed: int
) -> None:
    chance, path, each = random.Random(seed), tmp_path / "store", 150
    with_a_mailbox(kind, path, "bob")
    senders = [start("send", kind, path, name, "bob", each) for name in ("alice", "carol")]
    received: list[str] = []
    while len(received) < 2 * each:
        left = 2 * each - len(received) + bool(received)
        lines = output(start("receive", kind, path, "bob", 10_000, min(chance.randrange(5, 40), left)))[1:]
        if received:
            assert lines.pop(0) == received[-1], "the one that was not acknowledged comes again, and first"
        received += lines
    for sender in senders:
        assert len(output(sender)) == each
    for name in ("alice", "carol"):
        assert [int(line.split()[1]) for line in received if line.startswith(name)] == [*range(each)]
