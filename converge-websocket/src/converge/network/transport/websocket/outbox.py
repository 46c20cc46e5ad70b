"""What waits for one connection, bounded by count and by bytes; and how much of what was sent is confirmed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

from converge.network.transport.websocket.packets import (
    MAX_ITEMS,
    PACKET_OVERHEAD,
    encode_count,
    encode_messages,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CONFIRM_EVERY", "WINDOW", "Full", "Outbox"]

Full = Literal["outbox_messages", "outbox_bytes"]
"""Which bound is reached."""

WINDOW = 512
"""How many messages of a client may wait or be unconfirmed.

So many may still come for an agent that the hub calls busy, which is when as many more have room there.
"""

CONFIRM_EVERY = 64
"""Messages after which a confirmation goes out by itself; fewer are confirmed at the next look at the time."""

_ITEM_OVERHEAD = 5


class Outbox:
    """Frames of messages, and packets that go before them; the packets that leave hold as much as waits and fits.

    `sent` counts the messages that were handed to the connection, `confirmed` those that the other side says it took,
    `received` those that came from it. With a `window`, no more than so many wait or are unconfirmed. For one event
    loop; `waiting` is set while there is something to send, `drained` while there is not, and `room` whenever there may
    be more room than before.
    """

    def __init__(self, max_messages: int, max_bytes: int, max_packet_bytes: int, window: int | None = None) -> None:
        self._window = window
        self._max_messages, self._max_bytes, self._max_packet = max_messages, max_bytes, max_packet_bytes
        self._frames: list[bytes] = []
        self._bytes = 0
        self._notices: list[bytes] = []
        self._notice_bytes = 0
        self._announced = 0
        self._confirm_now = False
        self.sent = self.confirmed = self.received = 0
        self.waiting, self.drained, self.room = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.drained.set()

    def __len__(self) -> int:
        """How many messages wait."""
        return len(self._frames)

    @property
    def waiting_bytes(self) -> int:
        """How many bytes of messages wait."""
        return self._bytes

    @property
    def unconfirmed(self) -> int:
        """Messages that were handed over and may not have arrived."""
        return self.sent - self.confirmed

    def limit_packets(self, max_packet_bytes: int) -> None:
        """Make packets of at most that size from now on; a larger message still goes, alone."""
        self._max_packet = max_packet_bytes

    def full_for(self, size: int) -> Full | None:
        """The bound that a frame of `size` bytes is over now; one frame is always taken when none waits."""
        if len(self._frames) >= self._max_messages or (
            self._window is not None and len(self._frames) + self.unconfirmed >= self._window
        ):
            return "outbox_messages"
        return "outbox_bytes" if self._frames and self._bytes + size > self._max_bytes else None

    def offer(self, frame: bytes) -> Full | None:
        """Add the frame of a message, or say which bound refuses it."""
        full = self.full_for(len(frame))
        if full is None:
            if not self._frames:
                self._wake()
            self._frames.append(frame)
            self._bytes += len(frame)
        return full

    def notify(self, packet: bytes) -> bool:
        """Add a packet that goes before the messages; False when too much waits already."""
        if self._notice_bytes + len(packet) > self._max_bytes:
            return False
        self._notices.append(packet)
        self._notice_bytes += len(packet)
        self._wake()
        return True

    def next(self) -> bytes | None:
        """The packet to send now; None, and `waiting` cleared, when there is nothing."""
        if self._confirm_now:
            self._confirm_now, self._announced = False, self.received
            return encode_count(self.received)
        if self._notices:
            packet = self._notices.pop(0)
            self._notice_bytes -= len(packet)
            return packet
        if self._frames:
            return encode_messages(self._take())
        self.waiting.clear()
        self.drained.set()
        return None

    def _wake(self) -> None:
        self.drained.clear()
        self.waiting.set()

    def _take(self) -> Sequence[bytes]:
        frames = self._frames
        if (
            len(frames) <= MAX_ITEMS
            and self._bytes + len(frames) * _ITEM_OVERHEAD + PACKET_OVERHEAD <= self._max_packet
        ):
            self._frames, self._bytes = [], 0
        else:
            count, size = 1, len(frames[0]) + _ITEM_OVERHEAD + PACKET_OVERHEAD
            while count < min(len(frames), MAX_ITEMS):
                size += len(frames[count]) + _ITEM_OVERHEAD
                if size > self._max_packet:
                    break
                count += 1
            frames, self._frames = frames[:count], frames[count:]
            self._bytes -= sum(map(len, frames))
        self.sent += len(frames)
        self.room.set()
        return frames

    def take_all(self) -> list[bytes]:
        """The frames that wait, which do not any more."""
        frames, self._frames, self._bytes = self._frames, [], 0
        return frames

    def reconnected(self) -> int:
        """Begin anew with another connection and the frames that wait; what the last one left unconfirmed."""
        unconfirmed = self.unconfirmed
        self.sent = self.confirmed = self.received = self._announced = 0
        self._notices, self._notice_bytes, self._confirm_now = [], 0, False
        if self._frames:
            self._wake()
        return unconfirmed

    def took(self, count: int) -> None:
        """`count` messages came; they are confirmed soon."""
        self.received += count
        if self.received - self._announced >= CONFIRM_EVERY:
            self.confirm()

    def confirm(self) -> None:
        """Confirm now what came and is not confirmed yet."""
        if self.received != self._announced:
            self._confirm_now = True
            self._wake()

    def confirmed_by_peer(self, count: int) -> bool:
        """The other side took `count` messages so far; False when it cannot have."""
        if not self.confirmed <= count <= self.sent:
            return False
        self.confirmed = count
        self.room.set()
        return True

    @property
    def is_filling(self) -> bool:
        """Whether half of what may wait does: time to slow down those who send."""
        return len(self._frames) * 2 >= self._max_messages or self._bytes * 2 >= self._max_bytes

    @property
    def is_low(self) -> bool:
        """Whether a quarter of what may wait does at most: time to go on."""
        return len(self._frames) * 4 <= self._max_messages and self._bytes * 4 <= self._max_bytes
