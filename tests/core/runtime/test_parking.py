"""What becomes of messages that an agent fails on: tried again while the others go on, and parked in the end."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest

from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.topic import Topic
from converge.extensions.storage.memory import MemoryStore
from converge.extensions.storage.sqlite import SQLiteStore
from converge.network.transport.local import LocalTransport
from converge.network.transport.store import StoreTransport
from converge.plugins import hookimpl
from converge.plugins.lifecycle import Lifecycle
from converge.runtime import retries, turns
from converge.runtime.inbox import Inbox
from converge.runtime.parking import Parking
from converge.runtime.retries import MAX_FAILURES, MAX_WAITING, Attempt, Retries
from tests.core.runtime.conftest import PATIENCE_SEC, Scripted, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from converge.core.plain import Plain
    from converge.core.store import Store
    from converge.core.task import Task
    from tests.core.runtime.conftest import World


class Picky(Scripted):
    """Fails on every message of which `n` is a poison, and on every batch with one; keeps what it handled."""

    def __init__(self, *poisons: object) -> None:
        super().__init__()
        self.poisons = set(poisons)
        self.handled: list[object] = []

    async def decide(self, messages: list[Message], tasks: list[Task]) -> Any:
        await super().decide(messages, tasks)
        for message in messages:
            if message.payload["n"] in self.poisons:
                raise ValueError(f"cannot deal with {message.payload['n']}")
        self.handled += [message.payload["n"] for message in messages]
        return []

    def times(self, n: object) -> int:
        """How often it was shown this alone."""
        return self.payloads.count([n])


class Noting(LocalTransport):
    """Notes what is acknowledged."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.acknowledged: list[object] = []

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        self.acknowledged += [message.payload["n"] for message in messages]


class Moody(MemoryStore):
    """A store whose disk may be full."""

    full = False

    def put(self, key: str, value: Plain) -> None:
        if self.full and key.startswith("parked:"):
            raise OSError("no space left on device")
        super().put(key, value)


def parked(runtime: Any) -> list[object]:
    return [each.message.payload["n"] for each in runtime.parked]


# -- in a runtime


@pytest.mark.usefixtures("retries_at_once")
async def test_a_message_is_parked_at_its_fifth_failure_and_acknowledged_only_then(world: World) -> None:
    agent, peer = Picky("poison"), await world.peer()
    transport = Noting(agent.id, world.registry)
    before: list[list[object]] = []

    def note(messages: list[Message], tasks: list[Task]) -> list[Any]:
        before.append([*transport.acknowledged])
        return []

    agent.answers = [note] * 20
    runtime = await world.started(agent, transport)
    await peer.tell(agent.id, "poison")
    await until(lambda: transport.acknowledged)
    assert agent.times("poison") == MAX_FAILURES == 5
    assert before == [[]] * 6, "the start, and five times"
    message, error, failures, _ = runtime.parked[0]
    assert (message.payload, message.verify()) == ({"n": "poison"}, True)
    assert (error, failures) == ("ValueError: cannot deal with poison", 5)
    assert transport.acknowledged == ["poison"]
    assert world.counted("converge_messages_parked_total") == 1
    assert world.counted("converge_messages_failed_total") == 5
    assert world.counted("converge_messages_retried_total") == 4
    assert runtime.is_healthy(), "one message, however often it fails, is no failure of the agent"


async def test_the_others_go_on_in_their_order_while_a_message_waits_for_its_next_chance(world: World) -> None:
    agent, peer = Picky(3), await world.peer()
    inbox = Inbox()
    runtime = world.runtime(agent, inbox=inbox)
    for n in range(1, 8):
        await inbox.push(peer.message(agent.id, n))
    await runtime.start()
    await until(lambda: len(agent.handled) == 6)
    for n in range(8, 12):
        await peer.tell(agent.id, n)
    await until(lambda: len(agent.handled) == 10)
    assert agent.handled == [1, 2, 4, 5, 6, 7, 8, 9, 10, 11]
    agent.poisons.clear()
    await until(lambda: 3 in agent.handled)
    assert runtime.parked == ()
    assert world.counted("converge_messages_parked_total") == 0


@pytest.mark.usefixtures("retries_at_once")
async def test_poison_among_many_costs_only_itself(world: World) -> None:
    poisons = [*range(0, 60, 7)]
    agent, peer = Picky(*poisons), await world.peer()
    runtime = await world.started(agent)
    for n in range(60):
        await peer.tell(agent.id, n)
    await until(lambda: len(runtime.parked) == len(poisons))
    await until(lambda: len(agent.handled) == 60 - len(poisons))
    assert [n for n in agent.handled if n in poisons] == []
    assert len(set(agent.handled)) == len(agent.handled)
    assert sorted(map(int, map(str, parked(runtime)))) == poisons
    assert all(each.failures == 5 for each in runtime.parked)


async def test_a_retry_does_not_wait_behind_a_stream_of_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_FIRST_PAUSE_SEC", 0.0)
    agent, peer = Picky("poison"), await world.peer()
    runtime = await world.started(agent)
    await peer.tell(agent.id, "poison")

    async def stream() -> None:
        while True:
            await peer.tell(agent.id, "good")
            await asyncio.sleep(0)

    streaming = asyncio.create_task(stream())
    await until(lambda: parked(runtime) == ["poison"])
    streaming.cancel()
    assert "good" in agent.handled


@pytest.mark.usefixtures("no_retries")
async def test_a_flood_of_poison_is_held_back_and_not_lost(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_MAX_BACKOFF_SEC", 0.0)
    agent, peer = Picky("poison"), await world.peer()
    inbox = Inbox(maxsize=2 * MAX_WAITING)
    runtime = world.runtime(agent, inbox=inbox)
    for _ in range(2 * MAX_WAITING):
        await inbox.push(peer.message(agent.id, "poison"))
    await runtime.start()
    held = runtime._turns
    await until(lambda: len(held._retries) >= MAX_WAITING and not held._alone)
    assert len(held._retries) + len(inbox) == 2 * MAX_WAITING
    assert len(held._retries) < MAX_WAITING + 64


@pytest.mark.usefixtures("retries_at_once")
async def test_listeners_are_told_and_the_log_has_the_id_and_never_the_payload(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[tuple[str, str, int]] = []

    class Listener:
        @hookimpl
        def converge_message_parked(self, message: Message, error: str, failures: int) -> None:
            told.append((message.id, error, failures))

    lifecycle = Lifecycle()
    lifecycle.add(Listener())
    agent, peer = Picky("hunter2"), await world.peer()
    await world.started(agent, lifecycle=lifecycle)
    message = peer.message(agent.id, "hunter2")
    await peer.transport.send(message)
    await until(lambda: told)
    assert told == [(message.id, "ValueError: cannot deal with hunter2", 5)]
    lines = [record.getMessage() for record in caplog.records if "parked" in record.getMessage()]
    assert lines == [f"{agent.id}: message {message.id!r} is parked after 5 failures: ValueError"]


@pytest.mark.usefixtures("retries_at_once")
async def test_a_requeued_message_is_shown_again_and_its_record_goes_when_it_is_handled(world: World) -> None:
    store = MemoryStore()
    agent, peer = Picky("poison"), await world.peer()
    runtime = await world.started(agent, parking=Parking(agent.id, store))
    message = peer.message(agent.id, "poison")
    await peer.transport.send(message)
    await until(lambda: runtime.parked)
    assert len(store.list("parked:")) == 1
    assert await runtime.requeue("another") == 0
    assert await runtime.requeue(message.id) == 1
    assert runtime.parked == ()
    assert len(store.list("parked:")) == 1, "not handled yet"
    await until(lambda: runtime.parked)
    assert agent.times("poison") == 10
    agent.poisons.clear()
    await runtime.requeue(message.id)
    await until(lambda: not store.list("parked:"))
    assert agent.handled == ["poison"]


@pytest.mark.usefixtures("retries_at_once")
async def test_a_parked_message_can_be_dropped_for_good(world: World) -> None:
    store = MemoryStore()
    agent, peer = Picky("poison"), await world.peer()
    runtime = await world.started(agent, parking=Parking(agent.id, store))
    message = peer.message(agent.id, "poison")
    await peer.transport.send(message)
    await until(lambda: runtime.parked)
    assert (await runtime.drop_parked("another"), await runtime.drop_parked(message.id)) == (0, 1)
    assert (runtime.parked, store.list("parked:")) == ((), [])


@pytest.mark.usefixtures("retries_at_once")
async def test_while_the_disk_is_full_nothing_is_acknowledged_or_lost_and_the_agent_is_not_asked_again(
    world: World,
) -> None:
    store = Moody()
    store.full = True
    agent, peer = Picky("poison"), await world.peer()
    transport = Noting(agent.id, world.registry)
    runtime = await world.started(agent, transport, parking=Parking(agent.id, store))
    await peer.tell(agent.id, "poison")
    await until(lambda: world.counted("converge_park_failures_total") > 3)
    assert (transport.acknowledged, runtime.parked, agent.times("poison")) == ([], (), 5)
    store.full = False
    await until(lambda: transport.acknowledged == ["poison"])
    assert (parked(runtime), agent.times("poison")) == (["poison"], 5)
    assert len(store.list("parked:")) == 1


@pytest.mark.usefixtures("retries_at_once")
async def test_what_is_parked_survives_a_restart_and_does_not_come_from_the_transport_again(
    world: World, tmp_path: Path
) -> None:
    agent, sender = Picky("poison"), Identity.generate()
    with SQLiteStore(tmp_path / "store.db") as store:
        runtime = await world.started(agent, StoreTransport(agent.id, store), parking=Parking(agent.id, store))
        async with StoreTransport(sender.fingerprint, store) as other:
            await other.send(Message(recipient=agent.id, payload={"n": "poison"}).sign(sender))
        await until(lambda: runtime.parked and not store.list("mail:"))
        await runtime.stop()
    with SQLiteStore(tmp_path / "store.db") as store:
        shown = agent.times("poison")
        again = await world.started(agent, StoreTransport(agent.id, store), parking=Parking(agent.id, store))
        await agent.called(agent.calls)
        assert [(each.message, each.failures) for each in again.parked] == [(runtime.parked[0].message, 5)]
        assert again.parked[0].message.verify()
        agent.poisons.clear()
        await again.requeue(again.parked[0].message.id)
        await until(lambda: agent.handled == ["poison"] and not store.list("parked:"))
        assert agent.times("poison") == shown + 1
        await again.stop()


@pytest.mark.usefixtures("no_retries")
async def test_what_waits_for_its_next_chance_at_a_stop_comes_again_where_the_transport_keeps_it(world: World) -> None:
    store = MemoryStore()
    agent, sender = Picky("poison"), Identity.generate()
    runtime = await world.started(agent, StoreTransport(agent.id, store))
    async with StoreTransport(sender.fingerprint, store) as other:
        for n in ("poison", 1, 2):
            await other.send(Message(recipient=agent.id, payload={"n": n}).sign(sender))
        await until(lambda: agent.handled == [1, 2])
        await runtime.stop()
        agent.poisons.clear()
        await runtime.start()
        await until(lambda: not store.list("mail:"))
    assert agent.handled == [1, 2, "poison"], "each once"


async def test_messages_that_wait_at_a_stop_are_handled_once_after_the_next_start(world: World) -> None:
    store, hold = MemoryStore(), asyncio.Event()

    async def wait(messages: list[Message], tasks: list[Task]) -> list[Any]:
        await hold.wait()
        return []

    agent, sender = Picky(), Identity.generate()
    agent.answers = [wait]
    runtime = await world.started(agent, StoreTransport(agent.id, store))
    await agent.called(1)
    async with StoreTransport(sender.fingerprint, store) as other:
        for n in range(10):
            await other.send(Message(recipient=agent.id, payload={"n": n}).sign(sender))
        await until(lambda: world.counted("converge_messages_received_total") == 10)
        await runtime.stop()
        await runtime.start()
        await until(lambda: not store.list("mail:"))
    assert agent.handled == [*range(10)]


async def test_what_a_stop_cuts_short_and_nobody_brings_again_is_counted(world: World) -> None:
    async def hang(messages: list[Message], tasks: list[Task]) -> list[Any]:
        await asyncio.Event().wait()
        return []

    agent, peer = Scripted([], hang), await world.peer()
    runtime = await world.started(agent)
    await agent.called(1)
    await peer.tell(agent.id)
    await agent.called(2)
    await runtime.stop()
    assert world.counted("converge_messages_dropped_at_stop_total") == 1


@pytest.mark.usefixtures("no_retries")
async def test_the_poison_of_one_sender_does_not_keep_the_messages_of_others_waiting(world: World) -> None:
    agent, mallory, alice = Picky("poison"), await world.peer(), await world.peer()
    inbox = Inbox()
    runtime = world.runtime(agent, inbox=inbox)
    for _ in range(150):
        await inbox.push(mallory.message(agent.id, "poison"))
    for n in range(5):
        await inbox.push(alice.message(agent.id, n))
    await runtime.start()
    await until(lambda: agent.handled == [*range(5)])
    assert agent.times("poison") < 50, "one after the other, as it came, is a minute of pauses"


@pytest.mark.usefixtures("retries_at_once")
async def test_one_that_was_parked_and_not_acknowledged_by_who_was_killed_then_is_not_shown_again(world: World) -> None:
    class Killed(StoreTransport):
        async def acknowledge(self, messages: Sequence[Message]) -> None:
            await asyncio.Event().wait()

    store = MemoryStore()
    agent, sender = Picky("poison"), Identity.generate()
    runtime = await world.started(agent, Killed(agent.id, store), parking=Parking(agent.id, store))
    async with StoreTransport(sender.fingerprint, store) as other:
        await other.send(Message(recipient=agent.id, payload={"n": "poison"}).sign(sender))
    await until(lambda: runtime.parked)
    await runtime.stop()
    assert len(store.list("mail:")) == 1
    again = await world.started(agent, StoreTransport(agent.id, store), parking=Parking(agent.id, store))
    await until(lambda: not store.list("mail:"))
    assert (len(again.parked), agent.times("poison")) == (1, 5)


@pytest.mark.usefixtures("retries_at_once")
async def test_a_store_that_hangs_while_a_message_is_parked_does_not_keep_the_runtime_from_stopping(
    world: World, tmp_path: Path
) -> None:
    entered, released = threading.Event(), threading.Event()

    class Hanging(SQLiteStore):
        def put(self, key: str, value: Plain) -> None:
            if key.startswith("parked:"):
                entered.set()
                released.wait(2 * PATIENCE_SEC)
            super().put(key, value)

    agent, peer = Picky("poison"), await world.peer()
    with Hanging(tmp_path / "store.db") as store:
        runtime = await world.started(agent, parking=Parking(agent.id, store))
        await peer.tell(agent.id, "poison")
        assert await asyncio.to_thread(entered.wait, PATIENCE_SEC)
        assert await runtime.requeue("any") == 0
        async with asyncio.timeout(PATIENCE_SEC):
            await runtime.stop()
        released.set()
        await until(lambda: store.list("parked:"))


# -- what waits


def test_the_pauses_grow_from_a_tenth_of_a_second_to_some_ten_seconds() -> None:
    now = [100.0]
    waiting = Retries(lambda: now[0])
    pauses = []
    for failures in range(1, 8):
        waiting.add(Attempt(Message(), failures))
        pauses.append(waiting.due_in())
        now[0] += pauses[-1] or 0.0
        assert waiting.is_due()
        assert waiting.pop().failures == failures
    assert pauses == pytest.approx([0.1, 0.5, 2.5, 12.5, 12.5, 12.5, 12.5])
    assert waiting.due_in() is None
    assert not waiting.is_due()


def test_who_waits_for_the_longest_comes_first_and_equals_in_their_order() -> None:
    now = [0.0]
    waiting = Retries(lambda: now[0])
    messages = [Message(payload={"n": n}) for n in range(4)]
    waiting.add(Attempt(messages[3], 2))
    for message in messages[:3]:
        waiting.add(Attempt(message, 1))
    now[0] = 1.0
    assert [waiting.pop().message for _ in messages] == messages


# -- where they are parked


async def at_once(call: Any, *arguments: Any) -> Any:
    return call(*arguments)


@pytest.fixture(params=["memory", "sqlite", "none"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store | None]:
    if request.param == "sqlite":
        with SQLiteStore(tmp_path / "store.db") as opened:
            yield opened
    else:
        yield MemoryStore() if request.param == "memory" else None


async def test_the_oldest_are_dropped_and_counted_when_there_are_too_many(store: Store | None) -> None:
    parking = Parking("agent", store, max_messages=3)
    messages = [Message(payload={"n": n}) for n in range(5)]
    dropped = [await parking.park(message, "why", 5, at_once) for message in messages]
    assert dropped == [0, 0, 0, 1, 1]
    assert [each.message for each in parking.messages] == messages[2:]
    assert parking.dropped == 2
    assert store is None or len(store.list("parked:")) == 3


async def test_one_parked_again_is_one(store: Store | None) -> None:
    parking, message = Parking("agent", store), Message()
    await parking.park(message, "first", 5, at_once)
    await parking.park(message, "second", 5, at_once)
    assert [each.error for each in parking.messages] == ["second"]


async def test_messages_of_one_id_from_two_senders_are_two() -> None:
    parking = Parking("agent", MemoryStore())
    both = [Message(id="same").sign(Identity.generate()) for _ in range(2)]
    for message in both:
        await parking.park(message, "why", 5, at_once)
    assert [each.message for each in parking.messages] == both
    assert parking.requeue("same") == both
    assert parking.awaits


async def test_a_record_comes_back_equal_with_signature_bytes_and_topics(tmp_path: Path) -> None:
    identity = Identity.generate()
    message = Message(topics=[Topic("t")], payload={"b": b"\x00\xff", "deep": [{"x": None}]}).sign(identity)
    sealed = message.evolve(id="sealed", signature=b"").encrypt_payload(bytes(32)).sign(identity)
    with SQLiteStore(tmp_path / "store.db") as store:
        parking = Parking("agent", store, now=iter([2.0, 1.0]).__next__)
        await parking.park(message, "why \ud800 \x00", 5, at_once)
        await parking.park(sealed, "y" * 10_000, 6, at_once)
    with SQLiteStore(tmp_path / "store.db") as store:
        again = Parking("agent", store)
        again.adopt(again.stored())
        first, second = again.messages
    assert [first.message, second.message] == [sealed, message], "the oldest first"
    assert first.message.verify()
    assert second.message.verify()
    assert first.message.decrypt_payload(bytes(32)).payload == message.payload
    assert (second.error, second.failures, second.parked_at) == ("why \\ud800 \x00", 5, 2.0)
    assert len(first.error) == 500


async def test_agents_have_parkings_of_their_own_also_when_one_id_begins_as_another() -> None:
    store = MemoryStore()
    for agent in ("a", "a:b"):
        await Parking(agent, store).park(Message(id=agent), "why", 5, at_once)
    for agent in ("a", "a:b"):
        parking = Parking(agent, store)
        parking.adopt(parking.stored())
        assert [each.message.id for each in parking.messages] == [agent]


@pytest.mark.parametrize("garbage", [None, 5, [1], {"frame": b"\xc1", "error": "", "failures": 1, "parked_at": 0.0}])
async def test_a_record_that_is_none_is_passed_over_and_left_alone(
    garbage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    await Parking("agent", store).park(Message(), "why", 5, at_once)
    [key] = store.list("parked:")
    good = store.get(key)
    store.put(key, garbage)
    store.put(key[:-32] + "0" * 32, good)
    parking = Parking("agent", store)
    parking.adopt(parking.stored())
    assert len(parking.messages) == 1
    assert store.list("parked:") == sorted([key, key[:-32] + "0" * 32])
    assert "left alone" in caplog.text


async def test_a_message_that_cannot_be_encoded_is_parked_in_memory(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    store = MemoryStore()
    parking = Parking("agent", store)
    await parking.park(Message(payload={"n": object()}), "why", 5, at_once)
    assert len(parking.messages) == 1
    assert store.list() == []
    assert "in memory only" in caplog.text
    parking.adopt(parking.stored())
    assert len(parking.messages) == 1


async def test_a_store_that_fails_leaves_everything_as_it_was() -> None:
    store = Moody()
    parking, message = Parking("agent", store), Message()
    store.full = True
    with pytest.raises(OSError, match="no space left"):
        await parking.park(message, "why", 5, at_once)
    assert parking.messages == ()


async def test_what_was_requeued_and_not_settled_is_parked_again() -> None:
    parking, message = Parking("agent", MemoryStore()), Message()
    await parking.park(message, "why", 5, at_once)
    parking.requeue(message.id)
    parking.restore()
    assert [each.message for each in parking.messages] == [message]
    assert not parking.awaits


async def test_a_parking_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Parking("agent", max_messages=0)
