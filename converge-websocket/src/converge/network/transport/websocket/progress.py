"""How far the bytes of a connection are inside a WebSocket message, to see one that is never finished."""

from __future__ import annotations

__all__ = ["MessageProgress"]

_END_OF_REQUEST = b"\r\n\r\n"
_MASK_BYTES = 4
_CONTROL = 0x8  # the bit that all control opcodes have, RFC 6455 section 5.5


class MessageProgress:
    """Follows the framing of RFC 6455 section 5.2 in what a client sends, after its HTTP request; pure.

    `since` is the time of the first byte of a message that has not ended yet, or None. A message in several frames
    has ended with its last one. What is malformed is left to the library that reads the same bytes.
    """

    def __init__(self) -> None:
        self.since: float | None = None
        self._tail: bytes | None = b""  # the end of what came of the request; None once it is over
        self._head = b""
        self._left = 0
        self._is_open = self._fin = self._is_control = False

    def feed(self, data: bytes, now: float) -> None:
        """Take in the next bytes, which came at `now`."""
        if self._tail is not None:
            seen = self._tail + data
            end = seen.find(_END_OF_REQUEST)
            if end < 0:
                self._tail = seen[-len(_END_OF_REQUEST) :]
                return
            self._tail, data = None, seen[end + len(_END_OF_REQUEST) :]
        ended = self._advance(self._head + data if self._head else data)
        if not (self._left or self._head or self._is_open):
            self.since = None
        elif ended or self.since is None:
            self.since = now

    def _advance(self, data: bytes) -> bool:
        """Go through `data`; whether a message ended in it."""
        self._head = b""
        at, size, ended = 0, len(data), False
        while at < size:
            if not self._left:
                start = _payload_start(data, at)
                if start is None or start > size:
                    self._head = data[at:]
                    break
                self._begin(data, at)
                at = start
            taken = min(self._left, size - at)
            self._left -= taken
            at += taken
            if not self._left and not self._is_control:
                self._is_open = not self._fin
                ended = ended or self._fin
        return ended

    def _begin(self, data: bytes, at: int) -> None:
        self._fin, self._is_control = bool(data[at] & 0x80), bool(data[at] & _CONTROL)
        length = data[at + 1] & 0x7F
        width = _length_width(length)
        self._left = int.from_bytes(data[at + 2 : at + 2 + width], "big") if width else length


def _length_width(length: int) -> int:
    return {126: 2, 127: 8}.get(length, 0)


def _payload_start(data: bytes, at: int) -> int | None:
    """Where the payload of the frame at `at` starts; None when the header is not there yet."""
    if at + 2 > len(data):
        return None
    masked = _MASK_BYTES if data[at + 1] & 0x80 else 0
    return at + 2 + _length_width(data[at + 1] & 0x7F) + masked
