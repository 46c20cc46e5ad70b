from __future__ import annotations

import hashlib
import pickle
import struct
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from converge.core import wire
from converge.core.errors import ConvergeError, MessageDecodeError
from converge.core.identity import Identity
from converge.core.limits import (
    DEFAULT_FRAME_BYTES,
    MAX_FRAME_BYTES,
    check_count,
    check_headers,
    check_text,
    pack_value,
)
from converge.core.message import Message
from converge.core.topic import Topic

ALICE = Identity(bytes.fromhex("03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"), bytes(range(32)))
FIELDS: list[Any] = [1, None, "alice", "m1", "bob", [["a", {"k": 1}, "1.0"]], 1000, "t1", {}, msgpack.packb({"x": 1})]


def unsigned(**changes: Any) -> bytes:
    names = ["version", "key", "sender", "id", "recipient", "topics", "timestamp", "task_id", "headers", "payload"]
    fields = [changes.get(name, value) for name, value in zip(names, FIELDS, strict=True)]
    return msgpack.packb([msgpack.packb(fields), b""])  # type: ignore[no-any-return]  # msgpack has no types


def signed_frame(body: bytes) -> bytes:
    """A frame of any bytes as body, truly signed."""
    return wire.join(body, ALICE.sign(wire.signed_bytes(hashlib.sha256(b"\x00" + body).digest())))


def batch(count: int) -> tuple[list[bytes], bytes, list[list[bytes]]]:
    """Bodies of `count` messages, one signature over all, and the path of each; written from RFC 9162 section 2.1."""
    bodies = [
        wire.split(Message(id=f"m{n}", timestamp=n, payload={"n": n}).sign(ALICE).to_bytes())[0] for n in range(count)
    ]
    level = [(hashlib.sha256(b"\x00" + body).digest(), [number]) for number, body in enumerate(bodies)]
    paths: list[list[bytes]] = [[] for _ in bodies]
    while len(level) > 1:
        above = []
        for (left, mine), (right, theirs) in zip(level[::2], level[1::2], strict=False):
            for number in mine:
                paths[number].append(right)
            for number in theirs:
                paths[number].append(left)
            above.append((hashlib.sha256(b"\x01" + left + right).digest(), mine + theirs))
        level = above + level[len(above) * 2 :]
    return bodies, ALICE.sign(b"converge/message/v1\0" + level[0][0]), paths


def field_of(signature: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    return signature + struct.pack(">II", index, size) + b"".join(path)


def test_a_frame_splits_into_what_it_was_joined_from() -> None:
    for size in (0, 1, 255, 256, 65535, 65536):
        assert wire.split(wire.join(bytes(size), b"s")) == (bytes(size), b"s")
    assert wire.split(bytearray(wire.join(b"b", b"s"))) == (b"b", b"s")
    assert wire.split(memoryview(wire.join(b"b", b"s"))) == (b"b", b"s")


@pytest.mark.parametrize("size", [DEFAULT_FRAME_BYTES, MAX_FRAME_BYTES])
def test_a_frame_may_have_exactly_the_limit(size: int) -> None:
    frame = wire.join(bytes(size - 8), b"")
    assert len(frame) == size
    assert wire.split(frame, size)[0] == bytes(size - 8)
    with pytest.raises(MessageDecodeError, match=f"the limit is {size - 1}"):
        wire.split(frame, size - 1)


def test_the_default_limit_is_256_kib() -> None:
    with pytest.raises(MessageDecodeError, match="the limit is 262144"):
        Message.from_bytes(bytes(256 * 1024 + 1))


@pytest.mark.parametrize("max_size", [0, -1, MAX_FRAME_BYTES + 1])
def test_a_limit_out_of_bounds_is_a_value_error(max_size: int) -> None:
    with pytest.raises(ValueError, match="max_size"):
        wire.split(b"\x92", max_size)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x92",
        b"\x92\xc4",
        b"\x92\xc4\x00",
        b"\x92\xc4\x05ab\xc4\x00",
        b"\x92\xc6\x7f\xff\xff\xff",
        b"\x92\xc6\x80\x00\x00\x00\xc4\x00",
        b"\x92\xc6\xff\xff\xff\xff\xc4\x00",
        b"\x92\xc4\x00\xc4\x00\x00",
        b"\x91\xc4\x00",
        b"\x93\xc4\x00\xc4\x00\xc4\x00",
        b"\xdc\x00\x02\xc4\x00\xc4\x00",
        b"\x92\xa0\xa0",
        b"\x92\xc0\xc0",
        b"\x82\xc4\x00\xc4\x00",
        "text",
        None,
        7,
    ],
)
def test_what_is_no_frame_is_a_decode_error(frame: Any) -> None:
    for read in (wire.split, Message.from_bytes, Message.open):
        with pytest.raises(MessageDecodeError):
            read(frame)


def test_a_decode_error_is_a_value_error_of_converge() -> None:
    assert issubclass(MessageDecodeError, ValueError)
    assert issubclass(MessageDecodeError, ConvergeError)
    assert issubclass(wire.SignatureError, MessageDecodeError)


def test_a_signature_error_says_why_and_pickles() -> None:
    for reason in ("unsigned", "invalid"):
        error = wire.SignatureError(reason)
        again = pickle.loads(pickle.dumps(error))
        assert (again.reason, str(again)) == (reason, str(error))


def test_the_control_frame_is_read() -> None:
    message = Message.from_bytes(unsigned())
    assert message == Message("m1", "alice", "bob", [Topic("a", {"k": 1})], {"x": 1}, "t1", 1000)


MALFORMED: dict[str, dict[str, Any]] = {
    "another version": {"version": 2},
    "a version that is True": {"version": True},
    "a version that is 1.0": {"version": 1.0},
    "a key without signature": {"key": bytes(32), "sender": None},
    "a key that is text": {"key": "k" * 32},
    "a short key": {"key": bytes(31), "sender": None},
    "nil sender": {"sender": None},
    "bytes sender": {"sender": b"alice"},
    "long sender": {"sender": "a" * 1025},
    "int id": {"id": 7},
    "empty id": {"id": ""},
    "long id": {"id": "é" * 513},
    "list recipient": {"recipient": []},
    "empty recipient": {"recipient": ""},
    "bytes task id": {"task_id": b"t"},
    "empty task id": {"task_id": ""},
    "topics nil": {"topics": None},
    "topics map": {"topics": {}},
    "topic str": {"topics": ["a"]},
    "topic of two": {"topics": [["a", {}]]},
    "topic of four": {"topics": [["a", {}, "1", 1]]},
    "topic without name": {"topics": [["", {}, "1"]]},
    "topic with int version": {"topics": [["a", {}, 1]]},
    "topic attributes list": {"topics": [["a", [], "1"]]},
    "topic attributes too big an int": {"topics": [["a", {"k": 2**64 - 1}, "1"]]},
    "topic attributes ext": {"topics": [["a", {"k": msgpack.ExtType(5, b"")}, "1"]]},
    "65 topics": {"topics": [["a", {}, "1"]] * 65},
    "bool timestamp": {"timestamp": True},
    "float timestamp": {"timestamp": 1.0},
    "negative timestamp": {"timestamp": -1},
    "timestamp 2**63": {"timestamp": 2**63},
    "headers nil": {"headers": None},
    "unknown header": {"headers": {"x-new": 1}},
    "header ttl text": {"headers": {"ttl_ms": "1"}},
    "header ttl bool": {"headers": {"ttl_ms": True}},
    "header ttl negative": {"headers": {"ttl_ms": -1}},
    "header reply int": {"headers": {"in_reply_to": 1}},
    "header trace nil": {"headers": {"traceparent": None}},
    "header enc empty": {"headers": {"enc": ""}},
    "payload nil": {"payload": None},
    "payload map in place": {"payload": {"x": 1}},
    "payload empty": {"payload": b""},
    "payload list": {"payload": msgpack.packb([1])},
    "payload trailing byte": {"payload": msgpack.packb({}) + b"\x00"},
    "payload int keys": {"payload": msgpack.packb({1: 1})},
    "payload bytes keys": {"payload": msgpack.packb({b"a": 1})},
    "payload too big an int": {"payload": msgpack.packb({"a": 2**63})},
    "payload ext": {"payload": b"\x81\xa1a\xd4\x05\x00"},
    "payload empty ext": {"payload": b"\x81\xa1a\xc7\x00\x05"},
    "payload time": {"payload": b"\x81\xa1a\xd6\xff\x00\x00\x00\x00"},
    "payload bad utf-8": {"payload": b"\x81\xa1a\xa1\xff"},
    "payload surrogate": {"payload": b"\x81\xa1a\xa3\xed\xa0\x80"},
    "payload duplicate keys": {"payload": b"\x82\xa1a\x01\xa1a\x02"},
    "payload nested duplicate keys": {"payload": b"\x81\xa1x\x82\xa1a\x01\xa1a\x02"},
    "payload never used byte": {"payload": b"\x81\xa1a\xc1"},
    "payload array of 2**32-1": {"payload": b"\x81\xa1a\xdd\xff\xff\xff\xff"},
    "payload map of 2**31": {"payload": b"\xdf\x80\x00\x00\x00"},
    "payload 10,001 elements": {"payload": msgpack.packb({"a": [0] * 10_001})},
    "payload 10,001 entries": {"payload": msgpack.packb({str(n): 0 for n in range(10_001)})},
    "payload 2,000 deep": {"payload": b"\x81\xa1a" + b"\x91" * 2000 + b"\xc0"},
    "payload 65 deep": {"payload": b"\x81\xa1a" + b"\x91" * 64 + b"\xc0"},
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_body_is_a_decode_error(name: str) -> None:
    frame = unsigned(**MALFORMED[name])
    with pytest.raises(MessageDecodeError) as caught:
        Message.from_bytes(frame)
    assert 0 < len(str(caught.value)) < 400


def test_duplicate_headers_and_attributes_are_refused() -> None:
    for old, new in [
        (msgpack.packb({}) + msgpack.packb(FIELDS[9]), b"\x82\xa6ttl_ms\x01\xa6ttl_ms\x02" + msgpack.packb(FIELDS[9])),
        (msgpack.packb({"k": 1}), b"\x82\xa1k\x01\xa1k\x02"),
    ]:
        body = msgpack.packb(FIELDS)
        assert body.count(old) == 1
        with pytest.raises(MessageDecodeError, match="same key twice"):
            Message.from_bytes(wire.join(body.replace(old, new), b""))


def test_the_limits_themselves_are_allowed() -> None:
    allowed = {
        "id": "é" * 512,
        "topics": [["a" * 1024, {str(n): n for n in range(100)}, "1"]] * 64,
        "timestamp": 2**63 - 1,
        "headers": {"ttl_ms": 0, "in_reply_to": "m", "traceparent": "00-1-2-3", "enc": "other"},
        "payload": b"\x82\xa1a" + b"\x91" * 63 + b"\xc0\xa1b" + msgpack.packb([0] * 10_000),
    }
    message = Message.from_bytes(unsigned(**allowed))
    assert message.timestamp == 2**63 - 1
    assert Message.from_bytes(message.to_bytes()) == message


def test_nothing_is_made_that_would_not_be_read() -> None:
    nested: Any = None
    for _ in range(64):
        nested = [nested]
    for payload, kind in [
        ({"x": {1, 2}}, TypeError),
        ({"x": nested}, TypeError),
        ({"x": [0] * 10_001}, ValueError),
        ({"x": {"y": {str(n): 0 for n in range(10_001)}}}, ValueError),
        ({"x": bytes(MAX_FRAME_BYTES)}, ValueError),
    ]:
        for make in (lambda: Message(payload=payload).sign(ALICE), lambda: Message(payload=payload).to_bytes()):  # noqa: B023  # called at once
            with pytest.raises(kind):
                make()


def test_the_largest_message_that_can_be_made_can_be_read() -> None:
    room = MAX_FRAME_BYTES - 9 - 584
    size = room - len(
        wire.split(Message("m", payload={"x": bytes(70_000)}, timestamp=0).sign(ALICE).to_bytes(), MAX_FRAME_BYTES)[0]
    )
    largest = Message("m", payload={"x": bytes(70_000 + size)}, timestamp=0)
    assert Message.open(largest.sign(ALICE).to_bytes(), max_size=MAX_FRAME_BYTES).verify()
    with pytest.raises(ValueError, match="put large data in a store"):
        largest.evolve(payload={"x": bytes(70_001 + size)}).sign(ALICE)


def test_a_signed_body_shows_its_signer_before_it_is_decoded() -> None:
    body, signature = wire.split(Message(payload={}).sign(ALICE).to_bytes())
    assert body.startswith(bytes.fromhex("9a01c420") + ALICE.public_key + b"\xc0")
    assert wire.signer_of(body) == ALICE.public_key
    assert wire.verify(body, signature)
    assert wire.signer_of(wire.split(Message(payload={}).to_bytes())[0]) is None
    for cut in range(37):
        assert wire.signer_of(body[:cut]) is None


def test_a_key_written_in_another_form_is_refused() -> None:
    body, signature = wire.split(Message(payload={}).sign(ALICE).to_bytes())
    other = body.replace(b"\x9a\x01\xc4\x20", b"\x9a\x01\xc5\x00\x20", 1)
    assert not wire.verify(other, signature)
    with pytest.raises(MessageDecodeError, match="begins with"):
        Message.from_bytes(wire.join(other, signature))


def test_a_signed_body_names_no_sender() -> None:
    body = msgpack.packb([1, ALICE.public_key, ALICE.fingerprint, *FIELDS[3:]])
    with pytest.raises(MessageDecodeError, match="nil sender"):
        Message.open(signed_frame(body))


def test_the_signature_is_checked_before_anything_is_decoded() -> None:
    garbage = b"\x9a\x01\xc4\x20" + ALICE.public_key + b"\xc1" * 50
    with pytest.raises(wire.SignatureError) as invalid:
        Message.open(wire.join(garbage, bytes(64)))
    assert invalid.value.reason == "invalid"
    with pytest.raises(MessageDecodeError) as truly_signed:
        Message.open(signed_frame(garbage))
    assert not isinstance(truly_signed.value, wire.SignatureError)


def test_a_forged_bomb_costs_no_memory() -> None:
    bomb = b"\x9a\x01\xc4\x20" + ALICE.public_key + b"\x80" * 250_000
    frame = wire.join(bomb, bytes(64))
    tracemalloc.start()
    try:
        for _ in range(20):
            with pytest.raises(wire.SignatureError):
                Message.open(frame)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(frame)


def test_open_wants_a_signature() -> None:
    with pytest.raises(wire.SignatureError) as unsigned_error:
        Message.open(unsigned())
    assert unsigned_error.value.reason == "unsigned"
    opened = Message.open(Message("m1", payload={"x": 1}).sign(ALICE).to_bytes())
    assert opened.sender == ALICE.fingerprint
    assert opened.verify()


def test_a_signature_made_for_another_purpose_is_none_of_a_message() -> None:
    body, _ = wire.split(Message(payload={}).sign(ALICE).to_bytes())
    root = hashlib.sha256(b"\x00" + body).digest()
    assert wire.PURPOSE == b"converge/message/v1\0"
    for data in (body, root, b"converge/hello/v1\0" + root, b"converge/message/v2\0" + root):
        assert not wire.verify(body, ALICE.sign(data))
    assert wire.verify(body, ALICE.sign(b"converge/message/v1\0" + root))


@pytest.mark.parametrize("count", [2, 3, 5, 16, 33])
def test_one_signature_serves_every_message_of_a_batch(count: int) -> None:
    bodies, signature, paths = batch(count)
    for number, body in enumerate(bodies):
        field = field_of(signature, number, count, paths[number])
        message = Message.open(wire.join(body, field))
        assert message.id == f"m{number}"
        assert message.signature == field
        assert Message.from_dict(message.to_dict()).verify()
        assert not wire.verify(bodies[number - 1], field)


def test_any_changed_bit_of_a_batch_signature_is_noticed() -> None:
    bodies, signature, paths = batch(5)
    field = field_of(signature, 3, 5, paths[3])
    assert wire.verify(bodies[3], field)
    for bit in range(len(field) * 8):
        changed = bytearray(field)
        changed[bit // 8] ^= 1 << bit % 8
        if bit // 8 in range(68, 72):  # the tree size is not signed: another that gives the same path changes nothing
            assert not wire.verify(bodies[2], bytes(changed))
        else:
            assert not wire.verify(bodies[3], bytes(changed)), bit


def test_a_signature_field_has_one_form_only() -> None:
    bodies, signature, paths = batch(2)
    lone = Message(payload={}).sign(ALICE)
    good = field_of(signature, 1, 2, paths[1])
    assert wire.verify(bodies[1], good)
    bad = {
        "a tree of one, spelled out": lone.signature + struct.pack(">II", 0, 1),
        "a path for a tree of one": field_of(signature, 0, 1, paths[1]),
        "no path": field_of(signature, 1, 2, []),
        "a longer path": field_of(signature, 1, 2, [*paths[1], bytes(32)]),
        "an index outside": field_of(signature, 2, 2, paths[1]),
        "an empty tree": field_of(signature, 0, 0, paths[1]),
        "a tree above the cap": field_of(signature, 0, 2**16 + 1, [bytes(32)] * 17),
        "a cut path": good[:-1],
        "a byte more": good + b"\0",
        "63 bytes": good[:63],
        "a missing tree": good[:64] + paths[1][0],
    }
    for name, field in bad.items():
        with pytest.raises(MessageDecodeError):
            wire.parse_signature(field)
        assert not wire.verify(bodies[1], field), name
        with pytest.raises(MessageDecodeError):
            Message.from_bytes(wire.join(bodies[1], field))
    assert wire.parse_signature(field_of(signature, 0, 2**16, [bytes(32)] * 16)).size == 2**16


def test_a_relay_reads_the_addresses_without_the_payload() -> None:
    frame = Message("m1", recipient="bob", payload={"x": 1}, headers={"ttl_ms": 5}).sign(ALICE).to_bytes()
    body = wire.decode_body(wire.split(frame)[0])
    assert (body.sender, body.recipient, body.headers, body.payload) == (
        ALICE.fingerprint,
        "bob",
        {"ttl_ms": 5},
        msgpack.packb({"x": 1}),
    )


def test_checks_name_the_place() -> None:
    with pytest.raises(TypeError, match=r"payload\.a\[1\]: builtins\.set"):
        pack_value({"a": [0, {1}]}, "payload")
    with pytest.raises(TypeError, match="id must be a str, not int"):
        check_text(1, "id")
    with pytest.raises(TypeError, match="timestamp must be an int, not bool"):
        check_count(True, "timestamp")
    with pytest.raises(ValueError, match="'nope' is no header of wire format 1; known ones are enc, in_reply_to"):
        check_headers({"nope": 1})


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(st.integers(0, 9), values, st.booleans())
@example(9, b"\x80", True)
@settings(max_examples=600)
def test_a_body_with_any_value_anywhere_is_read_or_refused(place: int, value: Any, signed: bool) -> None:
    fields = [*FIELDS]
    if signed:
        fields[1:3] = [ALICE.public_key, None]
    fields[place] = value
    body = msgpack.packb(fields)
    assert_read_or_refused(signed_frame(body) if signed else wire.join(body, b""))


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    assert_read_or_refused(data)
    assert_read_or_refused(wire.join(data, b""))
    assert_read_or_refused(signed_frame(data))
    assert_read_or_refused(unsigned(payload=data))


@given(st.data())
@settings(max_examples=400)
def test_a_signed_frame_with_changed_bytes_is_never_opened_as_something_else(data: st.DataObject) -> None:
    message = Message(
        "m1", "", "bob", [Topic("a", {"k": 1})], {"x": [1, {"y": "z"}]}, "t", 5, headers={"ttl_ms": 1}
    ).sign(ALICE)
    frame = bytearray(message.to_bytes())
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, len(frame) - 1), st.integers(0, 255)), max_size=4)):
        frame[at] = byte
    changed = bytes(frame[: data.draw(st.integers(0, len(frame)) | st.just(len(frame)))])
    assert_read_or_refused(changed)
    try:
        assert Message.open(changed) == message
    except MessageDecodeError:
        assert changed != message.to_bytes()


def assert_read_or_refused(frame: bytes) -> None:
    for read in (Message.from_bytes, Message.open):
        try:
            message = read(frame)
        except MessageDecodeError:
            continue
        assert isinstance(message.id, str)
        assert isinstance(message.sender, str)
        assert isinstance(message.payload, dict)
        assert type(message.timestamp) is int
        assert all(isinstance(topic, Topic) for topic in message.topics)
        assert message.recipient is None or isinstance(message.recipient, str)
        assert Message.from_bytes(message.to_bytes()).to_bytes() == message.to_bytes()
        assert message.to_bytes() == frame or not message.is_signed or message.verify() in (True, False)
