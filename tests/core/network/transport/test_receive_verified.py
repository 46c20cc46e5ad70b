from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import msgpack
import pytest

from converge.core import wire
from converge.core.identity import Identity
from converge.core.message import Message, sign_batch
from converge.core.topic import Topic
from converge.network.identity_registry import IdentityRegistry
from converge.network.replay_window import ReplayWindow
from converge.network.transport.base import Transport

ALICE, BOB, EVIL = (Identity.generate() for _ in range(3))
NEWS = Topic("news")


class Wire(Transport):
    """Carries whatever frames somebody puts on it."""

    def __init__(self, agent_id: str) -> None:
        super().__init__(agent_id)
        self.frames: asyncio.Queue[bytes] = asyncio.Queue()

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def send(self, message: Message) -> None:
        self.frames.put_nowait(message.to_bytes())

    async def receive(self, timeout: float | None = None) -> Message:
        async with asyncio.timeout(timeout):
            return Message.from_bytes(await self.frames.get())

    async def subscribe(self, topic: Topic) -> None:
        self.subscriptions.add(topic)

    async def unsubscribe(self, topic: Topic) -> None:
        self.subscriptions.discard(topic)


class Post:
    """Bob's transport, and whatever frames somebody puts on it."""

    def __init__(self) -> None:
        self.bob = Wire(BOB.fingerprint)

    def put(self, frame: bytes) -> None:
        self.bob.frames.put_nowait(frame)

    async def accepts(self, message: Message | bytes, allowed: IdentityRegistry | None = None) -> bool:
        self.put(message if isinstance(message, bytes) else message.to_bytes())
        return await self.bob.receive_verified(allowed, timeout=1) is not None


@pytest.fixture
async def post() -> AsyncIterator[Post]:
    post = Post()
    async with post.bob:
        yield post


def to_bob(**fields: object) -> Message:
    return Message(recipient=BOB.fingerprint, payload={"pay": 10}, **fields).sign(ALICE)  # type: ignore[arg-type]  # any field


def altered(message: Message, index: int) -> bytes:
    frame = bytearray(message.to_bytes())
    frame[index] ^= 1
    return bytes(frame)


async def test_a_signed_message_passes_with_nothing_configured(post: Post) -> None:
    message = to_bob()
    post.put(message.to_bytes())
    received = await post.bob.receive_verified(timeout=1)
    assert received == message
    assert post.bob.counters == {}


async def test_a_registry_is_an_allow_list(post: Post) -> None:
    allowed = IdentityRegistry()
    assert not await post.accepts(to_bob(), allowed)
    allowed.register(ALICE.fingerprint, ALICE.public_key)
    assert await post.accepts(to_bob(), allowed)
    allowed.unregister(ALICE.fingerprint)
    assert not await post.accepts(to_bob(), allowed)
    assert post.bob.counters == {"refused_unknown_sender": 2}


async def test_an_unsigned_message_is_refused(post: Post) -> None:
    assert not await post.accepts(Message(sender=ALICE.fingerprint, recipient=BOB.fingerprint))
    assert post.bob.counters == {"refused_unsigned": 1}


async def test_a_message_changed_on_its_way_is_refused_and_never_raises(post: Post) -> None:
    message = to_bob()
    size = len(message.to_bytes())
    for index in range(size):
        assert not await post.accepts(altered(message, index))
    assert post.bob.counters["refused_forged"] + post.bob.counters["refused_malformed"] == size
    assert await post.accepts(message)


@pytest.mark.parametrize(
    "frame", [b"", b"\xc1", b"\x92\xc4\x00\xc4\x00", msgpack.packb({"sender": "x"}), b"x" * 300_000]
)
async def test_what_is_no_message_is_refused_and_counted(post: Post, frame: bytes) -> None:
    assert not await post.accepts(frame)
    assert post.bob.counters == {"refused_malformed": 1}
    assert await post.accepts(to_bob())


async def test_a_message_for_another_agent_is_refused(post: Post) -> None:
    assert not await post.accepts(Message(recipient=EVIL.fingerprint).sign(ALICE))
    assert post.bob.counters == {"refused_misdelivered": 1}


async def test_a_topic_message_is_refused_unless_subscribed(post: Post) -> None:
    assert not await post.accepts(Message(topics=[NEWS]).sign(ALICE))
    await post.bob.subscribe(NEWS)
    assert await post.accepts(Message(topics=[Topic("sport"), NEWS]).sign(ALICE))
    await post.bob.unsubscribe(NEWS)
    assert not await post.accepts(Message(topics=[NEWS]).sign(ALICE))
    assert post.bob.counters == {"refused_not_subscribed": 2}


async def test_a_direct_message_to_me_needs_no_subscription_and_one_to_others_is_not_saved_by_mine(post: Post) -> None:
    assert await post.accepts(to_bob(topics=[NEWS]))
    await post.bob.subscribe(NEWS)
    assert not await post.accepts(Message(recipient=EVIL.fingerprint, topics=[NEWS]).sign(ALICE))


async def test_a_broadcast_passes(post: Post) -> None:
    assert await post.accepts(Message().sign(ALICE))


async def test_a_replay_is_refused_every_time(post: Post) -> None:
    message = to_bob()
    assert [await post.accepts(message) for _ in range(4)] == [True, False, False, False]
    assert post.bob.counters == {"refused_replayed": 3}


async def test_a_replay_is_refused_after_a_restart_of_the_transport_too(post: Post) -> None:
    message = to_bob()
    assert await post.accepts(message)
    await post.bob.stop()
    await post.bob.start()
    assert not await post.accepts(message)


async def test_old_and_future_messages_are_refused(post: Post) -> None:
    now = time.time_ns() // 1_000_000
    assert not await post.accepts(to_bob(timestamp=now - 121_000))
    assert not await post.accepts(to_bob(timestamp=now + 40_000))
    assert not await post.accepts(to_bob(timestamp=0))
    assert post.bob.counters == {"refused_stale": 2, "refused_future": 1}


async def test_the_same_id_of_another_sender_is_another_message(post: Post) -> None:
    assert await post.accepts(to_bob(id="m"))
    assert await post.accepts(Message("m", recipient=BOB.fingerprint).sign(EVIL))


async def test_what_is_refused_for_another_reason_does_not_use_up_the_message(post: Post) -> None:
    """Else whoever sees a message could make it refused by sending a spoilt copy first."""
    message, topical = to_bob(id="m"), Message("t", topics=[NEWS]).sign(ALICE)
    unsigned = Message("m", ALICE.fingerprint, BOB.fingerprint, timestamp=message.timestamp)
    nobody = IdentityRegistry()
    assert not await post.accepts(unsigned)
    assert not await post.accepts(altered(message, -1))
    assert not await post.accepts(message, nobody)
    assert not await post.accepts(topical)
    assert len(post.bob.replay_window) == 0
    await post.bob.subscribe(NEWS)
    assert await post.accepts(message)
    assert await post.accepts(topical)


async def test_waiting_ends_with_the_timeout(post: Post) -> None:
    with pytest.raises(TimeoutError):
        await post.bob.receive_verified(timeout=0.001)


async def test_an_expired_message_is_refused_and_does_not_use_itself_up(post: Post) -> None:
    now = time.time_ns() // 1_000_000
    assert not await post.accepts(to_bob(timestamp=now - 1000, headers={"ttl_ms": 999}))
    assert await post.accepts(to_bob(timestamp=now, headers={"ttl_ms": 60_000}))
    assert post.bob.counters == {"refused_expired": 1}
    assert len(post.bob.replay_window) == 1


async def test_the_ttl_runs_by_the_clock_of_the_replay_window(post: Post) -> None:
    clock = [1_700_000_000.0]
    post.bob.replay_window = ReplayWindow(now=lambda: clock[0])
    message, other = (to_bob(timestamp=1_700_000_000_000, headers={"ttl_ms": 5000}) for _ in range(2))
    clock[0] += 5
    assert await post.accepts(message)
    clock[0] += 0.002
    assert not await post.accepts(other)
    assert post.bob.counters == {"refused_expired": 1}


async def test_a_new_receiver_refuses_what_was_stamped_before_it_was_there() -> None:
    message = to_bob(timestamp=time.time_ns() // 1_000_000 - 1)
    post = Post()
    async with post.bob:
        assert not await post.accepts(message)
        assert await post.accepts(to_bob())
    assert post.bob.counters == {"refused_before_start": 1}


@pytest.mark.parametrize(
    ("name", "value"), [("traceparent", "00-1-2-01"), ("in_reply_to", "m0"), ("ttl_ms", 7), ("enc", "other")]
)
async def test_headers_are_under_the_signature(post: Post, name: str, value: str | int) -> None:
    message = to_bob(headers={"ttl_ms": 60_000, "traceparent": "00-0-0-00", "in_reply_to": "m"})
    body, signature = wire.split(message.to_bytes())
    fields = msgpack.unpackb(body)
    fields[8][name] = value
    assert not await post.accepts(wire.join(msgpack.packb(fields), signature))
    del fields[8]["traceparent"]
    assert not await post.accepts(wire.join(msgpack.packb(fields), signature))
    assert post.bob.counters == {"refused_forged": 2}
    assert await post.accepts(message)


async def test_messages_of_a_batch_pass_one_by_one_and_each_once(post: Post) -> None:
    batch = sign_batch([Message(recipient=BOB.fingerprint, payload={"n": number}) for number in range(9)], ALICE)
    assert [await post.accepts(message) for message in reversed(batch)] == [True] * 9
    assert not any([await post.accepts(message) for message in batch])
    body, _ = wire.split(batch[0].to_bytes())
    assert not await post.accepts(wire.join(body, batch[1].signature))
    assert post.bob.counters == {"refused_replayed": 9, "refused_forged": 1}


async def test_another_signature_field_that_is_good_makes_no_second_message(post: Post) -> None:
    """The tree size is not signed, so the same body can come with several fields."""
    batch = sign_batch([Message(recipient=BOB.fingerprint) for _ in range(5)], ALICE)
    body, field = wire.split(batch[1].to_bytes())
    other = wire.join(body, field[:68] + (7).to_bytes(4, "big") + field[72:])
    assert other != batch[1].to_bytes()
    assert [await post.accepts(batch[1]), await post.accepts(other)] == [True, False]
    assert post.bob.counters == {"refused_replayed": 1}
