"""Packets: round trips, hard limits before decoding, and 100,000 mutations against both state machines."""

from __future__ import annotations

import random
import time
import tracemalloc
from contextlib import suppress

import msgpack
import pytest

from converge.network.transport.websocket import ProtocolViolation
from converge.network.transport.websocket.handshake import NO_CERTIFICATE, Terms
from converge.network.transport.websocket.packets import (
    MAX_ITEMS,
    MAX_PACKET_BYTES,
    PACKET_OVERHEAD,
    Kind,
    Lost,
    decode_messages,
    encode_count,
    encode_ids,
    encode_lost,
    encode_messages,
    encode_reply,
    encode_request,
)
from converge.network.transport.websocket.protocol import (
    ClientProtocol,
    Confirmed,
    Gone,
    HubProtocol,
    LostMessages,
    Messages,
    Replied,
)
from tests.websocket.conftest import ALICE, BOB

LIMIT = 4096
TERMS = Terms(LIMIT, 10, 10)


def machines() -> tuple[HubProtocol, ClientProtocol]:
    hub = HubProtocol(BOB, NO_CERTIFICATE, TERMS, LIMIT + PACKET_OVERHEAD)
    client = ClientProtocol(ALICE, NO_CERTIFICATE, None, LIMIT + PACKET_OVERHEAD)
    client.finish(hub.authenticate(client.hello(hub.challenge())))
    return hub, client


def test_what_a_client_says_is_understood_by_the_hub() -> None:
    hub, _ = machines()
    assert hub.receive(encode_messages([b"a", b"bc"])) == Messages([b"a", b"bc"])
    assert hub.receive(encode_count(2**40)) == Confirmed(2**40)
    request = hub.receive(encode_request(7, "present", ["x"]))
    assert (request.number, request.operation, bytes(request.items[0])) == (7, "present", b"\xa1x")  # type: ignore[union-attr]  # it is a request


def test_what_a_hub_says_is_understood_by_the_client() -> None:
    _, client = machines()
    assert client.receive(encode_messages([b"a"])) == Messages([b"a"])
    assert client.receive(encode_count(3)) == Confirmed(3)
    assert client.receive(encode_reply(7, ["x"])) == Replied(7, ["x"])
    assert client.receive(encode_lost([Lost("i", "r", "why")])) == LostMessages([Lost("i", "r", "why")])
    assert client.receive(encode_ids(Kind.GONE, ["x"])) == Gone(["x"])


@pytest.mark.parametrize(
    ("packet", "text"),
    [
        ("text", "a text message came"),
        (b"", "is empty"),
        (b"\x00", "begins with byte 0"),
        (bytes([Kind.WELCOME]) + bytes(76), "kind WELCOME does not come from this side"),
        (encode_reply(1, []), "kind REPLY does not come from this side"),
        (bytes(LIMIT + PACKET_OVERHEAD + 1), "the limit is 4112"),
        (encode_count(1)[:-1], "9 bytes, not 8"),
        (b"\x04\xc0", "not a list"),
        (b"\x04\xdd\xff\xff\xff\xff", "not a list of at most 1024"),
        (b"\x04" + msgpack.packb([b""] * (MAX_ITEMS + 1)), "not a list of at most 1024"),
        (b"\x04\x91\xa1x", "cannot be decoded"),
        (b"\x04\x90\x00", "cannot be decoded"),
        (b"\x04" + b"\x91" * 3000, "cannot be decoded"),
        (b"\x06" + msgpack.packb([2**32, "present", []]), "number or more items"),
        (b"\x06" + msgpack.packb([1, "present", [1] * (MAX_ITEMS + 1)]), "number or more items"),
        (b"\x06" + msgpack.packb([1, "present"]), "cannot be decoded"),
        (b"\x06" + msgpack.packb([1, b"\xff", []]), "cannot be decoded"),
    ],
)
def test_what_is_no_packet_of_a_client_is_refused_and_nothing_is_taken_after_it(packet: str | bytes, text: str) -> None:
    hub, _ = machines()
    with pytest.raises(ProtocolViolation, match=text):
        hub.receive(packet)
    with pytest.raises(ProtocolViolation, match="out of turn"):
        hub.receive(encode_messages([]))


def test_nothing_is_taken_out_of_turn() -> None:
    hub = HubProtocol(BOB, NO_CERTIFICATE, TERMS, LIMIT)
    with pytest.raises(ProtocolViolation, match="out of turn before the handshake"):
        hub.receive(encode_messages([]))
    client = ClientProtocol(ALICE, NO_CERTIFICATE, None, LIMIT)
    with pytest.raises(ProtocolViolation, match="out of turn"):
        client.finish(bytes(77))


def test_a_list_that_only_announces_its_items_costs_no_memory() -> None:
    bombs = [b"\x04" + head + b"\x90" * 250_000 for head in (b"\xdd\x00\x03\xd0\x90", b"\xdc\x04\x00", b"\x9f")]
    tracemalloc.start()
    for bomb in bombs:
        with pytest.raises(ProtocolViolation):
            decode_messages(bomb)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_the_largest_message_fits_in_a_packet() -> None:
    assert len(encode_messages([bytes(LIMIT)])) <= LIMIT + PACKET_OVERHEAD
    assert len(encode_messages([bytes(MAX_PACKET_BYTES - PACKET_OVERHEAD)])) <= MAX_PACKET_BYTES


@pytest.mark.parametrize("seed", range(4))
def test_mutated_packets_are_understood_or_refused_and_nothing_else(seed: int) -> None:
    choose = random.Random(seed)
    valid = [
        encode_messages([b"a" * 40, b"b" * 300]),
        encode_count(5),
        encode_request(1, "subscribe", [["news", {"a": 1}, "1.0"]]),
        encode_reply(1, ["x"]),
        encode_lost([Lost("i", "r", "why")]),
        encode_ids(Kind.BUSY, ["x" * 64]),
    ]
    slowest = 0.0
    for _ in range(25_000):
        packet = mutated(choose, choose.choice(valid))
        for machine in machines_again():
            begin = time.perf_counter()
            with suppress(ProtocolViolation):
                machine.receive(packet)
            slowest = max(slowest, time.perf_counter() - begin)
    assert slowest < 0.1


HUB, CLIENT = machines()


def machines_again() -> tuple[HubProtocol, ClientProtocol]:
    """Open ones, without another handshake."""
    for machine in (HUB, CLIENT):
        machine._state = type(machine._state).OPEN
    return HUB, CLIENT


def mutated(choose: random.Random, packet: bytes) -> bytes:
    changed = bytearray(packet)
    for _ in range(choose.randint(1, 4)):
        at = choose.randrange(len(changed)) if changed else 0
        act = choose.randrange(5)
        if act == 0 and changed:
            changed[at] = choose.randrange(256)
        elif act == 1:
            changed[at:at] = choose.randbytes(choose.randint(1, 6))
        elif act == 2:
            del changed[at : at + choose.randint(1, 6)]
        elif act == 3:
            del changed[at:]
        else:
            changed[at:at] = msgpack.packb(
                choose.choice([None, -1, 2**64 - 1, 1.5, "é", b"\xff", [], {1: 2}, [[]] * 9])
            )
    return bytes(changed)
