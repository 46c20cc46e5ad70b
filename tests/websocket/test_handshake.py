"""The handshake refuses every mutation: as a state machine, and at a hub that listens."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable

import pytest

from converge.core.ed25519 import SMALL_ORDER_Y
from converge.core.identity import Identity
from converge.core.wire import PURPOSE
from converge.network.transport.websocket import CloseCode, HubLimits, ProtocolViolation, WebSocketHub
from converge.network.transport.websocket.handshake import NO_CERTIFICATE, ClientHandshake, HubHandshake, Terms
from converge.network.transport.websocket.packets import encode_messages
from tests.websocket.conftest import ALICE, BOB, CAROL, raw, to

HUB = CAROL
TERMS = Terms(1000, 20, 300)


def sides(
    client: Identity = ALICE, hub_id: str | None = HUB.fingerprint, certificate: bytes = NO_CERTIFICATE
) -> tuple[HubHandshake, ClientHandshake]:
    return HubHandshake(HUB, NO_CERTIFICATE, TERMS), ClientHandshake(client, certificate, hub_id)


def test_both_sides_know_who_the_other_is() -> None:
    hub, client = sides()
    client.finish(hub.receive(client.hello(hub.challenge())))
    assert (hub.client_id, hub.client_key) == (ALICE.fingerprint, ALICE.public_key)
    assert (client.hub_id, client.terms) == (HUB.fingerprint, TERMS)


def test_what_is_signed_is_what_the_page_says() -> None:
    hub, client = sides()
    challenge = hub.challenge()
    hello = client.hello(challenge)
    welcome = hub.receive(hello)
    hub_nonce, client_nonce = challenge[34:], hello[34:66]
    tail = b"websocket" + bytes(32)
    said = b"converge/hello/v1\0" + hub_nonce + client_nonce + bytes.fromhex(HUB.fingerprint) + tail
    assert hello == b"\x02\x01" + ALICE.public_key + client_nonce + ALICE.sign(said)
    mirrored = b"converge/welcome/v1\0" + client_nonce + hub_nonce + bytes.fromhex(ALICE.fingerprint) + tail
    terms = bytes.fromhex("000003e8 00000014 0000012c")
    assert welcome == b"\x03" + terms + HUB.sign(mirrored + terms)


def test_every_flipped_bit_of_every_packet_is_refused() -> None:
    for index in range(66 * 8):
        hub, client = sides()
        with pytest.raises(ProtocolViolation):
            hub.receive(client.hello(flipped(hub.challenge(), index)))
    for index in range(130 * 8):
        hub, client = sides()
        with pytest.raises(ProtocolViolation):
            hub.receive(flipped(client.hello(hub.challenge()), index))
    for index in range(77 * 8):
        hub, client = sides()
        with pytest.raises(ProtocolViolation):
            client.finish(flipped(hub.receive(client.hello(hub.challenge())), index))


def flipped(packet: bytes, bit: int) -> bytes:
    changed = bytearray(packet)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_another_certificate_in_between_is_noticed_by_the_hub() -> None:
    hub, client = sides(certificate=hashlib.sha256(b"of the man in the middle").digest())
    with pytest.raises(ProtocolViolation, match="another certificate"):
        hub.receive(client.hello(hub.challenge()))


def test_a_hub_that_cannot_sign_is_noticed_by_the_client() -> None:
    hub, client = sides()
    welcome = hub.receive(client.hello(hub.challenge()))
    with pytest.raises(ProtocolViolation, match="signature of the welcome"):
        client.finish(welcome[:13] + BOB.sign(b"who knows the public key of the hub, and no more"))
    with pytest.raises(ProtocolViolation, match="a packet of kind 2"):
        client.finish(b"\x02" + welcome[1:])


def test_a_hub_of_another_id_gets_no_signature() -> None:
    hub, client = sides(hub_id=BOB.fingerprint)
    with pytest.raises(ProtocolViolation, match=f"and the one wanted is {BOB.fingerprint}"):
        client.hello(hub.challenge())


def test_a_hub_with_a_key_that_anybody_can_sign_for_is_refused() -> None:
    weak = min(SMALL_ORDER_Y).to_bytes(32, "little")
    client = ClientHandshake(ALICE, NO_CERTIFICATE, None)
    with pytest.raises(ProtocolViolation, match="small order"):
        client.hello(b"\x01\x01" + weak + bytes(32))


# -- the twelve mutations, at a hub that listens

Mutation = Callable[[bytes, bytes], list[bytes]]
OLD = HubHandshake(HUB, NO_CERTIFICATE, TERMS).challenge()


def hello_to(challenge: bytes, identity: Identity = ALICE) -> bytes:
    return ClientHandshake(identity, NO_CERTIFICATE, None).hello(challenge)


def signed_over(challenge: bytes, purpose: bytes, hub_key: bytes | None = None) -> bytes:
    nonce = bytes(32)
    key = challenge[2:34] if hub_key is None else hub_key
    said = purpose + challenge[34:] + nonce + hashlib.sha256(key).digest() + b"websocket" + bytes(32)
    return b"\x02\x01" + ALICE.public_key + nonce + ALICE.sign(said)


MUTATIONS: dict[str, Mutation] = {
    "an old nonce": lambda challenge, message: [hello_to(challenge[:34] + OLD[34:])],
    "its own challenge, reflected": lambda challenge, message: [challenge],
    "the challenge of another server": lambda challenge, message: [hello_to(OLD)],
    "for another id": lambda challenge, message: [signed_over(challenge, b"converge/hello/v1\0", BOB.public_key)],
    "missing": lambda challenge, message: [message],
    "twice": lambda challenge, message: [hello_to(challenge), hello_to(challenge)],
    "truncated": lambda challenge, message: [hello_to(challenge)[:-1]],
    "extra bytes": lambda challenge, message: [hello_to(challenge) + b"\0"],
    "late": lambda challenge, message: [],
    "the signature of another purpose": lambda challenge, message: [signed_over(challenge, PURPOSE)],
    "an unknown key": lambda challenge, message: [hello_to(challenge, Identity.generate())],
    "a revoked key": lambda challenge, message: [hello_to(challenge, BOB)],
}


@pytest.mark.parametrize("name", MUTATIONS)
async def test_a_mutated_handshake_is_refused_and_what_follows_it_is_not_processed(name: str) -> None:
    limits = HubLimits(handshake_timeout_sec=0.3 if name == "late" else 5)
    async with WebSocketHub(identity=HUB, limits=limits, allow=[ALICE.fingerprint, BOB.fingerprint]) as hub:
        hub.revoke(BOB.fingerprint)
        async with raw(hub.uri) as connection:
            challenge = await connection.recv(decode=False)
            message = encode_messages([to(ALICE, ALICE).to_bytes()])
            packets = [*MUTATIONS[name](challenge, message), message]
            async with asyncio.timeout(5):
                if name != "late":
                    for packet in packets:
                        await connection.send(packet)
                await connection.wait_closed()
        carried = {name: hub.counters[name] for name in ("carried", "refused_sender", "refused_malformed")}
        assert carried == {"carried": 0, "refused_sender": 0, "refused_malformed": 0}
        codes = {"late": None, "an unknown key": 4403, "a revoked key": 4403, "twice": 4400}
        received = connection.protocol.close_rcvd
        assert (None if received is None else received.code) == codes.get(name, CloseCode.UNAUTHENTICATED)


async def test_the_right_handshake_passes_where_the_mutations_do_not() -> None:
    async with WebSocketHub(identity=HUB, allow=[ALICE.fingerprint]) as hub, raw(hub.uri) as connection:
        challenge = await connection.recv(decode=False)
        await connection.send(hello_to(challenge))
        assert (await connection.recv(decode=False))[:1] == b"\x03"
