"""Wire format version 1 as pure functions over bytes: frames, bodies and what is signed.

A frame is msgpack `[body, signature field]`, both bytes. The first 36 bytes of a signed body are fixed but for the
signer's key, so `verify` needs nothing decoded. docs/reference/wire-format.md describes the format with test vectors.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgpack

from converge.core import ed25519
from converge.core.errors import MessageDecodeError
from converge.core.limits import (
    DEFAULT_FRAME_BYTES,
    MAX_ELEMENTS,
    MAX_FRAME_BYTES,
    MAX_TOPICS,
    MAX_TREE_SIZE,
    check_count,
    check_frame_limit,
    check_headers,
    check_text,
)
from converge.core.merkle import HASH_BYTES, leaf_hash, path_sides
from converge.core.plain import check, is_modest, repack, unpack_own
from converge.core.verified_trees import VerifiedTrees

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "DEFAULT_FRAME_BYTES",
    "MAX_FRAME_BYTES",
    "PURPOSE",
    "VERSION",
    "Body",
    "SignatureError",
    "SignatureField",
    "decode_body",
    "encode_body",
    "frame_size",
    "join",
    "pack_body",
    "parse_signature",
    "signature_fields",
    "signed_bytes",
    "signer_of",
    "split",
    "unpack_payload",
    "verify",
]

VERSION = 1
"""The first element of every body."""

PURPOSE = b"converge/message/v1\0"
"""What every signed byte string begins with, so that no signature made for another purpose is one of a message."""

_SIGNED_START = b"\x9a\x01\xc4\x20"  # an array of 10: the version, then 32 bytes of public key
_KEY_END = len(_SIGNED_START) + ed25519.KEY_BYTES
_TREE_BYTES = 8  # leaf index and tree size, four bytes each
_LEAF_AND_SIZE = struct.Struct(">II")
_PATH_START = ed25519.SIGNATURE_BYTES + _TREE_BYTES
_MAX_SIGNATURE_BYTES = _PATH_START + 16 * HASH_BYTES
_FRAME_OVERHEAD = 1 + 5 + 3  # the array of two, the longest header of a body, the longest header of a signature field
_MOST_BODY_BYTES = MAX_FRAME_BYTES - _FRAME_OVERHEAD - _MAX_SIGNATURE_BYTES

_verified_trees = VerifiedTrees()
"""Of this process: whoever verified one message of a tree pays hashes for the others of it."""


class SignatureError(MessageDecodeError):
    """A frame that has to be signed is not, or not by the key it carries.

    Attribute: `reason`, "unsigned" or "invalid".
    """

    def __init__(self, reason: Literal["unsigned", "invalid"]) -> None:
        if reason == "unsigned":
            text = (
                "the message is unsigned; sign it with sign(identity), or read it with from_bytes() if that is allowed"
            )
        else:
            text = "the signature was not made over these bytes by the key the message carries; drop the message"
        super().__init__(text)
        self.reason = reason

    def __reduce__(self) -> tuple[type[SignatureError], tuple[str]]:
        return type(self), (self.reason,)


class Body(NamedTuple):
    """The decoded body of a message: all checked but the topics' attributes and the payload, which is still packed."""

    public_key: bytes | None
    sender: str
    id: str
    recipient: str | None
    topics: list[list[Any]]
    timestamp: int
    task_id: str | None
    headers: dict[str, str | int]
    payload: bytes


class SignatureField(NamedTuple):
    """A signature, and which leaf of a Merkle tree of what size the body is.

    `path` is the joined hashes of the inclusion path, empty in a tree of one, and `sides` where they stand
    (`converge.core.merkle.path_sides`).
    """

    signature: bytes
    leaf: int
    size: int
    sides: int
    path: bytes


def split(data: bytes | bytearray | memoryview, max_size: int = DEFAULT_FRAME_BYTES) -> tuple[bytes, bytes]:
    """Body and signature field of a frame of at most `max_size` bytes, neither of them decoded.

    Raises `MessageDecodeError` for anything but a frame, `ValueError` for a `max_size` out of bounds.
    """
    if max_size != DEFAULT_FRAME_BYTES:
        check_frame_limit(max_size)
    if type(data) is not bytes:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise MessageDecodeError(f"a frame is bytes, not {type(data).__name__}")
        data = bytes(data)
    if len(data) > max_size:
        raise MessageDecodeError(f"the frame has {len(data)} bytes; the limit is {max_size}")
    if data[:1] != b"\x92":
        raise MessageDecodeError("not a frame: it does not begin as a msgpack array of two")
    body, at = _read_bin(data, 1, "body")
    signature, at = _read_bin(data, at, "signature field")
    if at != len(data):
        raise MessageDecodeError(f"the frame has {len(data) - at} bytes after its end")
    return body, signature


def join(body: bytes, signature: bytes) -> bytes:
    """The frame of a body and its signature field (empty when unsigned)."""
    return b"\x92" + _bin_header(len(body)) + body + _bin_header(len(signature)) + signature


def frame_size(body_size: int, signature_size: int) -> int:
    """How many bytes the frame has that `join` makes of a body and a signature field of these sizes."""
    return 1 + len(_bin_header(body_size)) + body_size + len(_bin_header(signature_size)) + signature_size


def signer_of(body: bytes) -> bytes | None:
    """The public key a signed body carries, without decoding it; None when the body does not begin as a signed one."""
    if body.startswith(_SIGNED_START) and len(body) > _KEY_END:
        return body[len(_SIGNED_START) : _KEY_END]
    return None


def signed_bytes(root: bytes) -> bytes:
    """What is signed for the Merkle tree with this root: the purpose, then the root."""
    return PURPOSE + root


def signature_fields(signature: bytes, paths: Sequence[bytes]) -> list[bytes]:
    """The signature field of each leaf of a tree, whose root was signed as `signature`, in the order of `paths`."""
    if len(paths) == 1:
        return [signature]
    size = len(paths).to_bytes(4, "big")
    return [signature + index.to_bytes(4, "big") + size + path for index, path in enumerate(paths)]


def parse_signature(field: bytes) -> SignatureField:
    """The parts of a signature field; `MessageDecodeError` for one that no signer would make.

    Only one form is accepted: a tree of one is the bare signature, a larger one has a path of the right length.
    """
    size = len(field)
    if size == ed25519.SIGNATURE_BYTES:
        return SignatureField(field, 0, 1, 0, b"")
    if not _PATH_START < size <= _MAX_SIGNATURE_BYTES or (size - _PATH_START) % HASH_BYTES:
        raise MessageDecodeError(f"a signature field cannot have {size} bytes")
    index, leaves = _LEAF_AND_SIZE.unpack_from(field, ed25519.SIGNATURE_BYTES)
    if not 1 < leaves <= MAX_TREE_SIZE:
        raise MessageDecodeError(f"a signature field with a path cannot be of a tree of {leaves}")
    sides, length = path_sides(index, leaves)
    if index >= leaves or size != _PATH_START + HASH_BYTES * length:
        hashes = (size - _PATH_START) // HASH_BYTES
        raise MessageDecodeError(f"a path of {hashes} hashes cannot be that of leaf {index} in a tree of {leaves}")
    return SignatureField(field[: ed25519.SIGNATURE_BYTES], index, leaves, sides, field[_PATH_START:])


def verify(body: bytes, signature: bytes) -> bool:
    """Whether `signature`, a signature field, was made over `body` by the key the body carries; nothing is decoded.

    What was verified is remembered in this process (`converge.core.verified_trees`), so the other messages of a tree
    cost hashes only. Safe between threads.
    """
    signer = signer_of(body)
    if signer is None:
        return False
    try:
        signed, _, _, sides, path = parse_signature(signature)
    except MessageDecodeError:
        return False
    return _verified_trees.verify(signer, signed, leaf_hash(body), sides, path, _is_signed)


def _is_signed(public_key: bytes, signature: bytes, root: bytes) -> bool:
    return ed25519.verify(public_key, signature, PURPOSE + root)


def encode_body(body: Body) -> bytes:
    """The body as bytes. Its fields have been checked before; `ValueError` when it does not fit in a frame."""
    public_key, sender, *fields = body
    return pack_body([VERSION, public_key, sender if public_key is None else None, *fields])


def pack_body(elements: list[Any]) -> bytes:
    """`encode_body` of the ten elements as they stand in the body."""
    packed = repack(elements)
    if len(packed) > _MOST_BODY_BYTES:
        raise ValueError(
            f"the message takes {len(packed)} bytes; at most {_MOST_BODY_BYTES} fit in a frame: "
            "put large data in a store and send its key"
        )
    return packed


def decode_body(data: bytes) -> Body:
    """The body in `data`; `MessageDecodeError` for anything else.

    What is not decoded yet, so that a relay does not touch it: the payload. What is not checked yet: attributes of
    topics, which `Topic` checks.
    """
    fields = _unpack_body(data)
    if type(fields) is not list or len(fields) != 10:
        raise MessageDecodeError("body: not an array of 10")
    if type(fields[0]) is not int or fields[0] != VERSION:
        raise MessageDecodeError(f"body: this is not wire format version {VERSION}; the sender uses another one")
    fields[2] = _sender(data, fields[1], fields[2])
    try:
        return _checked(Body._make(fields[1:]))
    except (TypeError, ValueError) as error:
        raise MessageDecodeError(f"body: {error}") from None


def _unpack_body(data: bytes) -> Any:  # noqa: ANN401  # checked by the caller
    fields = _unpack_canonical(data)
    return _unpack_strictly(data, "body") if fields is None else fields


def unpack_payload(data: bytes) -> dict[str, Any]:
    """The payload map in `data`; `MessageDecodeError` for anything else."""
    payload = _unpack_canonical(data)
    if payload is None or not is_modest(data):
        payload = _unpack_strictly(data, "payload")
        try:
            check(payload, "payload")
        except TypeError as error:
            raise MessageDecodeError(str(error)) from None
    if type(payload) is not dict:
        raise MessageDecodeError("payload: not a map")
    return payload


def _read_bin(frame: bytes, at: int, what: str) -> tuple[bytes, int]:
    try:
        kind = frame[at]
        if kind == 0xC4:
            start = at + 2
            end = start + frame[at + 1]
        elif kind == 0xC5:
            start = at + 3
            end = start + (frame[at + 1] << 8 | frame[at + 2])
        elif kind == 0xC6:
            start = at + 5
            end = start + int.from_bytes(frame[at + 1 : start], "big")
        else:
            raise MessageDecodeError(f"the {what} of the frame is not bytes")
    except IndexError:
        raise MessageDecodeError(f"the {what} of the frame is missing") from None
    if end > len(frame) or start > len(frame):
        raise MessageDecodeError(f"the frame ends inside its {what}")
    return frame[start:end], end


def _bin_header(size: int) -> bytes:
    """What msgpack writes before so many bytes."""
    if size < 1 << 8:
        return b"\xc4" + size.to_bytes(1, "big")
    if size < 1 << 16:
        return b"\xc5" + size.to_bytes(2, "big")
    return b"\xc6" + size.to_bytes(4, "big")


def _unpack_canonical(data: bytes) -> Any:  # noqa: ANN401  # checked by the callers
    """The value in `data` if that is in shortest forms, has no key twice, no extension, and no too large container.

    None for anything else. What comes out to the same bytes when it is packed again is all of that, and the fast codec
    does both in less time than the one that can look at the pairs of a map needs.
    """
    if len(data) > MAX_ELEMENTS:  # a container could be too large: an element takes a byte at least
        return None
    try:
        value = unpack_own(data)
        return value if repack(value) == data else None
    except (TypeError, ValueError):
        return None


def _unpack_strictly(data: bytes, what: str) -> Any:  # noqa: ANN401  # as above
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            max_ext_len=0,
            max_array_len=MAX_ELEMENTS,
            max_map_len=MAX_ELEMENTS,
            object_pairs_hook=_unique,
        )
    except Exception as error:  # noqa: BLE001  # msgpack has error classes outside ValueError; one kind leaves here
        raise MessageDecodeError(f"{what}: {str(error) or type(error).__name__}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a map has the same key twice")
    return entries


def _sender(data: bytes, public_key: object, sender: object) -> str:
    if public_key is None:
        try:
            check_text(sender, "sender", empty=True)
        except (TypeError, ValueError) as error:
            raise MessageDecodeError(f"body: {error}") from None
        return str(sender)
    signer = signer_of(data)
    if signer != public_key or signer is None or sender is not None:
        raise MessageDecodeError(
            f"body: a signed one begins with {_SIGNED_START.hex()}, the public key, and a nil sender"
        )
    return ed25519.fingerprint_of(signer)


def _checked(body: Body) -> Body:
    check_text(body.id, "id")
    if body.recipient is not None:
        check_text(body.recipient, "recipient")
    check_count(body.timestamp, "timestamp")
    if body.task_id is not None:
        check_text(body.task_id, "task_id")
    if type(body.topics) is not list or len(body.topics) > MAX_TOPICS:
        raise ValueError(f"topics is not an array of at most {MAX_TOPICS}")
    for topic in body.topics:
        if type(topic) is not list or len(topic) != 3 or type(topic[1]) is not dict:
            raise ValueError("a topic is not [namespace, attributes map, version]")
        check_text(topic[0], "the namespace of a topic")
        check_text(topic[2], "the version of a topic")
    if type(body.headers) is not dict:
        raise TypeError("headers is not a map")
    if body.headers:
        check_headers(body.headers)
    if type(body.payload) is not bytes:
        raise TypeError("the payload is not bytes")
    return body
