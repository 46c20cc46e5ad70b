from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import attrs
import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converge.core import wire
from converge.core.errors import MessageDecodeError
from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.topic import Topic

ALICE, BOB = Identity.generate(), Identity.generate()


def full(payload: dict[str, Any], sender: str = "") -> Message:
    topics = [Topic("a", {"k": 1, "b": b"\x00"}), Topic("b")]
    return Message(
        sender=sender, recipient="bob", topics=topics, payload=payload, task_id="t1", headers={"ttl_ms": 500}
    )


def foreign() -> Message:
    """A message signed by an encoder that does not choose the shortest forms."""
    head = b"\x9a\x01\xc4\x20" + ALICE.public_key + b"\xc0"
    body = head + b"\xd9\x02m1\xc0\xdc\x00\x00\xcd\x00\x05\xc0\x80\xc4\x03\xde\x00\x00"
    leaf = hashlib.sha256(b"\x00" + body).digest()
    return Message.open(wire.join(body, ALICE.sign(wire.signed_bytes(leaf))))


payloads = st.dictionaries(
    st.text(max_size=4) | st.sampled_from(["$bytes", "$dict", "$float", "$"]),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**63 - 1)
        | st.floats()
        | st.text(max_size=4)
        | st.binary(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(max_size=3) | st.sampled_from(["$bytes", "$dict", "$float"]), inner, max_size=2)
        ),
        max_leaves=8,
    ),
    max_size=3,
)


@given(payloads, st.booleans())
@settings(max_examples=300)
def test_the_dict_survives_json_in_any_order_of_keys_and_still_verifies(payload: dict[str, Any], sort: bool) -> None:
    signed = full(payload=payload).sign(ALICE)
    text = json.dumps(signed.to_dict(), allow_nan=False, sort_keys=sort)
    back = Message.from_dict(json.loads(text))
    assert back.verify()
    assert msgpack.packb(sorted_keys(back.payload)) == msgpack.packb(sorted_keys(signed.payload))
    assert attrs.evolve(back, payload={}) == attrs.evolve(signed, payload={})
    assert Message.from_dict(back.to_dict()).verify()
    unsigned_back = Message.from_dict(json.loads(json.dumps(full(payload=payload, sender="s").to_dict())))
    assert msgpack.packb(unsigned_back.payload) == msgpack.packb(full(payload=payload).payload)


def sorted_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: sorted_keys(value[key]) for key in sorted(value)}
    return [sorted_keys(item) for item in value] if isinstance(value, list) else value


def test_a_round_trip_through_a_dict_is_equal() -> None:
    for message in (full({"z": 1, "a": [b"x"]}).sign(ALICE), full({"z": 1}), Message(), Message().sign(ALICE)):
        back = Message.from_dict(json.loads(json.dumps(message.to_dict())))
        assert back == message
        assert back.verify() is message.is_signed


def test_the_dict_reads_well() -> None:
    data = Message("m1", "", "bob", [Topic("a", {"k": b"x"})], {"b": b"x", "n": math.inf}, "t", 5).sign(ALICE).to_dict()
    signature = data.pop("signature")
    assert data == {
        "id": "m1",
        "sender": ALICE.fingerprint,
        "recipient": "bob",
        "topics": [{"namespace": "a", "attributes": {"k": {"$bytes": "eA=="}}, "version": "1.0"}],
        "payload": {"b": {"$bytes": "eA=="}, "n": {"$float": "7ff0000000000000"}},
        "task_id": "t",
        "timestamp": 5,
        "headers": {},
        "public_key": ALICE.public_key.hex(),
    }
    assert isinstance(signature, str)
    assert len(signature) == 128


def test_the_body_is_carried_only_when_it_could_not_be_made_again() -> None:
    assert "body" not in Message(payload={"a": 1, "b": 2}).sign(ALICE).to_dict()
    for message in (Message(payload={"b": 1, "a": 2}).sign(ALICE), foreign()):
        assert "body" in message.to_dict()
        back = Message.from_dict(json.loads(json.dumps(message.to_dict())))
        assert back == message
        assert back.verify()
        assert back.to_bytes() == message.to_bytes()


def test_a_dict_whose_fields_differ_from_the_signed_body_is_refused() -> None:
    good = Message(payload={"b": 1, "a": 2}, headers={"ttl_ms": 1}).sign(ALICE).to_dict()
    assert "body" in good
    for name, value in [("payload", {"b": True, "a": 2}), ("id", "x"), ("headers", {}), ("timestamp", 1)]:
        with pytest.raises(MessageDecodeError, match="not those of the signed body"):
            Message.from_dict({**good, name: value})
    other = Message(payload={"b": 1, "a": 2}).sign(BOB)
    with pytest.raises(MessageDecodeError):
        Message.from_dict({**good, "sender": BOB.fingerprint, "public_key": BOB.public_key.hex()})
    with pytest.raises(MessageDecodeError):
        Message.from_dict({**good, "body": other.to_dict()["body"]})


def test_an_altered_dict_does_not_verify() -> None:
    good = Message("m", payload={"a": 1}).sign(ALICE).to_dict()
    assert Message.from_dict(good).verify()
    for name, value in [
        ("payload", {"a": True}),
        ("id", "x"),
        ("timestamp", 1),
        ("recipient", "eve"),
        ("signature", "00" * 64),
    ]:
        assert not Message.from_dict({**good, name: value}).verify()


def test_a_message_changed_in_place_is_written_down_as_it_is_and_does_not_verify() -> None:
    signed = Message(payload={"b": 1, "a": 2}).sign(ALICE)
    signed.payload["b"] = 3
    back = Message.from_dict(signed.to_dict())
    assert back.payload == {"b": 3, "a": 2}
    assert not back.verify()


BASE: dict[Any, Any] = {"id": "m", "sender": "s", "payload": {}, "timestamp": 1}


@pytest.mark.parametrize(
    "bad",
    [
        None,
        [],
        "text",
        {},
        {"id": "m", "sender": "s", "payload": {}},
        {**BASE, "extra": 1},
        {**BASE, 7: 1},
        {**BASE, "id": 1},
        {**BASE, "id": ""},
        {**BASE, "sender": None},
        {**BASE, "recipient": 7},
        {**BASE, "payload": None},
        {**BASE, "payload": []},
        {**BASE, "payload": {"x": b"bytes"}},
        {**BASE, "payload": {"x": (1,)}},
        {**BASE, "payload": {"x": {"$bytes": "%"}}},
        {**BASE, "payload": {"$bytes": ""}},
        {**BASE, "payload": {"x": 2**64}},
        {**BASE, "payload": {"x": "\ud800"}},
        {**BASE, "timestamp": 1.5},
        {**BASE, "timestamp": True},
        {**BASE, "topics": {}},
        {**BASE, "topics": ["a"]},
        {**BASE, "topics": [{"namespace": ""}]},
        {**BASE, "topics": [{"namespace": "a", "x": 1}]},
        {**BASE, "headers": []},
        {**BASE, "headers": {"nope": 1}},
        {**BASE, "headers": {1: 1}},
        {**BASE, "signature": 7},
        {**BASE, "signature": "zz"},
        {**BASE, "public_key": "00"},
        {**BASE, "public_key": "00" * 32},
        {**BASE, "public_key": ALICE.public_key.hex()},
        {**BASE, "sender": ALICE.fingerprint, "public_key": ALICE.public_key.hex()},
        {**BASE, "sender": ALICE.fingerprint, "public_key": ALICE.public_key.hex(), "signature": "00"},
        {**BASE, "body": "00"},
    ],
)
def test_a_dict_that_is_no_message_is_a_decode_error(bad: Any) -> None:
    with pytest.raises(MessageDecodeError):
        Message.from_dict(bad)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.just("$bytes"), inner, max_size=2)
    ),
    max_leaves=6,
)


@given(
    st.sampled_from([*BASE, "recipient", "topics", "task_id", "headers", "signature", "public_key", "body", "?"]),
    json_values,
)
@settings(max_examples=400)
def test_a_dict_with_any_value_anywhere_is_read_or_refused(name: str, value: Any) -> None:
    for base in (BASE, Message(payload={"b": 1, "a": b"x"}).sign(ALICE).to_dict()):
        try:
            message = Message.from_dict({**base, name: value})
        except MessageDecodeError:
            continue
        assert message.verify() in (True, False)
        assert isinstance(message.payload, dict)
