"""The frames between a runtime and its workers: four bytes of length (big-endian), then plain data as msgpack.

runtime → worker   [origin, module, path, is_class, isolated call's fields, params, most bytes of the result]
worker → runtime   ["loaded"] when the tool is there and `run` begins, then ["done", value, clean],
["failed", text, clean] or ["odd", text, clean], where `clean` says that the tool left no process
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from converge.core.plain import pack, unpack

if TYPE_CHECKING:
    import socket

__all__ = ["HEADER_BYTES", "MAX_FRAME_BYTES", "FrameError", "body_length", "frame", "opened", "receive"]

HEADER_BYTES: Final = 4
MAX_FRAME_BYTES: Final = 2**30
"""No frame is longer; a result is bounded far below by its own limit."""

_LENGTH = struct.Struct(">I")


class FrameError(ValueError):
    """What arrived is no frame of this protocol."""


def frame(value: object) -> bytes:
    """`value` as a frame; `TypeError` for what is not plain data."""
    body = pack(value)
    return _LENGTH.pack(len(body)) + body


def body_length(header: bytes, most: int = MAX_FRAME_BYTES) -> int:
    """How many bytes follow a header; `FrameError` when more than `most`."""
    (length,) = _LENGTH.unpack(header)
    if length > most:
        raise FrameError(f"a frame of {length} bytes; at most {most} are taken")
    return int(length)


def opened(body: bytes) -> list[Any]:
    """The list in a body; `FrameError` when there is none."""
    try:
        value = unpack(body)
    except ValueError as error:
        raise FrameError(str(error)) from None
    if not isinstance(value, list) or not value:
        raise FrameError("the body is no list")
    return value


def receive(channel: socket.socket) -> list[Any] | None:
    """The next frame from a blocking socket; None at its end."""
    header = _exactly(channel, HEADER_BYTES)
    if header is None:
        return None
    body = _exactly(channel, body_length(header))
    return None if body is None else opened(body)


def _exactly(channel: socket.socket, count: int) -> bytes | None:
    data = bytearray()
    while len(data) < count:
        part = channel.recv(min(count - len(data), 1 << 20))
        if not part:
            return None
        data += part
    return bytes(data)
