"""The vectors of docs/reference/wire-format.md, proved by a reader written from that page alone, and by Converge."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from converge.core import ed25519
from converge.core.errors import MessageDecodeError
from converge.core.identity import Identity
from converge.core.message import BATCH_SIZE, Message, sign_batch
from converge.core.topic import Topic
from tests.core.core import independent_wire
from tests.core.core.independent_wire import PURPOSE, Refused, opened, root_of, sha, split

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "wire-format.md"
TEXT = PAGE.read_text(encoding="utf-8")
DATA: dict[str, list[dict[str, Any]]] = json.loads(
    re.findall(r"^```json\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)[0]
)
VECTORS = DATA["vectors"]
BATCHES = [[vector for vector in VECTORS if vector["name"].startswith(f"batch of {size}")] for size in (3, 5)]
SIGNED = [vector for vector in VECTORS if vector["private_key"]]


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
        *[f"batch of 5, message {number}" for number in range(5)],
    ]
    assert len(DATA["refused"]) == 8


def test_the_independent_reader_knows_nothing_of_converge_nor_of_msgpack_libraries() -> None:
    imported = set()
    for node in ast.walk(ast.parse(Path(independent_wire.__file__).read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).partition(".")[0])
    assert imported == {"__future__", "cryptography", "hashlib", "struct", "typing"}


@pytest.mark.parametrize("case", DATA["refused"], ids=[case["what"] for case in DATA["refused"]])
def test_what_the_page_says_is_refused_is_refused_by_both(backend: str, case: dict[str, Any]) -> None:
    frame = hex_of(case, "wire")
    with pytest.raises(Refused):
        opened(frame)
    with pytest.raises(MessageDecodeError):
        Message.open(frame)


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
    with pytest.raises(Refused, match="not signed by this key"):
        opened(bytes(frame))


def test_the_encrypted_payload_opens_and_seals_as_given() -> None:
    vector = VECTORS[3]
    fields = opened(hex_of(vector, "wire"))
    key, nonce, associated = (hex_of(vector, name) for name in ("encryption_key", "nonce", "associated_data"))
    assert fields[8] == {"enc": "A256GCM"}
    assert associated == msgpack.packb([fields[2], fields[4], fields[7]])
    assert fields[9] == {"ciphertext": nonce + AESGCM(key).encrypt(nonce, hex_of(vector, "plaintext"), associated)}


@pytest.mark.parametrize(("batch", "lengths"), [(BATCHES[0], [2, 2, 1]), (BATCHES[1], [3, 3, 3, 3, 1])])
def test_a_batch_shares_one_root_and_one_signature(batch: list[dict[str, Any]], lengths: list[int]) -> None:
    assert len({vector["root"] for vector in batch}) == 1
    assert len({vector["signature_field"][:128] for vector in batch}) == 1
    assert [len(vector["path"]) for vector in batch] == lengths
    for vector in batch:
        assert sha(b"\x00", hex_of(vector, "body")) == hex_of(vector, "leaf")
        assert vector["signature_field"].endswith("".join(vector["path"]))


@pytest.mark.parametrize("batch", BATCHES)
def test_converge_signs_a_batch_to_exactly_these_bytes(backend: str, batch: list[dict[str, Any]]) -> None:
    seed = hex_of(batch[0], "private_key")
    identity = Identity(Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw(), seed)
    drafts = [Message.from_bytes(hex_of(vector, "wire")).evolve(sender="") for vector in batch]
    signed = sign_batch(drafts, identity)
    assert [message.to_bytes() for message in signed] == [hex_of(vector, "wire") for vector in batch]


@by_name(VECTORS)
def test_converge_reads_what_the_independent_decoder_reads(backend: str, vector: dict[str, Any]) -> None:
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
def test_converge_signs_to_exactly_these_bytes(backend: str, vector: dict[str, Any]) -> None:
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
    assert f"at most {BATCH_SIZE} under one signature" in TEXT
    for number in ("262,144", "1,048,576", "10,000", "65,536", "1,024"):
        assert number in TEXT
