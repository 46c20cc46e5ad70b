"""The message: an immutable value that can be signed, checked by anybody, sealed and written down."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from attrs import NOTHING, define, field

from converge.core import aead, ed25519, message_dict, wire
from converge.core.errors import DecryptionError, MessageDecodeError, SigningError
from converge.core.ids import new_id
from converge.core.limits import (
    DEFAULT_FRAME_BYTES,
    MAX_TOPICS,
    check_count,
    check_headers,
    check_text,
    pack_value,
    sorted_copy,
)
from converge.core.merkle import leaf_hash, tree_with_paths
from converge.core.message_draft import Draft, Seal, fill
from converge.core.plain import repack, unpack_own
from converge.core.topic import Topic

if TYPE_CHECKING:
    from converge.core.identity import Identity
    from converge.core.plain_json import Json

__all__ = ["BATCH_SIZE", "ENCRYPTION", "Message", "sign_batch"]

ENCRYPTION = "A256GCM"
"""The value of the `enc` header of an encrypted payload: AES-256-GCM under a shared key."""


BATCH_SIZE = 64
"""The most messages that `sign_batch` puts under one signature.

A larger tree saves nothing more: the share of the signature that a message bears falls below the cost of the hashes
that its longer path takes to check, and each doubling adds 32 bytes to every message.
"""

_NO_HEADERS: Mapping[str, str | int] = MappingProxyType({})
_NEW: Any = NOTHING  # a default of its own for each message
_M = TypeVar("_M", bound="Message")
_set = object.__setattr__


@define(frozen=True, init=False)
class Message(Draft):
    """One message; immutable, so that what was signed is what is read.

    With a `recipient` it is direct, with `topics` and no recipient topic-scoped, with neither a broadcast. `timestamp`
    is Unix time in milliseconds. `payload` is a dict of plain data; it is checked when the message is encoded, and a
    signed message has a copy of its own. `headers` are `in_reply_to`, `ttl_ms`, `traceparent` and `enc`.

    Raises `TypeError` or `ValueError` for a field of the wrong type or out of bounds (docs/reference/wire-format.md).
    """

    id: str
    sender: str
    recipient: str | None
    topics: tuple[Topic, ...]
    payload: dict[str, Any] = field(hash=False, repr=lambda payload: f"<{len(payload)} keys>")
    task_id: str | None
    timestamp: int
    signature: bytes = field(repr=lambda signature: f"<{len(signature)} bytes>")
    headers: Mapping[str, str | int] = field(kw_only=True, hash=False, repr=lambda headers: repr(dict(headers)))
    _seal: Seal | None = field(init=False, eq=False, repr=False)

    def __init__(
        self,
        id: str = _NEW,  # noqa: A002  # the contract's name
        sender: str = "",
        recipient: str | None = None,
        topics: Iterable[Topic] = (),
        payload: dict[str, Any] = _NEW,
        task_id: str | None = None,
        timestamp: int = _NEW,
        signature: bytes = b"",
        *,
        headers: Mapping[str, str | int] = _NO_HEADERS,
    ) -> None:
        if id is _NEW:
            id = new_id()  # noqa: A001  # as above
        else:
            check_text(id, "id")
        if sender != "":
            check_text(sender, "sender", empty=True)
        if recipient is not None:
            check_text(recipient, "recipient")
        if topics != ():
            topics = _checked_topics(topics)
        if payload is _NEW:
            payload = {}
        elif not isinstance(payload, dict):
            raise TypeError(f"payload must be a dict, not {type(payload).__name__}")
        if task_id is not None:
            check_text(task_id, "task_id")
        if timestamp is _NEW:
            timestamp = time.time_ns() // 1_000_000
        else:
            check_count(timestamp, "timestamp")
        if not isinstance(signature, bytes):
            raise TypeError(f"signature must be bytes, not {type(signature).__name__}")
        if headers is not _NO_HEADERS:
            headers = _checked_headers(headers)
        kind = self.__class__
        if kind.__base__ is not Draft:
            fill(self, id, sender, recipient, topics, payload, task_id, timestamp, signature, headers, None)
            return
        _set(self, "__class__", Draft)  # as `fill` does, which has to be called with all of it
        draft: Any = self
        draft.id, draft.sender, draft.recipient, draft.topics = id, sender, recipient, topics
        draft.payload, draft.task_id, draft.timestamp = payload, task_id, timestamp
        draft.signature, draft.headers, draft._seal = signature, headers, None
        draft.__class__ = kind

    @property
    def is_direct(self) -> bool:
        """Whether it is for one recipient."""
        return self.recipient is not None

    @property
    def is_topic_scoped(self) -> bool:
        """Whether it is for those who subscribed to one of its topics."""
        return self.recipient is None and bool(self.topics)

    @property
    def is_broadcast(self) -> bool:
        """Whether it is for everybody."""
        return self.recipient is None and not self.topics

    @property
    def in_reply_to(self) -> str | None:
        """The id of the message this one answers."""
        return self._text_header("in_reply_to")

    @property
    def traceparent(self) -> str | None:
        """The trace this message belongs to (W3C Trace Context, `traceparent`)."""
        return self._text_header("traceparent")

    @property
    def ttl_ms(self) -> int | None:
        """For how many milliseconds after `timestamp` the sender means it."""
        value = self.headers.get("ttl_ms")
        return value if isinstance(value, int) else None

    @property
    def is_signed(self) -> bool:
        """Whether it has a signature; `verify` tells whether that is a good one."""
        return bool(self.signature)

    @property
    def is_encrypted(self) -> bool:
        """Whether the payload is a ciphertext."""
        return "enc" in self.headers

    @property
    def public_key(self) -> bytes | None:
        """The sender's public key, which a signed message carries; None when unsigned."""
        return None if self._seal is None else wire.signer_of(self._seal.body)

    def evolve(self, **changes: Any) -> Self:
        """A copy with some fields changed; it is unsigned, since nobody has signed what it says now."""
        if not changes:
            return self
        return type(self)(**(self._fields() | {"signature": b""} | changes))

    def reply(self, payload: dict[str, Any], *, sender: str = "") -> Self:
        """An unsigned answer to this message: to its sender, about the same task, in the same trace.

        Raises `ValueError` when the message has no sender to answer to.
        """
        if not self.sender:
            raise ValueError("the message has no sender to reply to")
        headers: dict[str, str | int] = {"in_reply_to": self.id}
        if self.traceparent is not None:
            headers["traceparent"] = self.traceparent
        return type(self)(sender=sender, recipient=self.sender, payload=payload, task_id=self.task_id, headers=headers)

    def sign(self, identity: Identity) -> Self:
        """A copy that is signed by `identity` and has it as sender; its payload is a copy of its own.

        Encrypt first and sign then: `encrypt_payload` gives an unsigned message. Raises `SigningError` when the
        message names another sender or the identity has no private key, `TypeError` when the payload is not plain
        data, `ValueError` when the message is too large.
        """
        body, packed = self._signable(identity)
        signature = identity.sign(wire.PURPOSE + leaf_hash(body))
        return self._sealed(identity.fingerprint, signature, Seal(body, packed, True))

    def verify(self, public_key: bytes | None = None) -> bool:
        """Whether the sender signed exactly this message.

        A signed message carries its sender's key and the sender id is the hash of it, so nothing else is needed;
        `public_key` asks in addition that it be that one. A message that was changed in any way does not verify, nor
        does one whose payload was changed in place.
        """
        if public_key is not None and not isinstance(public_key, bytes):
            raise TypeError(
                f"public_key must be 32 raw bytes, not {type(public_key).__name__}; pass identity.public_key"
            )
        seal = self._seal
        if seal is None:
            return bool(self.signature) and public_key is not None and self._verify_fields(public_key)
        if (public_key is not None and public_key != self.public_key) or not self._is_intact(seal):
            return False
        if not seal.verified and wire.verify(seal.body, self.signature):
            seal.verified = True
        return seal.verified

    def to_bytes(self) -> bytes:
        """The frame that travels; of a signed message, with exactly the bytes that were signed or received.

        Raises `TypeError` when the payload is not plain data, `ValueError` when the message is too large or has a
        signature without the bytes it was made over (a signature passed to the constructor).
        """
        if self._seal is not None:
            return wire.join(self._seal.body, self.signature)
        if self.signature:
            raise SigningError("the message has a signature but not the bytes it was made over; sign it again")
        return wire.join(self._encode(None, pack_value(self.payload, "payload")), b"")

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview, max_size: int = DEFAULT_FRAME_BYTES) -> Self:
        """The message in a frame, signed or not, **without verifying it**: ask `verify()`, or use `open` instead.

        `max_size` is the limit of the frame in bytes, at most 1 MiB. Raises `MessageDecodeError` for everything that
        is not a message of wire format 1.
        """
        body, signature = wire.split(data, max_size)
        if signature:
            wire.parse_signature(signature)
        return cls._decode(body, signature, verified=False)

    @classmethod
    def open(cls, data: bytes | bytearray | memoryview, *, max_size: int = DEFAULT_FRAME_BYTES) -> Self:
        """The message in a signed frame. The signature is verified first, and nothing is decoded before it has passed.

        Raises `SignatureError` (a MessageDecodeError) when it is unsigned or the signature is not good,
        `MessageDecodeError` when it is no message for another reason.
        """
        body, signature = wire.split(data, max_size)
        if not signature:
            raise wire.SignatureError("unsigned")
        if not wire.verify(body, signature):
            raise wire.SignatureError("invalid")
        return cls._decode(body, signature, verified=True)

    def to_dict(self) -> dict[str, Json]:
        """The message as a dict that `json.dumps` takes; bytes are tagged as `converge.core.plain_json` does.

        Raises `TypeError` when the payload is not plain data.
        """
        pack_value(self.payload, "payload")
        data = message_dict.encode(self._fields() | {"topics": [topic.to_dict() for topic in self.topics]})
        seal, public_key = self._seal, self.public_key
        if seal is not None and public_key is not None:
            data["public_key"] = public_key.hex()
            if self._is_intact(seal) and self._canonical(public_key) != seal.body:
                data["body"] = seal.body.hex()
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Self:
        """The message that `to_dict` gave `data` of: equal to it, and it verifies if that did. It is not verified here.

        Raises `MessageDecodeError` for anything else: unknown or missing keys, wrong types, or fields that differ
        from the signed body that comes with them.
        """
        content = message_dict.decode(data)
        try:
            topics = [Topic.from_dict(topic) for topic in content.topics]
            message = cls(**(content.fields | {"topics": topics}))
            pack_value(message.payload, "payload")
            if content.public_key is None:
                return message
            canonical = message._canonical(content.public_key)
        except (TypeError, ValueError) as error:
            raise MessageDecodeError(f"message: {error}") from None
        if message.sender != ed25519.fingerprint_of(content.public_key):
            raise MessageDecodeError("message: the sender is not the hash of the public key")
        wire.parse_signature(message.signature)
        signed = cls._decode(canonical if content.body is None else content.body, message.signature, verified=False)
        if signed.public_key != content.public_key or signed._canonical(content.public_key) != canonical:
            raise MessageDecodeError("message: the fields are not those of the signed body")
        return signed

    def encrypt_payload(self, key: bytes) -> Self:
        """An unsigned copy whose payload is sealed with AES-256-GCM under the 32-byte `key`.

        The ciphertext is bound to sender, recipient and task id: in a message with others it does not open. Sign
        afterwards; a signature covers the ciphertext. Raises `ValueError` when there is no sender, the payload is
        encrypted already or the key has not 32 bytes.
        """
        if not self.sender:
            raise ValueError(
                "the message has no sender to bind the ciphertext to; pass sender=identity.fingerprint when you make it"
            )
        if self.is_encrypted:
            raise ValueError("the payload is encrypted already; decrypt_payload() it first")
        ciphertext = aead.encrypt(pack_value(self.payload, "payload"), key, self._associated_data())
        return self.evolve(payload={"ciphertext": ciphertext}, headers={**self.headers, "enc": ENCRYPTION})

    def decrypt_payload(self, key: bytes) -> Self:
        """A copy with the payload that was sealed under `key`. It is unsigned: verify before you decrypt.

        Raises `DecryptionError` (a ValueError) when it does not open with this key in this message, and `ValueError`
        when the payload is not encrypted.
        """
        if not self.is_encrypted:
            raise ValueError("the payload is not encrypted; read it as it is")
        ciphertext = self.payload.get("ciphertext")
        if self.headers["enc"] != ENCRYPTION or len(self.payload) != 1 or not isinstance(ciphertext, bytes):
            raise DecryptionError(f"the payload is not encrypted as {ENCRYPTION}; the sender uses another scheme")
        plaintext = aead.decrypt(ciphertext, key, self._associated_data())
        headers = {name: value for name, value in self.headers.items() if name != "enc"}
        return self.evolve(payload=wire.unpack_payload(plaintext), headers=headers)

    @classmethod
    def _decode(cls, data: bytes, signature: bytes, *, verified: bool) -> Self:
        body = wire.decode_body(data)
        if (body.public_key is None) != (not signature):
            raise MessageDecodeError("a message carries both a public key and a signature, or neither")
        payload = wire.unpack_payload(body.payload)
        topics: tuple[Topic, ...] = ()
        if body.topics:
            try:
                topics = tuple([Topic(*topic) for topic in body.topics])
            except (TypeError, ValueError) as error:
                raise MessageDecodeError(f"body: {error}") from None
        headers = MappingProxyType(body.headers) if body.headers else _NO_HEADERS
        seal = Seal(data, body.payload, verified) if signature else None
        _, sender, id_, recipient, _, timestamp, task_id, _, _ = body
        return fill(
            cls.__new__(cls), id_, sender, recipient, topics, payload, task_id, timestamp, signature, headers, seal
        )

    def _sealed(self, sender: str, signature: bytes, seal: Seal) -> Self:
        """The signed message whose fields were packed for `seal`; its payload is unpacked from there."""
        return fill(
            self.__new__(type(self)), self.id, sender, self.recipient, self.topics, unpack_own(seal.packed),
            self.task_id, self.timestamp, signature, self.headers, seal,
        )  # fmt: skip

    def _signable(self, identity: Identity) -> tuple[bytes, bytes]:
        """The body that `identity` signs, and the payload in it; raises as `sign` does."""
        if self.sender not in ("", identity.fingerprint):
            raise SigningError(
                f"the message names {self.sender!r} as its sender and cannot be signed by {identity.fingerprint!r}; "
                "leave the sender empty"
            )
        packed = pack_value(self.payload, "payload")
        return self._encode(identity.public_key, packed), packed

    def _fields(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "sender": self.sender,
            "recipient": self.recipient,
            "topics": self.topics,
            "payload": self.payload,
            "task_id": self.task_id,
            "timestamp": self.timestamp,
            "signature": self.signature,
            "headers": self.headers,
        }

    def _encode(self, public_key: bytes | None, packed: bytes) -> bytes:
        topics = [topic.wire_fields for topic in self.topics] if self.topics else []
        headers = dict(sorted(self.headers.items())) if self.headers else {}
        sender = self.sender if public_key is None else None
        return wire.pack_body(
            [
                wire.VERSION, public_key, sender, self.id, self.recipient, topics, self.timestamp, self.task_id,
                headers, packed,
            ]
        )  # fmt: skip

    def _canonical(self, public_key: bytes) -> bytes:
        """The body with sorted payload keys: what a dict stands for, since keys of JSON objects may be reordered."""
        return self._encode(public_key, repack(sorted_copy(self.payload)))

    def _is_intact(self, seal: Seal) -> bool:
        try:
            packed = repack(self.payload)
        except (TypeError, ValueError):
            return False
        return packed == seal.packed or packed == repack(wire.unpack_payload(seal.packed))

    def _verify_fields(self, public_key: bytes) -> bool:
        """For a signature that was passed to the constructor: what this library signs for such fields."""
        try:
            body = self._encode(public_key, pack_value(self.payload, "payload"))
        except (TypeError, ValueError):
            return False
        return self.sender == ed25519.fingerprint_of(public_key) and wire.verify(body, self.signature)

    def _text_header(self, name: str) -> str | None:
        value = self.headers.get(name)
        return value if isinstance(value, str) else None

    def _associated_data(self) -> bytes:
        return pack_value([self.sender, self.recipient, self.task_id], "associated data")

    def __reduce__(self) -> tuple[Any, ...]:
        values = self._fields() | {"headers": dict(self.headers)}
        seal = self._seal
        return _restore, (type(self), values, seal and seal.body, seal.packed if seal else b"")


def _checked_topics(value: Iterable[Topic]) -> tuple[Topic, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"topics must be a list of Topic, not {type(value).__name__}")
    if len(value) > MAX_TOPICS:
        raise ValueError(f"the message has {len(value)} topics; at most {MAX_TOPICS} are allowed")
    for topic in value:
        if not isinstance(topic, Topic):
            raise TypeError(
                f"topics must be a list of Topic; one is {type(topic).__name__}: write Topic({topic!r:.60})"
            )
    return tuple(value)


def _checked_headers(value: Mapping[str, str | int]) -> Mapping[str, str | int]:
    if not isinstance(value, Mapping):
        raise TypeError(f"headers must be a dict, not {type(value).__name__}")
    if not value:
        return _NO_HEADERS
    headers = dict(value)
    check_headers(headers)
    return MappingProxyType(headers)


def _restore(kind: type[Message], values: dict[str, Any], body: bytes | None, packed: bytes) -> Message:
    message = kind(**values)
    if body is not None:
        object.__setattr__(message, "_seal", Seal(body, packed, False))
    return message


def sign_batch(messages: Iterable[_M], identity: Identity) -> list[_M]:
    """Copies of `messages`, in their order, signed by `identity` with one signature for every `BATCH_SIZE` of them.

    Each is an ordinary signed message with `identity` as sender: it travels alone and anybody verifies it alone. Its
    signature field holds the signature over the root of a Merkle tree (RFC 9162 section 2.1) and its inclusion path,
    72 bytes and at most 6 hashes; a message that is alone in its tree has the plain signature that `sign` makes.

    Raises as `Message.sign` does, and before anything is signed. Safe between threads.
    """
    batch = list(messages)
    parts = [message._signable(identity) for message in batch]
    sender, signed = identity.fingerprint, []
    for start in range(0, len(batch), BATCH_SIZE):
        leaves = [leaf_hash(body) for body, _ in parts[start : start + BATCH_SIZE]]
        root, paths = tree_with_paths(leaves)
        fields = wire.signature_fields(identity.sign(wire.PURPOSE + root), paths)
        for at, field_ in enumerate(fields, start):
            signed.append(batch[at]._sealed(sender, field_, Seal(*parts[at], True)))
    return signed
