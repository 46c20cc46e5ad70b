"""Packets: what one binary WebSocket message holds. A byte of kind, then what belongs to that kind.

The packets before a connection is authenticated have a fixed length and hold fixed fields, so nothing of a stranger is
decoded. docs/reference/websocket-protocol.md describes all of them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from converge.core.limits import MAX_FRAME_BYTES
from converge.network.transport.websocket.errors import CloseCode, ProtocolViolation

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "MAX_ITEMS",
    "MAX_PACKET_BYTES",
    "PACKET_OVERHEAD",
    "Kind",
    "Lost",
    "Request",
    "decode_count",
    "decode_ids",
    "decode_lost",
    "decode_messages",
    "decode_reply",
    "decode_request",
    "encode_count",
    "encode_ids",
    "encode_lost",
    "encode_messages",
    "encode_reply",
    "encode_request",
    "kind_of",
]

_T = TypeVar("_T")

MAX_ITEMS: Final = 1024
"""The most items of one packet: messages, topics, ids."""

PACKET_OVERHEAD: Final = 16
"""What a packet takes besides the bytes of the only message in it, at most."""

MAX_PACKET_BYTES: Final = MAX_FRAME_BYTES + PACKET_OVERHEAD
"""The largest packet that any configuration allows."""

_COUNT_BYTES = 8


class Kind(IntEnum):
    """The first byte of a packet."""

    CHALLENGE = 1
    HELLO = 2
    WELCOME = 3
    MESSAGES = 4
    CONFIRMED = 5
    REQUEST = 6
    REPLY = 7
    LOST = 8
    GONE = 9
    BUSY = 10
    READY = 11


class Request(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """What a client asks: a number of its choice, an operation, and items (topics or agent ids)."""

    number: int
    operation: str
    items: list[msgspec.Raw]


class _Reply(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """The answer to the request of that number."""

    number: int
    items: list[str]


class Lost(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """A direct message that did not reach its recipient: its id, the recipient, and one word for the reason."""

    id: str
    recipient: str
    reason: str


_KINDS = {int(kind): kind for kind in Kind}
_encode = msgspec.msgpack.encode
_bytes_list = msgspec.msgpack.Decoder(list[bytes])
_ids = msgspec.msgpack.Decoder(list[str])
_lost = msgspec.msgpack.Decoder(list[Lost])
_request = msgspec.msgpack.Decoder(Request)
_reply = msgspec.msgpack.Decoder(_Reply)
_MESSAGES = bytes([Kind.MESSAGES])


def kind_of(packet: bytes) -> Kind:
    """The kind of a packet; `ProtocolViolation` when it has none."""
    kind = _KINDS.get(packet[0]) if packet else None
    if kind is None:
        what = f"begins with byte {packet[0]}" if packet else "is empty"
        raise ProtocolViolation(CloseCode.MALFORMED, f"the packet {what}, which is no kind")
    return kind


def encode_messages(frames: Sequence[bytes]) -> bytes:
    """A packet with the frames of messages."""
    return _MESSAGES + _encode(frames)


def decode_messages(packet: bytes) -> list[bytes]:
    """The frames in a packet of messages, none of them decoded."""
    _check_items(packet)
    return _decoded(_bytes_list, packet)


def encode_count(count: int) -> bytes:
    """How many messages were taken in on this connection so far."""
    return bytes([Kind.CONFIRMED]) + count.to_bytes(_COUNT_BYTES, "big")


def decode_count(packet: bytes) -> int:
    """The count in a packet of that kind."""
    if len(packet) != 1 + _COUNT_BYTES:
        raise ProtocolViolation(CloseCode.MALFORMED, f"a confirmation has 9 bytes, not {len(packet)}")
    return int.from_bytes(packet[1:], "big")


def encode_request(number: int, operation: str, items: Sequence[Any]) -> bytes:
    """A request for at most `MAX_ITEMS` topics (as their wire fields) or agent ids."""
    return bytes([Kind.REQUEST]) + _encode([number, operation, items])


def decode_request(packet: bytes) -> Request:
    """The request in a packet, its items still packed."""
    request = _decoded(_request, packet)
    if not 0 <= request.number < 2**32 or len(request.items) > MAX_ITEMS:
        raise ProtocolViolation(CloseCode.MALFORMED, "the request has a number or more items than is allowed")
    return request


def encode_reply(number: int, items: Sequence[str]) -> bytes:
    """The reply to a request."""
    return bytes([Kind.REPLY]) + _encode([number, items])


def decode_reply(packet: bytes) -> tuple[int, list[str]]:
    """The number of the request that is answered, and the answer."""
    reply = _decoded(_reply, packet)
    return reply.number, reply.items


def encode_lost(lost: Sequence[Lost]) -> bytes:
    """A packet about direct messages that did not reach their recipients."""
    return bytes([Kind.LOST]) + _encode(lost)


def decode_lost(packet: bytes) -> list[Lost]:
    """What did not reach its recipient."""
    _check_items(packet)
    return _decoded(_lost, packet)


def encode_ids(kind: Kind, ids: Sequence[str]) -> bytes:
    """A packet about agents that are gone, busy, or ready again."""
    return bytes([kind]) + _encode(ids)


def decode_ids(packet: bytes) -> list[str]:
    """Whom a packet made by `encode_ids` is about."""
    _check_items(packet)
    return _decoded(_ids, packet)


def _check_items(packet: bytes) -> None:
    """Refuse a list that announces more than `MAX_ITEMS`, before anything is made of it."""
    first = packet[1] if len(packet) > 1 else 0
    if first >> 4 == 0x9:
        return
    if first != 0xDC or int.from_bytes(packet[2:4], "big") > MAX_ITEMS:
        raise ProtocolViolation(CloseCode.MALFORMED, f"the packet is not a list of at most {MAX_ITEMS} items")


def _decoded(decoder: msgspec.msgpack.Decoder[_T], packet: bytes) -> _T:
    try:
        return decoder.decode(memoryview(packet)[1:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise ProtocolViolation(CloseCode.MALFORMED, f"the packet cannot be decoded: {error}") from None
