"""What waits for one connection, bounded by count and by bytes; and how much of what was sent is confirmed."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Literal

from converge.network.transport.websocket.packets import (
    MAX_ITEMS,
    PACKET_OVERHEAD,
    encode_count,
    encode_messages,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["CONFIRM_EVERY", "Full", "Outbox"]

Full = Literal["outbox_messages", "outbox_bytes"]
"""Which bound is reached."""

CONFIRM_EVERY = 64
"""Messages after which a confirmation goes out by itself; fewer are confirmed at the next look at the time."""

_ITEM_OVERHEAD = 5


class Outbox:
    """Frames of messages, and packets that go before them; the packets that leave hold as much as waits and fits.

    `sent` counts the messages that were handed to the connection, `confirmed` those that the other side says it took,
    `received` those that came from it. For one event loop; `on_waiting` is called when there is something to send,
    `on_filling` before half of what may wait does, `on_low` when little is left; `drained` is set while there is
    nothing, and `room` whenever there may be more room than before.
    """

    def __init__(self, max_messages: int, max_bytes: int, max_packet_bytes: int) -> None:
        self._window: tuple[int, int] | None = None
        self._confirm_every, self._confirm_bytes = CONFIRM_EVERY, max_bytes // 4
        self._max_messages, self._max_bytes, self._max_packet = max_messages, max_bytes, max_packet_bytes
        self._frames: list[bytes] = []
        self._bytes = 0
        self._notices: list[bytes] = []
        self._notice_bytes = 0
        self._in_flight: deque[tuple[int, int]] = deque()  # what `sent` was after a packet, and the bytes in it
        self._flight_bytes = 0
        self._announced = self._unannounced_bytes = 0
        self._confirm_now = False
        self.sent = self.confirmed = self.received = 0
        self.drained, self.room = asyncio.Event(), asyncio.Event()
        self.drained.set()
        self.on_waiting: Callable[[], None] | None = None
        self.on_filling: Callable[[], None] | None = None
        self.on_low: Callable[[], None] | None = None

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

    def agree(self, max_packet_bytes: int, window_messages: int, window_bytes: int) -> None:
        """Make packets of that size at most, and let no more wait or be unconfirmed than fits in the window."""
        self._max_packet = max_packet_bytes
        self._window = window_messages, window_bytes

    def confirm_within(self, window_messages: int, window_bytes: int) -> None:
        """Confirm often enough for one who has that window."""
        self._confirm_every = max(1, min(CONFIRM_EVERY, window_messages // 4))
        self._confirm_bytes = window_bytes // 4

    def full_for(self, size: int) -> Full | None:
        """The bound that a frame of `size` bytes is over now; one frame is always taken when there is none."""
        count, total = len(self._frames), self._bytes + size
        if count >= self._max_messages:
            return "outbox_messages"
        if count and total > self._max_bytes:
            return "outbox_bytes"
        if self._window is not None and (count or self._in_flight):
            if count + self.sent - self.confirmed >= self._window[0]:
                return "outbox_messages"
            if total + self._flight_bytes > self._window[1]:
                return "outbox_bytes"
        return None

    def offer(self, frame: bytes) -> Full | None:
        """Add the frame of a message, or say which bound refuses it."""
        if self.on_filling is not None and self._fills(len(self._frames) + 1, self._bytes + len(frame)):
            self.on_filling()
        full = self.full_for(len(frame))
        if full is None:
            self._frames.append(frame)
            self._bytes += len(frame)
            if len(self._frames) == 1:
                self._wake()
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
        """The packet to send now, or None."""
        if self._confirm_now:
            self._confirm_now, self._announced, self._unannounced_bytes = False, self.received, 0
            return encode_count(self.received)
        if self._notices:
            packet = self._notices.pop(0)
            self._notice_bytes -= len(packet)
            return packet
        if self._frames:
            return encode_messages(self._take())
        self.drained.set()
        return None

    def _wake(self) -> None:
        self.drained.clear()
        if self.on_waiting is not None:
            self.on_waiting()

    def _take(self) -> Sequence[bytes]:
        frames, before = self._frames, self._bytes
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
        self._in_flight.append((self.sent, before - self._bytes))
        self._flight_bytes += before - self._bytes
        self.room.set()
        if self.on_low is not None and self.is_low:
            self.on_low()
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
        self._in_flight.clear()
        self._flight_bytes = self._unannounced_bytes = 0
        if self._frames:
            self._wake()
        return unconfirmed

    def took(self, frames: Sequence[bytes]) -> None:
        """Messages came; they are confirmed soon."""
        self.received += len(frames)
        self._unannounced_bytes += sum(map(len, frames))
        if self.received - self._announced >= self._confirm_every or self._unannounced_bytes >= self._confirm_bytes:
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
        while self._in_flight and self._in_flight[0][0] <= count:
            self._flight_bytes -= self._in_flight.popleft()[1]
        self.room.set()
        return True

    @property
    def is_filling(self) -> bool:
        """Whether half of what may wait does: time to slow down those who send."""
        return self._fills(len(self._frames), self._bytes)

    def _fills(self, count: int, size: int) -> bool:
        return count * 2 >= self._max_messages or size * 2 >= self._max_bytes

    @property
    def is_low(self) -> bool:
        """Whether a quarter of what may wait does at most: time to go on."""
        return len(self._frames) * 4 <= self._max_messages and self._bytes * 4 <= self._max_bytes
