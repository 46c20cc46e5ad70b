"""The gate of connections and the boxes of messages hold their bounds."""

from __future__ import annotations

import asyncio

import pytest

from converge.network.errors import TransportClosed
from converge.network.transport.websocket import HubLimits
from converge.network.transport.websocket.gate import Gate
from converge.network.transport.websocket.inbox import Inbox
from converge.network.transport.websocket.outbox import CONFIRM_EVERY, Outbox
from converge.network.transport.websocket.packets import decode_count, decode_messages, kind_of
from tests.websocket.conftest import within


def gate(**limits: int) -> Gate[str]:
    return Gate(HubLimits(**limits))


def test_the_oldest_stranger_goes_when_there_is_one_too_many() -> None:
    strangers = gate(max_unauthenticated=2)
    for name in ("a", "b", "c"):
        assert strangers.open(name, "192.0.2.1") is None
    assert strangers.surplus() == "a"
    strangers.close("a")
    assert strangers.surplus() is None
    strangers.authenticated("b")
    strangers.open("d", "192.0.2.1")
    assert strangers.surplus() is None
    assert (len(strangers), strangers.unauthenticated) == (3, 2)


def test_a_full_gate_gives_up_a_stranger_for_a_new_one_and_nobody_who_is_known() -> None:
    full = gate(max_connections=2)
    full.open("a", "192.0.2.1")
    full.open("b", "192.0.2.1")
    full.authenticated("a")
    assert full.open("c", "192.0.2.2") is None
    assert full.surplus() == "b"
    full.close("b")
    full.authenticated("c")
    assert full.open("d", "192.0.2.3") == "total"


@pytest.mark.parametrize(
    ("address", "bounded"), [("192.0.2.1", True), ("2001:db8::1", True), ("127.0.0.9", False), ("::1", False)]
)
def test_one_address_has_a_bound_unless_it_is_this_machine(address: str, bounded: bool) -> None:
    per_address = gate(max_per_address=2)
    turned = [per_address.open(f"{n}", address) for n in range(3)]
    assert turned == [None, None, "address" if bounded else None]
    per_address.close("0")
    per_address.close("0")
    assert per_address.open("again", address) is None


async def test_an_outbox_takes_what_fits_and_says_which_bound_refuses() -> None:
    outbox = Outbox(3, 100, 1000)
    assert [outbox.offer(bytes(40)) for _ in range(3)] == [None, None, "outbox_bytes"]
    assert outbox.offer(bytes(20)) is None
    assert outbox.offer(b"") == "outbox_messages"
    assert (len(outbox), outbox.waiting_bytes) == (3, 100)
    assert Outbox(3, 100, 1000).offer(bytes(500)) is None, "a message is never too large for an empty box"


async def test_what_waits_leaves_in_one_packet_and_in_order_with_notices_first() -> None:
    outbox = Outbox(100, 1000, 1000)
    for frame in (b"a", b"b", b"c"):
        outbox.offer(frame)
    outbox.notify(b"\x09\x90")
    assert outbox.next() == b"\x09\x90"
    packet = outbox.next()
    assert packet is not None
    assert decode_messages(packet) == [b"a", b"b", b"c"]
    assert (outbox.next(), outbox.drained.is_set(), outbox.sent) == (None, True, 3)


async def test_a_packet_holds_no_more_than_its_limit() -> None:
    outbox = Outbox(5000, 10**6, 1000)
    frames = [bytes([n % 250]) * (n % 300) for n in range(2500)]
    for frame in frames:
        outbox.offer(frame)
    packets = []
    while (packet := outbox.next()) is not None:
        assert len(packet) <= 1000
        packets += decode_messages(packet)
    assert packets == frames
    assert outbox.waiting_bytes == 0


async def test_notices_are_bounded_too() -> None:
    outbox = Outbox(10, 10, 1000)
    assert outbox.notify(bytes(10))
    assert not outbox.notify(b"x")


async def test_messages_that_came_are_confirmed_when_there_are_many_or_when_asked() -> None:
    outbox = Outbox(10, 10, 1000)
    outbox.took([b""] * (CONFIRM_EVERY - 1))
    assert outbox.next() is None
    outbox.took([b""])
    packet = outbox.next()
    assert packet is not None
    assert (kind_of(packet).name, decode_count(packet)) == ("CONFIRMED", CONFIRM_EVERY)
    outbox.confirm()
    assert outbox.next() is None, "nothing new to say"
    outbox.took([b""])
    outbox.confirm()
    assert outbox.next() is not None


async def test_what_was_sent_and_not_confirmed_is_counted_when_the_connection_is_lost() -> None:
    outbox = Outbox(10, 100, 1000)
    outbox.offer(b"a")
    outbox.offer(b"b")
    outbox.next()
    outbox.offer(b"c")
    assert outbox.confirmed_by_peer(1)
    assert not outbox.confirmed_by_peer(3)
    assert not outbox.confirmed_by_peer(0)
    assert outbox.reconnected() == 1
    assert (outbox.unconfirmed, len(outbox)) == (0, 1)


async def test_a_window_counts_what_waits_and_what_is_not_confirmed() -> None:
    outbox = Outbox(100, 10**6, 10**6)
    outbox.agree(10**6, 3, 1000)
    assert [outbox.offer(b"a") for _ in range(4)] == [None, None, None, "outbox_messages"]
    outbox.next()
    assert outbox.offer(b"a") == "outbox_messages"
    outbox.room.clear()
    assert outbox.confirmed_by_peer(3)
    assert outbox.room.is_set()
    assert outbox.offer(bytes(5000)) is None, "a message is never too large for an empty window"
    outbox.next()
    assert outbox.offer(b"a") == "outbox_bytes"
    outbox.confirmed_by_peer(4)
    assert outbox.offer(bytes(1000)) is None


async def test_one_with_a_small_window_is_confirmed_early() -> None:
    outbox = Outbox(100, 10**6, 10**6)
    outbox.confirm_within(8, 4000)
    outbox.took([b"a"])
    assert outbox.next() is None
    outbox.took([b"a"])
    assert outbox.next() is not None
    outbox.took([bytes(1000)])
    assert outbox.next() is not None


async def test_an_inbox_closes_its_room_at_either_bound_and_opens_it_again() -> None:
    for bounds in ((2, 1000), (1000, 2)):
        inbox = Inbox(*bounds)
        inbox.extend([b"a", b"b"])
        assert not inbox.room.is_set()
        assert await inbox.get(None) == b"a"
        assert inbox.room.is_set()


async def test_a_receive_that_is_cancelled_or_times_out_loses_nothing() -> None:
    inbox = Inbox(10, 100)
    with pytest.raises(TimeoutError):
        await inbox.get(0.01)
    waiting = asyncio.ensure_future(inbox.get(None))
    await asyncio.sleep(0)
    inbox.extend([b"a"])
    waiting.cancel()
    await asyncio.wait({waiting})
    assert await inbox.get(1) == b"a"


async def test_an_inbox_that_has_ended_gives_what_waits_and_then_says_why() -> None:
    inbox = Inbox(10, 100)
    inbox.extend([b"a"])
    inbox.end("over")
    assert await inbox.get(None) == b"a"
    waiting = [asyncio.ensure_future(inbox.get(None)) for _ in range(2)]
    for each in waiting:
        with pytest.raises(TransportClosed, match="over"):
            await within(5, each)
