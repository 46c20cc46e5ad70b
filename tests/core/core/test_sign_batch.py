from __future__ import annotations

from typing import Any

import msgpack
import pytest

from converge.core import ed25519, wire
from converge.core.errors import SigningError
from converge.core.identity import Identity
from converge.core.limits import MAX_FRAME_BYTES
from converge.core.message import BATCH_SIZE, Message, sign_batch
from converge.core.topic import Topic
from converge.core.verified_trees import VerifiedTrees

ALICE, BOB = Identity.generate(), Identity.generate()


def drafts(count: int, **changes: Any) -> list[Message]:
    return [
        Message(f"m{number}", "", "bob", [Topic("a")], {"n": number, "b": b"\xff"}, timestamp=number, **changes)
        for number in range(count)
    ]


class Counted:
    """Signatures that were made or checked, by the real functions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.signed = self.verified = 0
        monkeypatch.setattr(wire, "_verified_trees", VerifiedTrees())
        sign, verify = Identity.sign, ed25519.verify

        def counting_sign(identity: Identity, data: bytes) -> bytes:
            self.signed += 1
            return sign(identity, data)

        def counting_verify(key: bytes, signature: bytes, data: bytes) -> bool:
            self.verified += 1
            return verify(key, signature, data)

        monkeypatch.setattr(Identity, "sign", counting_sign)
        monkeypatch.setattr(ed25519, "verify", counting_verify)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


@pytest.mark.parametrize("count", [*range(2, 10), 33, 63, 64])
def test_one_signature_is_made_and_checked_for_a_whole_batch(counted: Counted, count: int) -> None:
    signed = sign_batch(drafts(count), ALICE)
    assert counted.signed == 1
    for number, message in enumerate(signed):
        opened = Message.open(message.to_bytes())
        assert opened == message
        assert (opened.id, opened.payload, opened.sender) == (
            f"m{number}",
            {"n": number, "b": b"\xff"},
            ALICE.fingerprint,
        )
        assert len(message.signature) <= 64 + 8 + 6 * 32
    assert counted.verified == 1
    assert len({message.signature[:64] for message in signed}) == 1


def test_each_message_is_verified_alone_by_somebody_who_saw_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    for message in sign_batch(drafts(13), ALICE):
        monkeypatch.setattr(wire, "_verified_trees", VerifiedTrees())
        again = Message.from_bytes(message.to_bytes())
        assert again.verify()
        assert again.verify(ALICE.public_key)
        assert not again.verify(BOB.public_key)
        assert Message.from_dict(message.to_dict()).verify()


def test_a_batch_of_one_is_the_plain_signature_and_of_none_is_empty(counted: Counted) -> None:
    draft = drafts(1)[0]
    assert sign_batch([draft], ALICE) == [draft.sign(ALICE)]
    assert sign_batch([draft], ALICE)[0].to_bytes() == draft.sign(ALICE).to_bytes()
    before = counted.signed
    assert sign_batch([], ALICE) == []
    assert counted.signed == before


def test_a_larger_input_is_split_and_stays_in_order(counted: Counted) -> None:
    signed = sign_batch(iter(drafts(2 * BATCH_SIZE + 1)), ALICE)
    assert counted.signed == 3
    assert [message.id for message in signed] == [f"m{number}" for number in range(2 * BATCH_SIZE + 1)]
    assert all(Message.open(message.to_bytes()).verify() for message in signed)
    assert len(signed[-1].signature) == 64


def test_what_was_signed_here_is_not_verified_here(counted: Counted) -> None:
    assert all(message.verify() for message in sign_batch(drafts(10), ALICE))
    assert counted.verified == 0


def test_payloads_are_copies_and_the_drafts_stay_unsigned() -> None:
    given = drafts(3)
    signed = sign_batch(given, ALICE)
    given[0].payload["n"] = "changed"
    assert signed[0].payload["n"] == 0
    assert signed[0].verify()
    assert not any(message.is_signed for message in given)


class Thing:
    pass


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (Message(sender=BOB.fingerprint), SigningError),
        (Message(payload={"x": Thing()}), TypeError),
        (Message(payload={"x": bytes(MAX_FRAME_BYTES)}), ValueError),
        (Message(payload={"x": [0] * 10_001}), ValueError),
    ],
)
@pytest.mark.parametrize("at", [0, 40, 99])
def test_one_that_cannot_be_signed_stops_all_before_anything_is_signed(
    counted: Counted, wrong: Message, error: type[Exception], at: int
) -> None:
    batch = drafts(100)
    batch[at] = wrong
    with pytest.raises(error):
        wrong.sign(ALICE)
    signed = counted.signed
    with pytest.raises(error):
        sign_batch(batch, ALICE)
    assert counted.signed == signed


def test_a_public_identity_signs_no_batch() -> None:
    with pytest.raises(SigningError, match="cannot sign"):
        sign_batch(drafts(2), Identity.from_public_key(ALICE.public_key))


def test_a_signed_message_can_be_signed_again_in_a_batch() -> None:
    again = sign_batch([message.sign(ALICE) for message in drafts(3)], ALICE)
    assert all(Message.open(message.to_bytes()).verify() for message in again)


def test_a_path_does_not_serve_another_message_of_the_batch() -> None:
    one, two, three = sign_batch(drafts(3), ALICE)
    for body_of, field_of in [(one, two), (two, one), (one, three), (three, one)]:
        body, _ = wire.split(body_of.to_bytes())
        assert not wire.verify(body, field_of.signature)
        with pytest.raises(wire.SignatureError):
            Message.open(wire.join(body, field_of.signature))


def test_an_inner_node_is_no_message() -> None:
    """Whoever takes the two children of a node for a body needs another hash: leaves and nodes have their prefixes."""
    signed = sign_batch(drafts(4), ALICE)
    field = wire.parse_signature(signed[0].signature)
    body, _ = wire.split(signed[0].to_bytes())
    from converge.core.merkle import leaf_hash

    children = leaf_hash(body) + field.path[:32]
    shorter = signed[0].signature[:64] + (0).to_bytes(4, "big") + (2).to_bytes(4, "big") + field.path[32:]
    assert not wire.verify(children, shorter)


def test_a_relay_that_lies_about_the_tree_size_changes_no_body() -> None:
    message = sign_batch(drafts(5), ALICE)[1]
    body, field = wire.split(message.to_bytes())
    verdicts = {}
    for size in range(2, 40):
        verdicts[size] = wire.verify(body, field[:68] + size.to_bytes(4, "big") + field[72:])
    assert [size for size, good in verdicts.items() if good] == [5, 6, 7, 8]


def test_batches_of_two_signers_do_not_mix() -> None:
    mine, theirs = sign_batch(drafts(4), ALICE), sign_batch(drafts(4), BOB)
    assert all(Message.open(message.to_bytes()).verify() for message in mine + theirs)
    for one, other in zip(mine, theirs, strict=True):
        body, field = wire.split(one.to_bytes())
        assert not wire.verify(body, other.signature)
        assert not wire.verify(body.replace(ALICE.public_key, BOB.public_key), field)


@pytest.mark.parametrize("headers", [{}, {"in_reply_to": "m", "ttl_ms": 5, "traceparent": "00-1-2-01"}])
def test_the_signed_bytes_are_those_of_the_messages_alone(headers: dict[str, str | int]) -> None:
    for one, draft in zip(sign_batch(drafts(5, headers=headers), ALICE), drafts(5, headers=headers), strict=True):
        body, _ = wire.split(one.to_bytes())
        assert body == wire.split(draft.sign(ALICE).to_bytes())[0]
        assert msgpack.unpackb(body)[8] == headers
