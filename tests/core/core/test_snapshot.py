from __future__ import annotations

from typing import Any

import pytest

from converge.core import ed25519
from converge.core.errors import SigningError
from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.snapshot import Snapshot
from converge.core.topic import Topic

ALICE = Identity.generate()


def full(**changes: Any) -> Message:
    fields: dict[str, Any] = {
        "recipient": "bob",
        "topics": [Topic("a", {"k": 1})],
        "payload": {"list": [1, {"k": b"\xff"}], "float": 2.5},
        "task_id": "t1",
        "headers": {"in_reply_to": "m0", "ttl_ms": 500},
    }
    return Message(**(fields | changes))


@pytest.mark.parametrize(
    "message", [full(), full(sender="anybody"), full().sign(ALICE), Message(), Message().sign(ALICE)]
)
def test_a_copy_is_equal_to_what_a_frame_would_bring(message: Message) -> None:
    copy = Snapshot(message).message()
    assert copy == message == Message.from_bytes(message.to_bytes())
    assert type(copy) is Message
    assert copy.to_bytes() == message.to_bytes()
    assert copy.verify() is message.is_signed


@pytest.mark.parametrize("signed", [False, True])
def test_each_copy_has_a_payload_of_its_own_from_the_moment_of_the_snapshot(signed: bool) -> None:
    message = full().sign(ALICE) if signed else full()
    snapshot = Snapshot(message)
    message.payload["list"].append("later")
    first, second = snapshot.message(), snapshot.message()
    first.payload["list"][1]["k"] = "changed"
    assert second.payload == {"list": [1, {"k": b"\xff"}], "float": 2.5}
    assert second.verify() is signed
    assert not first.verify()
    assert not message.verify()


def test_what_one_receiver_has_verified_no_other_verifies_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[bytes, ...]] = []
    really = ed25519.verify

    def counted(*triple: bytes) -> bool:
        asked.append(triple)
        return really(*triple)

    monkeypatch.setattr(ed25519, "verify", counted)
    frame = full().sign(ALICE).to_bytes()
    snapshot = Snapshot(Message.from_bytes(frame))
    assert [snapshot.message().verify() for _ in range(5)] == [True] * 5
    assert len(asked) == 1
    assert all(Snapshot(full().sign(ALICE)).message().verify() for _ in range(5))
    assert len(asked) == 1


def test_a_copy_of_a_forged_message_does_not_verify() -> None:
    frame = bytearray(full().sign(ALICE).to_bytes())
    frame[-1] ^= 1
    snapshot = Snapshot(Message.from_bytes(bytes(frame)))
    assert not snapshot.message().verify()
    assert not snapshot.message().verify()


@pytest.mark.parametrize(
    "message", [full(), full().sign(ALICE), Message(payload={"x": bytes(300)}), Message().sign(ALICE)]
)
def test_the_size_is_that_of_the_frame(message: Message) -> None:
    size = len(message.to_bytes())
    snapshot = Snapshot(message)
    assert snapshot.frame_size() == size
    assert snapshot.fits(size)
    assert not snapshot.fits(size - 1)


def test_the_largest_addresses_stay_below_what_is_reckoned_for_them() -> None:
    text, header = "é" * 512, "x" * 1024
    headers: dict[str, str | int] = {"enc": header, "in_reply_to": header, "traceparent": header, "ttl_ms": 2**63 - 1}
    message = Message(text, text, text, (), {"x": bytes(70_000)}, text, 2**63 - 1, headers=headers)
    assert not Snapshot(message).fits(len(message.to_bytes()) - 1)
    assert len(message.to_bytes()) < 70_000 + 8192


def test_what_cannot_travel_is_refused_as_by_to_bytes() -> None:
    with pytest.raises(TypeError, match=r"payload\.x: builtins\.set is not plain data"):
        Snapshot(Message(payload={"x": {1}}))
    with pytest.raises(SigningError, match="sign it again"):
        Snapshot(Message(signature=bytes(64)))
    large = Snapshot(Message(payload={"x": bytes(2**20)}))
    assert not large.fits(2**20)
    with pytest.raises(ValueError, match="put large data in a store"):
        large.frame_size()


def test_copies_of_a_subclass_are_of_that_subclass() -> None:
    class Order(Message):
        pass

    order = Order(payload={"n": 1}).sign(ALICE)
    assert type(order) is Order
    assert type(Snapshot(order).message()) is Order
    assert Snapshot(order).message() == order
    assert Order.open(order.to_bytes()).verify()
