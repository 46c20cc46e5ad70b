from __future__ import annotations

import copy
import pickle
import time
import uuid
from typing import Any

import attrs
import msgpack
import pytest
from attrs.exceptions import FrozenInstanceError

from converge.core import wire
from converge.core.aead import decrypt
from converge.core.errors import DecryptionError, SigningError
from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.topic import Topic

ALICE, BOB = Identity.generate(), Identity.generate()
KEY = bytes(range(32))
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def full(**changes: Any) -> Message:
    fields: dict[str, Any] = {
        "recipient": "bob",
        "topics": [Topic("a", {"k": 1, "b": b"\x00"}), Topic("b")],
        "payload": {"z": 1, "a": [1, 2.5, None, True, b"\xff", {"k": "v"}]},
        "task_id": "t1",
        "headers": {"in_reply_to": "m0", "ttl_ms": 500, "traceparent": TRACE},
    }
    return Message(**(fields | changes))


def foreign(payload: bytes, timestamp: bytes = b"\xcd\x03\xe8") -> bytes:
    """A frame signed by an encoder that does not choose the shortest forms."""
    head = b"\x9a\x01\xc4\x20" + ALICE.public_key + b"\xc0"
    body = head + b"\xd9\x02m1" + b"\xc0" + b"\xdc\x00\x00" + timestamp + b"\xc0" + b"\x80" + msgpack.packb(payload)
    return wire.join(body, ALICE.sign(wire.signed_bytes(wire_leaf(body))))


def wire_leaf(body: bytes) -> bytes:
    import hashlib

    return hashlib.sha256(b"\x00" + body).digest()


def test_every_field_has_a_default() -> None:
    before = time.time_ns() // 1_000_000
    message = Message()
    assert before <= message.timestamp <= time.time_ns() // 1_000_000
    assert uuid.UUID(message.id).version == 4
    assert Message().id != message.id
    assert (message.sender, message.recipient, message.topics, message.payload) == ("", None, (), {})
    assert (message.task_id, message.signature, dict(message.headers)) == (None, b"", {})


def test_fields_go_by_position_in_the_documented_order() -> None:
    message = Message("m", "alice", "bob", [Topic("a")], {"x": 1}, "t", 5, b"")
    assert message == Message(
        id="m", sender="alice", recipient="bob", topics=(Topic("a"),), payload={"x": 1}, task_id="t", timestamp=5
    )


def test_a_message_is_direct_or_topic_scoped_or_a_broadcast() -> None:
    kinds = [(m.is_direct, m.is_topic_scoped, m.is_broadcast) for m in (full(), full(recipient=None), Message())]
    assert kinds == [(True, False, False), (False, True, False), (False, False, True)]


def test_headers_are_read_as_properties() -> None:
    message = full()
    assert (message.in_reply_to, message.ttl_ms, message.traceparent, message.is_encrypted) == ("m0", 500, TRACE, False)
    empty = Message()
    assert (empty.in_reply_to, empty.ttl_ms, empty.traceparent) == (None, None, None)


@pytest.mark.parametrize(
    "bad",
    [
        {"id": 1},
        {"id": None},
        {"sender": None},
        {"sender": b"x"},
        {"recipient": 7},
        {"task_id": []},
        {"topics": ["boom"]},
        {"topics": "boom"},
        {"topics": None},
        {"topics": Topic("a")},
        {"payload": [1]},
        {"payload": None},
        {"timestamp": 1.0},
        {"timestamp": True},
        {"timestamp": "1"},
        {"signature": "x"},
        {"signature": None},
        {"headers": [1]},
        {"headers": {"ttl_ms": 1.5}},
    ],
)
def test_a_field_of_the_wrong_type_is_a_type_error(bad: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        Message(**bad)
    with pytest.raises(TypeError):
        Message().evolve(**bad)


@pytest.mark.parametrize(
    "bad",
    [
        {"id": ""},
        {"id": "x" * 1025},
        {"sender": "\ud800"},
        {"recipient": ""},
        {"task_id": ""},
        {"timestamp": -1},
        {"timestamp": 2**63},
        {"topics": [Topic("a")] * 65},
        {"headers": {"nope": 1}},
        {"headers": {"ttl_ms": -1}},
    ],
)
def test_a_value_out_of_bounds_is_a_value_error(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Message(**bad)


def test_the_text_about_a_wrong_topic_says_what_to_write() -> None:
    with pytest.raises(TypeError, match=r"write Topic\('boom'\)"):
        Message(topics=["boom"])  # type: ignore[list-item]  # what is tested


def test_a_payload_that_is_not_plain_data_is_a_type_error_when_it_is_encoded() -> None:
    message = Message(payload={"x": {1, 2}})
    for encode in (lambda: message.sign(ALICE), message.to_bytes, message.to_dict):
        with pytest.raises(TypeError, match=r"payload\.x: builtins\.set is not plain data"):
            encode()


def test_a_message_is_immutable() -> None:
    message: Any = full().sign(ALICE)
    for name in ("id", "sender", "payload", "signature", "_body", "new"):
        with pytest.raises((FrozenInstanceError, AttributeError)):
            setattr(message, name, "x")
    with pytest.raises(TypeError):
        message.headers["ttl_ms"] = 9


def test_headers_and_topics_are_copies() -> None:
    headers: dict[str, str | int] = {"ttl_ms": 1}
    topics = [Topic("a")]
    message = Message(headers=headers, topics=topics)
    headers["ttl_ms"] = 2
    topics.append(Topic("b"))
    assert message.ttl_ms == 1
    assert message.topics == (Topic("a"),)


def test_signing_sets_the_sender_and_anybody_can_verify() -> None:
    message = full()
    signed = message.sign(ALICE)
    assert (signed.sender, signed.public_key, signed.is_signed) == (ALICE.fingerprint, ALICE.public_key, True)
    assert len(signed.signature) == 64
    assert signed.verify()
    assert signed.verify(ALICE.public_key)
    assert not signed.verify(BOB.public_key)
    assert signed == message.evolve(sender=ALICE.fingerprint, signature=signed.signature)
    assert (message.sender, message.is_signed, message.verify(), message.public_key) == ("", False, False, None)


def test_a_message_of_somebody_else_is_not_signed() -> None:
    with pytest.raises(SigningError, match="leave the sender empty"):
        Message(sender=BOB.fingerprint).sign(ALICE)
    with pytest.raises(SigningError, match="leave the sender empty"):
        Message().sign(BOB).sign(ALICE)
    assert Message(sender=ALICE.fingerprint).sign(ALICE).sign(ALICE).verify()


def test_a_public_identity_signs_nothing() -> None:
    with pytest.raises(SigningError, match="cannot sign"):
        Message().sign(Identity.from_public_key(ALICE.public_key))


def test_the_payload_of_a_signed_message_is_its_own() -> None:
    payload: dict[str, Any] = {"list": [1], "tuple": (1, 2)}
    signed = Message(payload=payload).sign(ALICE)
    payload["list"].append(2)
    assert signed.payload == {"list": [1], "tuple": [1, 2]}
    assert signed.verify()


CHANGES: dict[str, Any] = {
    "id": "other",
    "sender": BOB.fingerprint,
    "recipient": None,
    "topics": [Topic("a", {"k": True, "b": b"\x00"}), Topic("b")],
    "payload": {"p": 2},
    "task_id": None,
    "timestamp": 1,
    "headers": {},
    "signature": bytes(64),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("change", [Message.evolve, attrs.evolve])
def test_an_altered_message_does_not_verify(name: str, change: Any) -> None:
    signed = full().sign(ALICE)
    altered = change(signed, **{name: CHANGES[name]})
    assert altered != signed
    assert not altered.verify()
    assert not altered.verify(ALICE.public_key)
    assert not altered.verify(BOB.public_key)
    assert signed.verify()


def test_an_altered_copy_can_be_signed_anew() -> None:
    changed = full().sign(ALICE).evolve(payload={"p": 2})
    assert not changed.is_signed
    assert changed.sign(ALICE).verify()


def test_evolve_refuses_unknown_fields_and_without_changes_is_the_message() -> None:
    signed = full().sign(ALICE)
    assert signed.evolve() is signed
    with pytest.raises(TypeError, match="colour"):
        signed.evolve(colour="red")


def test_a_payload_changed_in_place_does_not_verify() -> None:
    for signed in (full().sign(ALICE), Message.open(full().sign(ALICE).to_bytes())):
        assert signed.verify()
        signed.payload["z"] = True  # equal to 1, but not the same
        assert not signed.verify()
        signed.payload["z"] = {1, 2}
        assert not signed.verify()
        signed.payload["z"] = 1
        assert signed.verify()


def test_a_signature_kept_apart_verifies_with_the_key_and_the_fields() -> None:
    signed = full().sign(ALICE)
    rebuilt = Message(
        signed.id, signed.sender, signed.recipient, signed.topics, signed.payload, signed.task_id, signed.timestamp,
        signed.signature, headers=signed.headers,
    )  # fmt: skip
    assert rebuilt == signed
    assert rebuilt.verify(ALICE.public_key)
    assert not rebuilt.verify()
    assert not rebuilt.verify(BOB.public_key)
    assert not rebuilt.verify(b"short")
    with pytest.raises(SigningError, match="sign it again"):
        rebuilt.to_bytes()
    assert Message.from_dict(rebuilt.to_dict()) == rebuilt


def test_verify_wants_the_bytes_of_a_key() -> None:
    signed: Any = full().sign(ALICE)
    with pytest.raises(TypeError, match=r"identity\.public_key"):
        signed.verify(ALICE)


@pytest.mark.parametrize("signature", [b"", b"x", bytes(64), bytes(72), bytes(104)])
def test_bad_signatures_never_raise(signature: bytes) -> None:
    message = Message(sender=ALICE.fingerprint, signature=signature)
    assert not message.verify()
    assert not message.verify(ALICE.public_key)


def test_a_signature_under_the_key_of_another_is_refused() -> None:
    body, _ = wire.split(Message(payload={}).sign(ALICE).to_bytes())
    forged = Message.from_bytes(wire.join(body, BOB.sign(wire.signed_bytes(wire_leaf(body)))))
    assert forged.sender == ALICE.fingerprint
    assert not forged.verify()
    assert not forged.verify(BOB.public_key)


def test_a_message_under_a_weak_key_is_read_but_never_verifies() -> None:
    weak = (1).to_bytes(32, "little")
    body, _ = wire.split(Message(payload={}).sign(ALICE).to_bytes())
    forged = Message.from_bytes(wire.join(body.replace(ALICE.public_key, weak), weak + bytes(32)))
    assert not forged.verify()
    assert not forged.verify(weak)


@pytest.mark.parametrize("signed", [False, True])
def test_the_frame_comes_back_equal(signed: bool) -> None:
    message = full().sign(ALICE) if signed else full(sender="anybody")
    back = Message.from_bytes(message.to_bytes())
    assert back == message
    assert back.verify() is signed
    assert back.to_bytes() == message.to_bytes()
    assert hash(back) == hash(message)


def test_what_was_received_is_kept_to_the_byte() -> None:
    frame = foreign(b"\xdf\x00\x00\x00\x01\xd9\x01n\xd2\x00\x00\x00\x05")
    message = Message.open(frame)
    assert (message.id, message.payload, message.timestamp) == ("m1", {"n": 5}, 1000)
    assert message.to_bytes() == frame
    assert message.verify()
    assert Message.from_bytes(frame).verify()


def test_pickles_and_copies_are_equal_and_still_verify() -> None:
    for message in (full().sign(ALICE), full(), Message.open(foreign(b"\xde\x00\x00"))):
        for again in (pickle.loads(pickle.dumps(message)), copy.copy(message), copy.deepcopy(message)):
            assert again == message
            assert again.verify() is message.is_signed
            if message.is_signed:
                assert again.to_bytes() == message.to_bytes()
    original = full()
    copy.deepcopy(original).payload["z"] = 2
    assert original.payload["z"] == 1


def test_the_repr_shows_no_payload_and_no_signature() -> None:
    text = repr(full(payload={"password": "hunter2"}).sign(ALICE))
    assert "hunter2" not in text
    assert "<1 keys>" in text
    assert "<64 bytes>" in text


def test_an_encrypted_payload_opens_with_the_key_in_its_message() -> None:
    message = full(sender=ALICE.fingerprint)
    sealed = message.encrypt_payload(KEY)
    ciphertext = sealed.payload["ciphertext"]
    assert list(sealed.payload) == ["ciphertext"]
    assert (sealed.headers["enc"], sealed.is_encrypted) == ("A256GCM", True)
    bound_to = msgpack.packb([ALICE.fingerprint, "bob", "t1"])
    assert msgpack.unpackb(decrypt(ciphertext, KEY, bound_to)) == message.payload
    assert sealed.decrypt_payload(KEY) == message


@pytest.mark.parametrize(
    ("name", "value"),
    [("sender", BOB.fingerprint), ("recipient", "carol"), ("recipient", None), ("task_id", "t2")],
    ids=["sender", "recipient", "no recipient", "task"],
)
def test_a_ciphertext_does_not_open_in_another_message(name: str, value: str | None) -> None:
    sealed = full(sender=ALICE.fingerprint).encrypt_payload(KEY)
    with pytest.raises(DecryptionError):
        sealed.evolve(**{name: value}).decrypt_payload(KEY)
    with pytest.raises(DecryptionError):
        sealed.decrypt_payload(bytes(32))


def test_encrypt_then_sign_travels_verifies_and_opens() -> None:
    message = full(sender=ALICE.fingerprint)
    received = Message.open(message.encrypt_payload(KEY).sign(ALICE).to_bytes())
    assert received.verify()
    opened = received.decrypt_payload(KEY)
    assert opened == message
    assert not opened.is_signed


def test_encrypting_a_signed_message_leaves_it_unsigned() -> None:
    sealed = full().sign(ALICE).encrypt_payload(KEY)
    assert not sealed.is_signed
    assert sealed.sign(ALICE).verify()


def test_misuse_of_encryption_is_a_value_error() -> None:
    message = full(sender="s")
    sealed = message.encrypt_payload(KEY)
    with pytest.raises(ValueError, match="no sender"):
        full().encrypt_payload(KEY)
    with pytest.raises(ValueError, match="encrypted already"):
        sealed.encrypt_payload(KEY)
    with pytest.raises(ValueError, match="not encrypted"):
        message.decrypt_payload(KEY)
    with pytest.raises(ValueError, match="32 bytes"):
        message.encrypt_payload(b"short")
    with pytest.raises(ValueError, match="32 bytes"):
        sealed.decrypt_payload(b"short")
    with pytest.raises(TypeError, match="plain data"):
        full(sender="s", payload={"x": object()}).encrypt_payload(KEY)
    for odd in (
        sealed.evolve(headers={"enc": "other"}),
        sealed.evolve(payload={"ciphertext": "text"}),
        sealed.evolve(payload={**sealed.payload, "more": 1}),
        sealed.evolve(payload={}),
    ):
        with pytest.raises(DecryptionError, match="another scheme"):
            odd.decrypt_payload(KEY)
