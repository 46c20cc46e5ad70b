"""Mutated frames against the decoder: nothing that was not signed is accepted, and nothing but the one error leaves it.

The independent reader says for every frame what has to come of it.
"""

from __future__ import annotations

import random
import struct
import time
from collections import Counter
from typing import Any

import msgpack
import pytest

from converge.core import wire
from converge.core.errors import MessageDecodeError
from converge.core.identity import Identity
from converge.core.merkle import leaf_hash
from converge.core.message import Message, sign_batch
from converge.core.topic import Topic
from tests.core.core.independent_wire import Refused, opened

ALICE = Identity.generate()
MALLORY = Identity.generate()
MOST_SECONDS = 0.1

JUNK: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 1.5, float("nan"), float("inf"), "", "x",
    "x" * 1025, "\x00", "é", b"", b"\xff" * 8, bytes(32), [], {}, [[]], {"a": {}}, [None], {"1": 2}, {1: 2},
    msgpack.ExtType(1, b"x"), msgpack.Timestamp(1), [["a", {}, "1"]], {"ttl_ms": -1}, {"enc": ""}, [[[[[[]]]]]],
]  # fmt: skip


def frames() -> list[bytes]:
    draft = Message(
        "m1", "", "bob", [Topic("a", {"k": 1, "b": b"\x00"})], {"x": [1, {"y": "z"}], "f": 2.5}, "t", 1_700_000_000_000,
        headers={"ttl_ms": 60_000, "in_reply_to": "m0", "traceparent": "00-1-2-01"},
    )  # fmt: skip
    sealed = Message(sender=ALICE.fingerprint, payload={"secret": b"\xff"}).encrypt_payload(bytes(32))
    signed = [draft.sign(ALICE), Message().sign(ALICE), sealed.sign(ALICE)]
    for size in (2, 3, 5, 64):
        signed += sign_batch([Message(f"b{size} {n}", payload={"n": n}) for n in range(size)], ALICE)[:5]
    return [message.to_bytes() for message in signed] + [draft.evolve(sender="anybody").to_bytes()]


class Mutator:
    def __init__(self, seed: int) -> None:
        self.numbers = random.Random(seed)
        self.frames = frames()
        self.bodies = {wire.split(frame)[0] for frame in self.frames if wire.split(frame)[1]}

    def next(self) -> bytes:
        frame, roll = self.numbers.choice(self.frames), self.numbers.random()
        if roll < 0.30:
            return self.bytes_changed(frame)
        body, field = wire.split(frame)
        if roll < 0.40:
            return wire.join(self.typed(body), field)
        if roll < 0.50:
            return wire.join(self.typed(self.as_anybody(body)), b"")
        if roll < 0.70:
            return wire.join(body, self.field_changed(field))
        return self.truly_signed(self.typed(self.as_mallory(body)))

    def bytes_changed(self, frame: bytes) -> bytes:
        data, numbers = bytearray(frame), self.numbers
        for _ in range(numbers.randint(1, 4)):
            at = numbers.randrange(len(data) + 1)
            match numbers.randrange(7):
                case 0 if at < len(data):
                    data[at] ^= 1 << numbers.randrange(8)
                case 1 if at < len(data):
                    data[at] = numbers.randrange(256)
                case 2:
                    data[at:at] = numbers.randbytes(numbers.randint(1, 9))
                case 3:
                    del data[at : at + numbers.randint(1, 9)]
                case 4:
                    del data[at:]
                case 5:
                    other = numbers.choice(self.frames)
                    data[at:] = other[numbers.randrange(len(other)) :]
                case _:
                    data[at:at] = data[at : at + numbers.randint(1, 40)]
        return bytes(data)

    def typed(self, body: bytes) -> bytes:
        """A well-formed body with something else somewhere in it, the packed payload included."""
        fields = msgpack.unpackb(body)
        if self.numbers.random() < 0.5:
            payload = msgpack.unpackb(fields[9])
            packed = msgpack.packb(self.altered(payload))
            fields[9] = self.bytes_changed(packed) if self.numbers.random() < 0.3 else packed
        elif self.numbers.random() < 0.9:
            fields = self.altered(fields)
        packed_body: bytes = msgpack.packb(fields)
        return self.bytes_changed(packed_body) if self.numbers.random() < 0.2 else packed_body

    def altered(self, value: Any) -> Any:
        numbers = self.numbers
        if not isinstance(value, list | dict) or not value or numbers.random() < 0.1:
            return numbers.choice(JUNK)
        copy = dict(value) if isinstance(value, dict) else list(value)
        key = numbers.choice(list(copy) if isinstance(copy, dict) else range(len(copy)))
        copy[key] = self.altered(copy[key])
        if numbers.random() < 0.1:
            copy.pop(key)
        elif numbers.random() < 0.1 and isinstance(copy, list):
            copy.insert(numbers.randrange(len(copy) + 1), numbers.choice(JUNK))
        elif numbers.random() < 0.1 and isinstance(copy, dict):
            copy[numbers.choice(["extra", "ttl_ms", "é"])] = numbers.choice(JUNK)
        return copy

    def field_changed(self, field: bytes) -> bytes:
        numbers = self.numbers
        index, size = struct.unpack(">II", field[64:72]) if len(field) > 72 else (0, 1)
        path = [field[at : at + 32] for at in range(72, len(field), 32)]
        match numbers.randrange(8):
            case 0:
                index = numbers.choice([0, 1, index ^ 1, index + 1, size, 2**32 - 1])
            case 1:
                size = numbers.choice([0, 1, 2, size + 1, size - 1, 2**16, 2**16 + 1, 2**32 - 1]) % 2**32
            case 2 if path:
                path[numbers.randrange(len(path))] = numbers.randbytes(32)
            case 3:
                path = path[: numbers.randrange(len(path) + 1)]
            case 4:
                path = [*path, *[numbers.randbytes(32)] * numbers.randint(1, 17)]
            case 5:
                numbers.shuffle(path)
            case 6:
                return wire.split(numbers.choice(self.frames))[1]
            case _:
                return self.bytes_changed(field or bytes(64))
        return field[:64] + struct.pack(">II", index, size) + b"".join(path)

    def as_mallory(self, body: bytes) -> bytes:
        fields = msgpack.unpackb(body)
        fields[1:3] = [MALLORY.public_key, None]
        packed: bytes = msgpack.packb(fields)
        return packed

    def as_anybody(self, body: bytes) -> bytes:
        fields = msgpack.unpackb(body)
        fields[1:3] = [None, "anybody"]
        packed: bytes = msgpack.packb(fields)
        return packed

    def truly_signed(self, body: bytes) -> bytes:
        """Mallory may sign anything with its own key; it is then its own, or no message."""
        return wire.join(body, MALLORY.sign(wire.signed_bytes(leaf_hash(body))))


def read(frame: bytes) -> tuple[Message | None, Message | None]:
    results: list[Message | None] = []
    for reader in (Message.open, Message.from_bytes):
        before, text = time.thread_time(), "read"
        try:
            results.append(reader(frame))
        except MessageDecodeError as error:
            text = str(error)
            results.append(None)
        assert 0 < len(text) < 1000, frame.hex()
        assert time.thread_time() - before < MOST_SECONDS, frame.hex()
    return results[0], results[1]


def same(a: Any, b: Any) -> bool:
    """Equal in value and type; NaN is NaN."""
    return bool(msgpack.packb(a) == msgpack.packb(b))


def run(seed: int, count: int) -> Counter[str]:
    mutator, seen = Mutator(seed), Counter[str]()
    for _ in range(count):
        frame = mutator.next()
        strict, lenient = read(frame)
        try:
            fields = opened(frame)
        except Refused:
            assert strict is None, frame.hex()
            seen["refused"] += 1
            assert lenient is None or not lenient.verify(), frame.hex()
            continue
        body, field = wire.split(frame)
        assert lenient is not None, frame.hex()
        values = [lenient.public_key, lenient.sender, lenient.id, lenient.recipient, lenient.timestamp, lenient.task_id]
        assert same(values, [*fields[1:5], *fields[6:8]]), frame.hex()
        assert same([lenient.payload, dict(lenient.headers)], [fields[9], fields[8]]), frame.hex()
        if not field:
            assert strict is None
            assert not lenient.verify()
            seen["unsigned"] += 1
            continue
        assert strict is not None
        assert strict.verify()
        assert lenient.verify()
        assert same(strict.payload, fields[9])
        if strict.public_key == MALLORY.public_key:
            seen["of Mallory, who signed it"] += 1
        else:
            assert body in mutator.bodies, frame.hex()
            seen["unchanged body"] += 1
    return seen


def assert_reached_all(seen: Counter[str], count: int) -> None:
    assert seen.total() == count
    assert seen["refused"] > count * 0.5
    for kind in ("unsigned", "of Mallory, who signed it", "unchanged body"):
        assert seen[kind] > count * 0.005, seen


@pytest.mark.parametrize("seed", range(10))
def test_a_hundred_thousand_mutated_frames_are_read_as_the_page_says_or_refused(seed: int) -> None:
    assert_reached_all(run(seed, 10_000), 10_000)
