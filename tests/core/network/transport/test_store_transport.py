"""Messages through a store: at least once, bounded, expiring, and to nobody else."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest

from converge.core import wire
from converge.core.identity import Identity
from converge.core.message import Message, sign_batch
from converge.core.store import Store
from converge.core.topic import Topic
from converge.extensions.storage.memory import MemoryStore
from converge.extensions.storage.sqlite import SQLiteStore
from converge.network.errors import TransportClosed, Undeliverable
from converge.network.transport.post_office import PostOffice
from converge.network.transport.store import StoreTransport
from converge.plugins import PluginManager, PluginOptionsError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping
    from pathlib import Path

    from converge.core.plain import Plain

NEWS = Topic("news")
PATIENCE = 10.0
ALICE, BOB, CAROL = (Identity.generate() for _ in range(3))


class Clock:
    def __init__(self) -> None:
        self.time = 1_800_000_000.0

    def __call__(self) -> float:
        return self.time


class Village:
    """Transports of several agents; each `at` is another store object on the same data, as in another process."""

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open, self.clock = open_store, Clock()
        self._stores: dict[int, Store] = {}
        self._started: list[StoreTransport] = []

    def store(self, at: int = 0) -> Store:
        if at not in self._stores:
            self._stores[at] = self._open()
        return self._stores[at]

    async def start(self, identity: Identity, at: int = 0, **options: Any) -> StoreTransport:
        transport = StoreTransport(identity.fingerprint, self.store(at), now=self.clock, **options)
        await transport.start()
        self._started.append(transport)
        return transport

    def message(self, sender: Identity = ALICE, **fields: Any) -> Message:
        return Message(**{"timestamp": int(self.clock() * 1000), **fields}).sign(sender)

    def to(self, recipient: Identity, n: object = 0, sender: Identity = ALICE, **fields: Any) -> Message:
        return self.message(sender, recipient=recipient.fingerprint, payload={"n": n}, **fields)

    async def close(self) -> None:
        for transport in self._started:
            await transport.stop()
        for store in self._stores.values():
            store.close()


@pytest.fixture(params=["memory", "sqlite"])
async def village(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Village]:
    memory = MemoryStore()
    made = Village(lambda: memory if request.param == "memory" else SQLiteStore(tmp_path / "s.db", "process"))
    yield made
    await made.close()


async def numbers(transport: StoreTransport, count: int, *, acknowledge: bool = True) -> list[object]:
    found = []
    for _ in range(count):
        message = await transport.receive_verified(timeout=PATIENCE)
        assert message is not None, transport.counters
        found.append(message.payload["n"])
        if acknowledge:
            await transport.acknowledge([message])
    return found


async def until(condition: Callable[[], object]) -> None:
    """Return when `condition` holds; for what announces itself by no event."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # there is no event
            await asyncio.sleep(0.001)


def office(transport: StoreTransport) -> PostOffice:
    assert transport._office is not None
    return transport._office


async def known(sender: StoreTransport, identity: Identity, topic: Topic | None = None) -> None:
    """Return when the sender's side has seen the mailbox, and its subscription."""
    there = office(sender).audience
    await until(lambda: identity.fingerprint in there([topic] if topic else [], ""))


async def test_a_message_crosses_from_one_store_object_to_another_in_order(village: Village) -> None:
    alice, bob = await village.start(ALICE), await village.start(BOB, at=1)
    await known(alice, BOB)
    for n in range(20):
        await alice.send(village.to(BOB, n))
    assert await numbers(bob, 20) == [*range(20)]
    assert bob.counters == {}


async def test_what_is_not_acknowledged_comes_again_and_what_is_does_not(village: Village) -> None:
    alice, bob = await village.start(ALICE), await village.start(BOB)
    for n in range(4):
        await alice.send(village.to(BOB, n))
    assert await numbers(bob, 1) == [0]
    assert await numbers(bob, 2, acknowledge=False) == [1, 2]
    await bob.stop()
    await bob.start()  # the same object: its replay window knows them, and lets them pass
    assert await numbers(bob, 1, acknowledge=False) == [1]
    await bob.stop()
    again = await village.start(BOB, at=1)
    assert await numbers(again, 3) == [1, 2, 3]
    await again.stop()
    last = await village.start(BOB, at=2)
    await alice.send(village.to(BOB, "end"))
    assert await numbers(last, 1) == ["end"]


async def test_who_is_away_finds_its_messages_at_the_next_start(village: Village) -> None:
    alice, bob = await village.start(ALICE), await village.start(BOB, at=1)
    await bob.subscribe(NEWS)
    await known(alice, BOB, NEWS)
    await bob.stop()
    await alice.send(village.to(BOB, 1))
    await alice.send(village.message(topics=[NEWS], payload={"n": 2}))
    bob = await village.start(BOB, at=1)
    await bob.subscribe(NEWS)
    assert await numbers(bob, 2) == [1, 2]


async def test_nobody_who_never_had_a_mailbox_can_be_reached(village: Village) -> None:
    alice = await village.start(ALICE)
    with pytest.raises(Undeliverable, match="no agent of that id has a mailbox in this store; start it"):
        await alice.send(village.to(BOB))
    await alice.send(village.message(topics=[NEWS]))
    await alice.send(village.message())
    assert alice.counters == {"no_subscriber": 1, "no_audience": 1}


async def test_a_topic_reaches_its_subscribers_and_a_broadcast_everybody_but_the_sender(village: Village) -> None:
    alice, bob, carol = [await village.start(each, at) for at, each in enumerate((ALICE, BOB, CAROL))]
    await bob.subscribe(NEWS)
    await known(alice, BOB, NEWS)
    await known(alice, CAROL)
    await alice.send(village.message(topics=[NEWS, Topic("other")], payload={"n": "topic"}))
    await alice.send(village.message(payload={"n": "all"}))
    assert await numbers(bob, 2) == ["topic", "all"]
    assert await numbers(carol, 1) == ["all"]
    with pytest.raises(TimeoutError):
        await alice.receive(timeout=0.02)
    await bob.unsubscribe(NEWS)
    await until(lambda: not office(alice).audience([NEWS], ""))
    await alice.send(village.message(topics=[NEWS]))
    assert alice.counters == {"no_subscriber": 1}


async def test_a_full_mailbox_refuses_by_count_and_by_bytes(village: Village) -> None:
    alice, bob = await village.start(ALICE, maxsize=3), await village.start(BOB)
    results = await alice.send_many([village.to(BOB, n) for n in range(5)])
    assert [type(result) for result in results] == [type(None)] * 3 + [Undeliverable] * 2
    assert "is full (3 messages" in str(results[4])
    with pytest.raises(Undeliverable, match="the mailboxes of all 1 agents it is for are full"):
        await alice.send(village.message())
    assert await numbers(bob, 3) == [0, 1, 2]
    await alice.send(village.to(BOB, 3))
    assert await numbers(bob, 1) == [3]
    small = await village.start(CAROL, max_bytes=400_000)
    large = {"n": "x" * 150_000}
    await small.send(village.message(CAROL, recipient=BOB.fingerprint, payload=large))
    await small.send(village.message(CAROL, recipient=BOB.fingerprint, payload=large))
    with pytest.raises(Undeliverable, match="or 400000 bytes"):
        await small.send(village.message(CAROL, recipient=BOB.fingerprint, payload=large))


async def test_copies_for_full_mailboxes_are_counted_and_the_others_get_theirs(village: Village) -> None:
    alice, _, carol = [await village.start(each, maxsize=1) for each in (ALICE, BOB, CAROL)]
    await alice.send(village.to(BOB))
    await alice.send(village.message(payload={"n": "all"}))
    assert await numbers(carol, 1) == ["all"]
    assert alice.counters == {"dropped_mailbox_full": 1}


async def test_an_old_message_is_dropped_and_counted_by_its_ttl_or_the_retention(village: Village) -> None:
    alice, bob = await village.start(ALICE, retention_sec=100), await village.start(BOB)
    await alice.send(village.to(BOB, "short", headers={"ttl_ms": 1000}))
    await alice.send(village.to(BOB, "long"))
    village.clock.time += 2
    assert await numbers(bob, 1) == ["long"]
    assert bob.counters == {"expired": 1}
    await alice.send(village.to(BOB, "too late"))
    village.clock.time += 99
    await alice.send(village.to(BOB, "in time"))
    village.clock.time += 2
    assert await numbers(bob, 1) == ["in time"]


async def test_what_has_expired_and_who_has_gone_is_swept_from_the_store(village: Village) -> None:
    alice, bob = await village.start(ALICE), await village.start(BOB)
    await alice.send(village.to(BOB, 1))
    assert await numbers(bob, 1) == [1]
    await bob.stop()
    await alice.send(village.to(BOB, 2))
    store = village.store()
    assert len(store.list("mail:")) == len(store.list("read:")) == 1
    village.clock.time += 3700
    await until(lambda: not (store.list("mail:") + store.list("read:") + store.list(f"mailbox:{BOB.fingerprint}")))
    assert store.list() == [f"mailbox:{ALICE.fingerprint}"], "who is here keeps its mailbox"
    assert alice.counters == {"expired": 1}
    with pytest.raises(Undeliverable):
        await alice.send(village.to(BOB, 3))


async def test_what_waits_comes_before_what_comes_while_the_transport_starts(village: Village) -> None:
    alice, bob, carol = await village.start(ALICE), await village.start(BOB), await village.start(CAROL, at=1)
    await bob.stop()
    await alice.send(village.to(BOB, 1))
    await until(lambda: office(alice).load(BOB.fingerprint)[0] == 1)
    await carol.send(village.to(BOB, 2, CAROL))  # which the office of alice, where bob starts, does not know yet
    bob = await village.start(BOB)
    assert await numbers(bob, 2) == [1, 2]


async def test_who_lives_in_a_mailbox_keeps_it_and_what_is_in_it_over_a_leap_of_the_clock(village: Village) -> None:
    alice, bob = await village.start(ALICE, retention_sec=10_000), await village.start(BOB)
    await alice.send(village.to(BOB, 1))
    await until(lambda: village.store().list("mail:"))
    village.clock.time += 3700
    sweeps = office(alice)._sweep_at
    await until(lambda: office(alice)._sweep_at > sweeps)
    assert (await bob.receive(PATIENCE)).payload == {"n": 1}
    await until(lambda: office(alice).has_box(BOB.fingerprint))
    assert village.store().list("mail:")


async def test_a_forged_copy_in_the_mailbox_does_not_stand_in_the_way_of_the_message(village: Village) -> None:
    alice, bob = await village.start(ALICE), await village.start(BOB)
    message = village.to(BOB, 1)
    body, signature = wire.split(message.to_bytes())
    forged = wire.join(body, bytes([signature[0] ^ 1]) + signature[1:])
    expires = village.clock() + 60
    village.store().put(f"mail:{BOB.fingerprint}:forged", [expires, forged])
    assert await bob.receive_verified(timeout=PATIENCE) is None
    await until(lambda: not village.store().list("mail:"))
    assert village.store().list("read:") == [], "what was refused is not remembered as read"
    await alice.send(message)
    assert await numbers(bob, 1) == [1]
    assert bob.counters == {"refused_forged": 1}


async def test_a_message_that_was_acknowledged_cannot_be_put_back_by_anybody(village: Village) -> None:
    alice, bob = await village.start(ALICE), await village.start(BOB)
    message = village.to(BOB, 1)
    await alice.send(message)
    assert await numbers(bob, 1) == [1]
    await bob.stop()
    await alice.send(message)
    bob = await village.start(BOB, at=1)
    await alice.send(message)
    await alice.send(village.to(BOB, 2))
    assert await numbers(bob, 1) == [2]
    assert bob.counters == {"refused_replayed": 2}


async def test_the_same_message_twice_in_the_mailbox_comes_once(village: Village) -> None:
    alice, bob = await village.start(ALICE), await village.start(BOB)
    message = village.to(BOB, 1)
    await alice.send(message)
    await alice.send(message)
    await alice.send(village.to(BOB, 2))
    assert await numbers(bob, 2, acknowledge=False) == [1, 2]
    assert bob.counters == {"refused_replayed": 1}


async def test_what_lies_in_a_mailbox_and_is_no_message_is_counted_and_gone(
    village: Village, caplog: pytest.LogCaptureFixture
) -> None:
    alice, bob = await village.start(ALICE), await village.start(BOB)
    store = village.store()
    forged = bytearray(village.to(BOB).to_bytes())
    forged[-1] ^= 1
    box = f"mail:{BOB.fingerprint}:"
    store.put(box + "1", [village.clock() + 60, b"garbage"])
    store.put(box + "2", [village.clock() + 60, bytes(forged)])
    store.put(box + "3", "no letter")
    store.put("mailbox:strange", {"topics": [5], "until": "never"})
    store.put("mailing list", 1)
    await alice.send(village.to(BOB, "good"))
    assert await bob.receive_verified(timeout=PATIENCE) is None
    assert await bob.receive_verified(timeout=PATIENCE) is None
    assert await numbers(bob, 1) == ["good"]
    assert bob.counters == {"refused_malformed": 1, "refused_forged": 1}
    await until(lambda: len(store.list(box)) == 1)
    assert store.get(box + "3") == "no letter"
    assert "is no letter; it is left alone" in caplog.text


async def test_messages_that_wait_at_the_same_time_are_one_commit() -> None:
    class Counting(MemoryStore):
        commits = 0

        def put_many(self, items: Mapping[str, Plain]) -> None:
            self.commits += 1
            super().put_many(items)

    village = Village(Counting)
    alice, bob, carol = [await village.start(each) for each in (ALICE, BOB, CAROL)]
    store = village.store()
    assert isinstance(store, Counting)
    store.commits = 0
    batch = sign_batch(
        [Message(recipient=BOB.fingerprint, payload={"n": n}, timestamp=1_800_000_000_000) for n in range(200)], ALICE
    )
    results = await asyncio.gather(alice.send_many(batch), *(carol.send(village.to(BOB, n, CAROL)) for n in range(50)))
    assert results[0] == [None] * 200
    assert store.commits <= 2
    received = [await bob.receive_verified(timeout=PATIENCE) for _ in range(250)]
    assert None not in received
    store.commits = 0
    await bob.acknowledge([message for message in received if message])
    assert store.commits == 1
    assert store.list("mail:") == []
    await village.close()


class Failing(MemoryStore):
    full = False

    def put_many(self, items: Mapping[str, Plain]) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        super().put_many(items)

    def delete_many(self, keys: Iterable[str]) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        super().delete_many(keys)


async def test_a_store_that_takes_nothing_is_told_to_the_sender_and_an_acknowledgement_is_made_good_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    village = Village(Failing)
    alice, bob = await village.start(ALICE), await village.start(BOB)
    store = village.store()
    assert isinstance(store, Failing)
    await alice.send(village.to(BOB, 1))
    message = await bob.receive_verified(timeout=PATIENCE)
    assert message is not None
    store.full = True
    with pytest.raises(Undeliverable, match=r"the store did not take it: .*No space left"):
        await alice.send(village.to(BOB, 2))
    with pytest.raises(OSError, match="No space left"):
        await bob.acknowledge([message])
    store.full = False
    assert len(store.list("mail:")) == 1
    await alice.send(village.to(BOB, 3))
    assert await numbers(bob, 1) == [3]
    assert store.list("mail:") == []
    assert "did not take 1 acknowledgements" in caplog.text
    await village.close()


async def test_a_store_that_cannot_be_read_for_a_while_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Away(MemoryStore):
        away = False

        def changes(self, cursor: int | None = None, prefix: str = "") -> Any:
            if self.away:
                raise OSError(5, "Input/output error")
            return super().changes(cursor, prefix)

    caplog.set_level(logging.ERROR)
    village = Village(Away)
    alice, bob = await village.start(ALICE), await village.start(BOB)
    store = village.store()
    assert isinstance(store, Away)
    store.away = True
    await alice.send(village.to(BOB, 1))
    await until(lambda: "following the mailboxes failed (2 in a row)" in caplog.text)
    store.away = False
    assert await numbers(bob, 1) == [1]
    await village.close()


async def test_a_cursor_that_has_expired_brings_no_message_twice() -> None:
    class Short(MemoryStore):
        remembered_deletions = 2

    village = Village(Short)
    alice, bob = await village.start(ALICE), await village.start(BOB)
    await alice.send(village.to(BOB, 1))
    assert await numbers(bob, 1, acknowledge=False) == [1]
    store = village.store()
    for _ in range(3):
        store.put_many({f"x{n}": 1 for n in range(9)})  # type: ignore[attr-defined]  # it has versions
        store.delete_many([f"x{n}" for n in range(9)])  # type: ignore[attr-defined]  # as above
    await alice.send(village.to(BOB, 2))
    assert await numbers(bob, 1) == [2]
    await village.close()


async def test_it_says_when_it_is_not_started_and_a_stop_wakes_who_waits(village: Village) -> None:
    bob = StoreTransport(BOB.fingerprint, village.store(), now=village.clock)
    for use in (bob.receive(), bob.send(village.to(ALICE))):
        with pytest.raises(TransportClosed, match="is not started"):
            await use
    await bob.stop()
    await bob.start()
    await bob.start()
    waiting = asyncio.create_task(bob.receive())
    await asyncio.sleep(0)
    await bob.stop()
    with pytest.raises(TransportClosed):
        await waiting


async def test_a_payload_that_cannot_travel_is_undeliverable(village: Village) -> None:
    alice, bob = await village.start(ALICE), await village.start(BOB)
    with pytest.raises(Undeliverable, match="payload"):
        await alice.send(Message(recipient=BOB.fingerprint, payload={"n": object()}))
    with pytest.raises(Undeliverable, match="put large data in a store"):
        await alice.send(Message(recipient=BOB.fingerprint, payload={"n": "x" * 300_000}))
    await alice.send(Message(sender="alice", recipient=BOB.fingerprint, timestamp=int(village.clock() * 1000)))
    assert (await bob.receive(PATIENCE)).sender == "alice"


def test_an_id_that_fits_in_no_key_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 900 bytes"):
        StoreTransport("x" * 901, MemoryStore())


async def test_the_plugin_named_store_takes_the_store_of_the_run() -> None:
    store, manager = MemoryStore(), PluginManager()
    built = manager.build("transport", {"use": "store", "maxsize": 5}, agent_id="me", store=store, identity=BOB)
    assert isinstance(built, StoreTransport)
    await built.start()
    assert store.list() == ["mailbox:me"]
    await built.stop()
    with pytest.raises(PluginOptionsError, match="retention_sec"):
        manager.build("transport", {"use": "store", "retention_sec": 0}, agent_id="me", store=store)


async def test_a_closed_office_leaves_no_task_and_no_thread(village: Village) -> None:
    import threading

    before = {thread.name for thread in threading.enumerate()}
    alice = await village.start(ALICE)
    await alice.stop()
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("converge")] == []
    left = {thread.name for thread in threading.enumerate() if thread.name.startswith("converge-post")} - before
    for thread in threading.enumerate():
        if thread.name in left:
            thread.join(PATIENCE)
            assert not thread.is_alive()
