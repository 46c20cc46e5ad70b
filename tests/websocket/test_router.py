"""Routing: whom a message is for, and who may say it."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.topic import Topic
from converge.network.transport.websocket import HubLimits, ProtocolViolation
from converge.network.transport.websocket.outbox import Outbox
from converge.network.transport.websocket.packets import Kind, Lost, decode_messages, encode_ids
from converge.network.transport.websocket.router import Peer, Router, topic_key
from tests.websocket.conftest import ALICE, BOB, CAROL, to

NEWS = Topic("news", {"lang": "en", "n": 1})


def packed(topic: Topic) -> bytes:
    data: bytes = msgpack.packb(topic.wire_fields)
    return data


class Site:
    """A router with Alice, Bob and Carol."""

    def __init__(self, **limits: int) -> None:
        self.router = Router(HubLimits(**limits))
        self.peers = {each.fingerprint: self.peer(each) for each in (ALICE, BOB, CAROL)}
        for peer in self.peers.values():
            self.router.join(peer)

    @staticmethod
    def peer(identity: Identity, messages: int = 10) -> Peer:
        return Peer(identity.fingerprint, identity.public_key, Outbox(messages, 10**6, 10**6))

    def send(self, message: Message | bytes, sender: Identity = ALICE) -> list[Lost]:
        lost: list[Lost] = []
        frame = message if isinstance(message, bytes) else message.to_bytes()
        self.router.route(self.peers[sender.fingerprint], frame, lost)
        return lost

    def got(self, identity: Identity) -> list[bytes]:
        packet = self.peers[identity.fingerprint].outbox.next()
        return [] if packet is None or packet[0] != 4 else decode_messages(packet)


@pytest.fixture
async def site() -> Site:
    return Site()


async def test_a_direct_message_reaches_its_recipient_byte_for_byte(site: Site) -> None:
    message = to(BOB, ALICE)
    assert site.send(message) == []
    assert (site.got(BOB), site.got(CAROL), site.got(ALICE)) == ([message.to_bytes()], [], [])


async def test_a_message_for_nobody_is_reported(site: Site) -> None:
    message = Message(recipient="nobody", payload={}).sign(ALICE)
    assert site.send(message) == [Lost(message.id, "nobody", "not_connected")]
    assert site.router.counters["dropped_not_connected"] == 1


async def test_a_message_of_somebody_else_is_refused(site: Site) -> None:
    for forged in (to(BOB, CAROL), Message(sender=CAROL.fingerprint, recipient=BOB.fingerprint)):
        assert [lost.reason for lost in site.send(forged)] == ["not_its_sender"]
    assert site.send(Message(sender=ALICE.fingerprint, recipient=BOB.fingerprint)) == []
    assert len(site.got(BOB)) == 1
    assert site.router.counters["refused_sender"] == 2


async def test_a_topic_message_reaches_exactly_the_subscribers_once_each(site: Site) -> None:
    other = Topic("news", {"lang": "en", "n": True})
    site.router.subscribe(site.peers[BOB.fingerprint], [packed(NEWS), packed(Topic("more"))])
    site.router.subscribe(site.peers[ALICE.fingerprint], [packed(NEWS)])
    message = Message(topics=[NEWS, Topic("more")]).sign(ALICE)
    site.send(message)
    site.send(Message(topics=[other]).sign(ALICE))
    assert (site.got(BOB), site.got(CAROL), site.got(ALICE)) == ([message.to_bytes()], [], [])
    assert site.router.counters["no_subscriber"] == 1
    site.router.unsubscribe(site.peers[BOB.fingerprint], [packed(NEWS), packed(Topic("more"))])
    site.send(message)
    assert site.got(BOB) == []


async def test_a_broadcast_reaches_everybody_else(site: Site) -> None:
    site.send(Message().sign(ALICE))
    assert [len(site.got(each)) for each in (ALICE, BOB, CAROL)] == [0, 1, 1]


async def test_a_full_outbox_drops_counts_and_reports_what_was_direct() -> None:
    site = Site()
    for _ in range(10):
        assert site.send(to(BOB, ALICE)) == []
    assert [lost.reason for lost in site.send(to(BOB, ALICE))] == ["outbox_full"]
    assert site.send(Message().sign(ALICE)) == []
    assert site.router.counters["dropped_outbox_messages"] == 2
    assert len(site.got(CAROL)) == 1


async def test_who_sends_to_a_busy_agent_is_told_once_and_told_again_when_it_is_ready(site: Site) -> None:
    alice, bob = site.peers[ALICE.fingerprint], site.peers[BOB.fingerprint]
    for _ in range(8):
        site.send(to(BOB, ALICE))
    assert site.router.present(site.peers[CAROL.fingerprint], [BOB.fingerprint]) == [BOB.fingerprint]
    for peer in (alice, site.peers[CAROL.fingerprint]):
        assert peer.outbox.next() == encode_ids(Kind.BUSY, [BOB.fingerprint])
        assert peer.outbox.next() is None
    site.got(BOB)
    assert bob.outbox.is_low
    site.router.release(bob)
    assert alice.outbox.next() == encode_ids(Kind.READY, [BOB.fingerprint])


async def test_topics_that_are_equal_are_one_however_they_are_packed(site: Site) -> None:
    unsorted = msgpack.packb(["news", {"n": 1, "lang": "en"}, "1.0"])
    longer = packed(NEWS).replace(b"\xa4news", b"\xd9\x04news")
    assert topic_key(unsorted) == topic_key(longer) == topic_key(packed(NEWS))
    for bad in (
        b"",
        b"\xc0",
        b"\x93\xa0\x80\xa1v",
        b"\x93\xa1n\x80\xa1v\x00",
        b"\x91" * 600,
        b"\x93\xa1n\x81\xa1a\xd4\x00\x00\xa1v",
    ):
        with pytest.raises(ValueError, match="not a topic"):
            topic_key(bad)


async def test_subscriptions_are_bounded() -> None:
    site = Site(max_subscriptions=2)
    bob = site.peers[BOB.fingerprint]
    site.router.subscribe(bob, [packed(Topic("a")), packed(Topic("b")), packed(Topic("a"))])
    with pytest.raises(ProtocolViolation, match="at most 2 subscriptions"):
        site.router.subscribe(bob, [packed(Topic("c"))])


async def test_who_asked_for_an_agent_is_told_when_it_leaves(site: Site) -> None:
    alice = site.peers[ALICE.fingerprint]
    assert site.router.present(alice, [BOB.fingerprint, "nobody"]) == [BOB.fingerprint]
    site.router.leave(site.peers[BOB.fingerprint])
    notice = alice.outbox.next()
    assert notice is not None
    assert notice[:1] == b"\x09"
    assert BOB.fingerprint.encode() in notice
    assert alice.outbox.next() is None


async def test_a_newer_connection_takes_over_what_waits(site: Site) -> None:
    message = to(BOB, ALICE)
    site.send(message)
    newer, earlier = site.peer(BOB), site.peers[BOB.fingerprint]
    assert site.router.join(newer) is earlier
    site.peers[BOB.fingerprint] = newer
    site.router.leave(earlier)
    assert site.got(BOB) == [message.to_bytes()]
    assert site.router.get(BOB.fingerprint) is newer


async def test_what_waits_for_one_who_leaves_is_counted_once(site: Site) -> None:
    site.send(to(BOB, ALICE))
    bob = site.peers[BOB.fingerprint]
    for _ in range(2):
        site.router.leave(bob)
    assert site.router.counters["dropped_disconnected"] == 1


async def test_what_is_malformed_is_counted_and_hurts_nobody(site: Site) -> None:
    frame = to(BOB, ALICE).to_bytes()
    bad = [b"", b"\x92", frame[:-1], frame + b"\0", frame.replace(b"\x9a\x01", b"\x9a\x02"), b"\x91" * 5000]
    for one in bad:
        assert site.send(one) == []
    assert site.router.counters["refused_malformed"] == len(bad)
    assert site.got(BOB) == []


@given(st.data())
async def test_mutated_frames_are_carried_as_they_are_or_refused(data: st.DataObject) -> None:
    site = Site()
    frame = bytearray(to(BOB, ALICE).to_bytes())
    for at in data.draw(st.lists(st.integers(0, len(frame) - 1), min_size=1, max_size=4)):
        frame[at] = data.draw(st.integers(0, 255))
    site.send(bytes(frame))
    for peer in site.peers.values():
        packet = peer.outbox.next()
        if packet is not None and packet[0] == 4:
            assert decode_messages(packet) == [bytes(frame)]
            assert peer.id != ALICE.fingerprint or len(packet) > 0
