from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converge.core.errors import StoreCorruption
from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.plain import Plain
from converge.extensions.storage.memory import MemoryStore
from converge.extensions.storage.sqlite import SQLiteStore
from converge.network.replay_window import ReplayWindow
from converge.network.stored_replay_window import StoredReplayWindow
from converge.network.transport.local import LocalTransport, LocalTransportRegistry

NOON = 1_700_000_000.0
ALICE, BOB = Identity.generate(), Identity.generate()


class HandClock:
    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def at(sec: float, message_id: str = "m", sender: str = "a") -> Message:
    return Message(message_id, sender, timestamp=round((NOON + sec) * 1000))


def accept(window: StoredReplayWindow, message: Message) -> str | None:
    """What a transport does: ask, and record before it hands out."""
    refusal = window.refusal(message)
    if refusal is None:
        window.record(message)
    return refusal


def test_what_was_recorded_is_refused_after_a_restart_and_what_was_not_is_accepted() -> None:
    store, clock = MemoryStore(), HandClock()
    before = StoredReplayWindow(store, "bob", now=clock)
    clock.now += 1
    assert accept(before, at(0.5)) is None
    clock.now += 1
    after = StoredReplayWindow(store, "bob", now=clock)
    assert accept(after, at(0.5)) == "replayed"
    assert accept(after, at(0.6, "waited in the meantime")) is None
    assert accept(after, at(0.5, sender="b")) is None


def test_a_message_stamped_ahead_of_the_clock_is_not_accepted_again_either() -> None:
    store, clock = MemoryStore(), HandClock()
    assert accept(StoredReplayWindow(store, "bob", now=clock), at(25)) is None
    clock.now += 26
    assert accept(StoredReplayWindow(store, "bob", now=clock), at(25)) == "replayed"
    assert ReplayWindow(now=HandClock(NOON + 5)).refusal(at(25)) is None  # which a window without a store cannot know


def test_before_the_first_start_nothing_is_accepted() -> None:
    store, clock = MemoryStore(), HandClock()
    for _ in range(3):
        window = StoredReplayWindow(store, "bob", now=clock)
        assert window.refusal(at(-1)) == "before_start"
        clock.now += 10


def test_agents_that_share_a_store_do_not_share_what_they_accepted() -> None:
    store, clock = MemoryStore(), HandClock()
    bob, carol = (StoredReplayWindow(store, name, now=clock) for name in ("bob", "carol"))
    assert [accept(bob, at(0)), accept(carol, at(0)), accept(bob, at(0))] == [None, None, "replayed"]


def test_records_are_bounded_because_their_places_are_used_again() -> None:
    store, clock = MemoryStore(), HandClock()
    window = StoredReplayWindow(store, "bob", 10, 0, now=clock)
    for second in range(500):
        clock.now = NOON + second
        assert accept(window, at(second, f"m{second}")) is None
        if second % 50 == 49:
            window = StoredReplayWindow(store, "bob", 10, 0, now=clock)
            assert accept(window, at(second, f"m{second}")) == "replayed"
    assert len(list(store.list("replay:bob:"))) <= 16


def test_a_place_that_is_used_again_forgets_nothing_whatever_the_clock_does() -> None:
    """The record that takes a place carries the newest timestamp that is no longer known."""
    store, clock = MemoryStore(), HandClock()
    window = StoredReplayWindow(store, "bob", now=clock)
    assert accept(window, at(0)) is None
    clock.now += 86_400
    assert accept(window, at(86_400, "takes the place")) is None
    assert len(list(store.list("replay:bob:"))) == 2
    clock.now = NOON + 1
    assert accept(StoredReplayWindow(store, "bob", now=clock), at(0)) == "stale"


def test_one_that_was_released_is_accepted_again_and_counted_once_after_a_restart() -> None:
    store, clock = MemoryStore(), HandClock()
    window = StoredReplayWindow(store, "bob", now=clock)
    assert accept(window, at(0)) is None
    window.release(at(0))
    assert accept(window, at(0, "other")) is None
    assert accept(window, at(0)) is None
    again = StoredReplayWindow(store, "bob", now=clock)
    assert len(again) == 2
    assert [accept(again, at(0)), accept(again, at(0, "other"))] == ["replayed", "replayed"]


def test_the_same_id_with_another_timestamp_does_not_push_out_the_first() -> None:
    store, clock = MemoryStore(), HandClock()
    window = StoredReplayWindow(store, "bob", now=clock)
    clock.now += 60
    assert accept(window, at(0)) is None
    accept(window, at(60))
    assert accept(StoredReplayWindow(store, "bob", now=clock), at(0)) == "replayed"


@settings(max_examples=150)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("clock"), st.floats(-200, 400)),
            st.tuples(st.just("message"), st.floats(-150, 40)),
            st.tuples(st.just("replay"), st.integers(0, 30)),
            st.tuples(st.just("restart"), st.just(0)),
        ),
        max_size=60,
    )
)
def test_no_message_is_handed_out_twice_whatever_restarts_and_the_clock_do(steps: list[tuple[str, float]]) -> None:
    store, clock = MemoryStore(), HandClock()
    window = StoredReplayWindow(store, "bob", now=clock)
    handed_out: list[Message] = []
    for number, (kind, value) in enumerate(steps):
        if kind == "clock":
            clock.now += value
        elif kind == "restart":
            window = StoredReplayWindow(store, "bob", now=clock)
        elif kind == "message":
            message = at(clock.now - NOON + value, f"m{number}")
            if accept(window, message) is None:
                handed_out.append(message)
        elif handed_out:
            assert accept(window, handed_out[int(value) % len(handed_out)]) is not None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("replay:bob:0", None),
        ("replay:bob:0", ["a", b"k", 1]),
        ("replay:bob:0", ["a", b"k", True, 0]),
        ("replay:bob:x", ["a", b"k", 1, 0]),
        ("replay:bob:since", "noon"),
    ],
)
def test_a_record_that_is_none_is_reported_by_its_key(key: str, value: Plain) -> None:
    store = MemoryStore()
    store.put(key, value)
    with pytest.raises(StoreCorruption, match=key):
        StoredReplayWindow(store, "bob")


WORKER = """
import asyncio, os, sys
from converge.core.message import Message
from converge.extensions.storage.sqlite import SQLiteStore
from converge.network.stored_replay_window import StoredReplayWindow

async def main():
    window = StoredReplayWindow(SQLiteStore(sys.argv[1]), "bob")
    for line in sys.stdin.buffer:
        message = Message.from_bytes(bytes.fromhex(line.decode()))
        refusal = window.refusal(message)
        if refusal is None:
            await window.settle(message)
        print(message.id, refusal, flush=True)

asyncio.run(main())
"""


def test_kill_9_at_any_moment_lets_nothing_be_handed_out_twice(tmp_path: Path) -> None:
    first = StoredReplayWindow(SQLiteStore(str(tmp_path / "nonces.db")), "bob")
    assert len(first) == 0
    frames = [Message(f"m{number}", payload={}).sign(ALICE).to_bytes().hex() for number in range(60)]
    handed_out: list[str] = []
    for round_ in range(4):
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path / "nonces.db")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write("".join(f"{frame}\n" for frame in frames).encode())
        worker.stdin.flush()
        told = [worker.stdout.readline().decode().split() for _ in range(15 * (round_ + 1))]
        os.kill(worker.pid, signal.SIGKILL)
        told += [line.decode().split() for line in worker.stdout if line.endswith(b"\n")]
        worker.wait()
        worker.stdin.close()
        worker.stdout.close()
        handed_out += [name for name, refusal in told if refusal == "None"]
    assert len(handed_out) == len(set(handed_out)) >= 15


async def test_a_transport_records_before_it_hands_out_and_knows_it_after_a_restart(tmp_path: Path) -> None:
    store = SQLiteStore(str(tmp_path / "nonces.db"))
    registry = LocalTransportRegistry()
    transport = LocalTransport(BOB.fingerprint, registry)
    transport.replay_window = await asyncio.to_thread(StoredReplayWindow, store, BOB.fingerprint)
    message = Message(recipient=BOB.fingerprint).sign(ALICE)
    async with LocalTransport(ALICE.fingerprint, registry) as alice, transport:
        await alice.send(message)
        assert await transport.receive_verified(timeout=5) == message
    again = LocalTransport(BOB.fingerprint, registry)
    again.replay_window = await asyncio.to_thread(StoredReplayWindow, store, BOB.fingerprint)
    async with LocalTransport(ALICE.fingerprint, registry) as alice, again:
        await alice.send(message)
        await alice.send(Message(recipient=BOB.fingerprint, payload={"n": 2}).sign(ALICE))
        assert await again.receive_verified(timeout=5) is None
        received = await again.receive_verified(timeout=5)
        assert received is not None
        assert received.payload == {"n": 2}
    assert again.counters == {"refused_replayed": 1}


class FullDisk(MemoryStore):
    """A store whose puts fail, or wait, when told to."""

    fails = False

    def put(self, key: str, value: Any) -> None:
        if self.fails:
            raise OSError("no space left on device")
        super().put(key, value)


async def test_what_cannot_be_recorded_is_refused_counted_and_accepted_when_it_can(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, registry = FullDisk(), LocalTransportRegistry()
    transport = LocalTransport(BOB.fingerprint, registry)
    transport.replay_window = StoredReplayWindow(store, BOB.fingerprint)
    message = Message(recipient=BOB.fingerprint).sign(ALICE)
    async with LocalTransport(ALICE.fingerprint, registry) as alice, transport:
        accepted = []
        for fails in (True, False, False):
            store.fails = fails
            await alice.send(message)
            accepted.append(await transport.receive_verified(timeout=5) is not None)
    assert accepted == [False, True, False]
    assert transport.counters == {"refused_unrecorded": 1, "refused_replayed": 1}
    assert "no space left on device" in caplog.text


class SlowDisk(MemoryStore):
    blocking = True

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.may_end = threading.Event(), threading.Event()

    def put(self, key: str, value: Any) -> None:
        self.begun.set()
        assert self.may_end.wait(60)
        super().put(key, value)


async def test_a_receive_that_is_cancelled_while_it_records_waits_for_the_store_and_is_counted() -> None:
    store, registry = SlowDisk(), LocalTransportRegistry()
    transport = LocalTransport(BOB.fingerprint, registry)
    transport.replay_window = StoredReplayWindow(store, BOB.fingerprint)
    async with LocalTransport(ALICE.fingerprint, registry) as alice, transport:
        await alice.send(Message(recipient=BOB.fingerprint).sign(ALICE))
        receiving = asyncio.create_task(transport.receive_verified())
        await asyncio.to_thread(store.begun.wait, 60)
        receiving.cancel()
        done, _ = await asyncio.wait([receiving], timeout=0)
        assert not done
        store.may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await receiving
    assert transport.counters == {"lost_at_cancel": 1}
