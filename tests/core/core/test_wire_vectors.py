"""The vectors of docs/reference/wire-format.md, proved by a decoder written from that page alone.

The first half uses msgpack, cryptography and hashlib and nothing of Converge; the second asks Converge the same.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import msgpack
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from converge.core import ed25519
from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.topic import Topic

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "wire-format.md"
TEXT = PAGE.read_text(encoding="utf-8")
VECTORS: list[dict[str, Any]] = json.loads(re.findall(r"^```json\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)[0])[
    "vectors"
]
SIGNED = [vector for vector in VECTORS if vector["private_key"]]
PURPOSE = b"converge/message/v1\x00"


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def split(frame: bytes) -> tuple[bytes, bytes]:
    assert frame[0] == 0x92
    parts = []
    at = 1
    while at < len(frame):
        width = {0xC4: 1, 0xC5: 2, 0xC6: 4}[frame[at]]
        start = at + 1 + width
        at = start + int.from_bytes(frame[at + 1 : start], "big")
        assert at <= len(frame)
        parts.append(frame[start:at])
    body, signature = parts
    return body, signature


def root_of(body: bytes, field: bytes) -> bytes:
    """RFC 9162 section 2.1.3.2 by recursion from the top: the last hash of the path is the other half of the tree."""
    index, size = (int.from_bytes(field[64:68], "big"), int.from_bytes(field[68:72], "big")) if field[64:] else (0, 1)
    path = [field[at : at + 32] for at in range(72, len(field), 32)]

    def root(index: int, size: int, path: list[bytes]) -> bytes:
        if size == 1:
            assert not path
            return sha(b"\x00" + body)
        half = 1 << (size - 1).bit_length() - 1
        if index < half:
            return sha(b"\x01" + root(index, half, path[:-1]) + path[-1])
        return sha(b"\x01" + path[-1] + root(index - half, size - half, path[:-1]))

    return root(index, size, path)


def opened(frame: bytes) -> list[Any]:
    """Verify, then decode: the steps of the page."""
    body, field = split(frame)
    if field:
        assert body[:4].hex() == "9a01c420"
        Ed25519PublicKey.from_public_bytes(body[4:36]).verify(field[:64], PURPOSE + root_of(body, field))
    fields: list[Any] = msgpack.unpackb(body)
    fields[9] = msgpack.unpackb(fields[9])
    if field:
        assert fields[2] is None
        fields[2] = hashlib.sha256(fields[1]).hexdigest()
    return fields


def by_name(vectors: list[dict[str, Any]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", vectors, ids=[vector["name"] for vector in vectors])


def hex_of(vector: dict[str, Any], name: str) -> bytes:
    return bytes.fromhex(vector[name])


def test_the_page_has_the_promised_vectors() -> None:
    assert [vector["name"] for vector in VECTORS] == [
        "unsigned broadcast",
        "signed direct",
        "signed with topics and headers",
        "signed with an encrypted payload",
        "batch of 3, message 0",
        "batch of 3, message 1",
        "batch of 3, message 2",
    ]


@by_name(VECTORS)
def test_the_frame_holds_body_and_signature_field(vector: dict[str, Any]) -> None:
    body, field = split(hex_of(vector, "wire"))
    assert (body, field) == (hex_of(vector, "body"), hex_of(vector, "signature_field"))
    fields = opened(hex_of(vector, "wire"))
    assert (len(fields), fields[0]) == (10, 1)


@by_name(SIGNED)
def test_root_signed_bytes_and_signature_follow_from_seed_and_body(vector: dict[str, Any]) -> None:
    body, field = split(hex_of(vector, "wire"))
    root = root_of(body, field)
    key = Ed25519PrivateKey.from_private_bytes(hex_of(vector, "private_key"))
    assert key.public_key().public_bytes_raw() == body[4:36]
    assert root == hex_of(vector, "root")
    assert hex_of(vector, "signed_bytes") == PURPOSE + root
    assert key.sign(PURPOSE + root) == field[:64]


@by_name(SIGNED)
def test_the_independent_decoder_notices_a_changed_body(vector: dict[str, Any]) -> None:
    frame = bytearray(hex_of(vector, "wire"))
    frame[frame.index(hex_of(vector, "body")) + 60] ^= 1
    with pytest.raises(InvalidSignature):
        opened(bytes(frame))


def test_the_encrypted_payload_opens_and_seals_as_given() -> None:
    vector = VECTORS[3]
    fields = opened(hex_of(vector, "wire"))
    key, nonce, associated = (hex_of(vector, name) for name in ("encryption_key", "nonce", "associated_data"))
    assert fields[8] == {"enc": "A256GCM"}
    assert associated == msgpack.packb([fields[2], fields[4], fields[7]])
    assert fields[9] == {"ciphertext": nonce + AESGCM(key).encrypt(nonce, hex_of(vector, "plaintext"), associated)}


def test_the_batch_shares_one_root_and_one_signature() -> None:
    batch = VECTORS[4:]
    assert len({vector["root"] for vector in batch}) == 1
    assert len({vector["signature_field"][:128] for vector in batch}) == 1
    assert [len(vector["path"]) for vector in batch] == [2, 2, 1]
    for vector in batch:
        assert sha(b"\x00" + hex_of(vector, "body")) == hex_of(vector, "leaf")
        assert vector["signature_field"].endswith("".join(vector["path"]))


@by_name(VECTORS)
def test_converge_reads_what_the_independent_decoder_reads(vector: dict[str, Any]) -> None:
    frame = hex_of(vector, "wire")
    message = Message.from_bytes(frame)
    assert message.verify() is (vector in SIGNED)
    assert message.to_bytes() == frame
    if vector in SIGNED:
        assert Message.open(frame) == message
    _, key, sender, id_, recipient, topics, timestamp, task_id, headers, payload = opened(frame)
    assert (message.public_key, message.sender, message.id) == (key, sender, id_)
    assert (message.recipient, message.timestamp, message.task_id) == (recipient, timestamp, task_id)
    assert message.topics == tuple(Topic(*topic) for topic in topics)
    assert (dict(message.headers), message.payload) == (headers, payload)
    assert Message.from_dict(json.loads(json.dumps(message.to_dict()))) == message


@by_name([vector for vector in SIGNED if "path" not in vector])
def test_converge_signs_to_exactly_these_bytes(vector: dict[str, Any]) -> None:
    message, seed = Message.from_bytes(hex_of(vector, "wire")), hex_of(vector, "private_key")
    public_key = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    unsigned = message.evolve(sender="")
    assert unsigned.sign(Identity(public_key, seed)).to_bytes() == hex_of(vector, "wire")


def test_converge_writes_the_unsigned_vector_and_opens_the_encrypted_one() -> None:
    assert Message.from_bytes(hex_of(VECTORS[0], "wire")).evolve(timestamp=1).evolve(
        timestamp=1700000000000
    ).to_bytes() == (hex_of(VECTORS[0], "wire"))
    sealed = Message.open(hex_of(VECTORS[3], "wire"))
    assert sealed.decrypt_payload(hex_of(VECTORS[3], "encryption_key")).payload == {"approve": True, "amount": 10}


def test_the_page_names_the_constants_of_the_code() -> None:
    order_8 = re.findall(r"^([0-9a-f]{64}) ", TEXT, re.MULTILINE)
    assert [int(text, 16) in ed25519.SMALL_ORDER_Y for text in order_8] == [True]
    for number in ("262,144", "1,048,576", "10,000", "65,536", "1,024"):
        assert number in TEXT
