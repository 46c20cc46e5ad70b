"""A message as it was at one moment, for receivers in the same process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from converge.core import wire
from converge.core.errors import SigningError
from converge.core.limits import pack_value
from converge.core.message_draft import twin
from converge.core.plain import unpack_own

if TYPE_CHECKING:
    from converge.core.message import Message

__all__ = ["Snapshot"]

_MOST_ADDRESS_BYTES = 8192  # four texts and three of the headers of 1,024 bytes each, and what is around them

_MOST_FRAME_BYTES = 11  # an array of two and the two headers that bytes have at most


class Snapshot:
    """What a message said at one moment, for any number of receivers in this process.

    Each `message()` is equal to the message as it was, has a payload of its own, and is known to be verified when the
    message or another copy of it is: what one receiver has verified, none verifies again. Immutable; safe between
    threads.
    """

    __slots__ = ("_message", "_packed")

    def __init__(self, message: Message) -> None:
        seal = message._seal
        if seal is None and message.signature:
            raise SigningError("the message has a signature but not the bytes it was made over; sign it again")
        self._message = message
        self._packed = pack_value(message.payload, "payload") if seal is None else seal.packed

    def frame_size(self) -> int:
        """How many bytes the frame of the message has; `ValueError` when it does not fit in one."""
        message = self._message
        body = message._encode(None, self._packed) if message._seal is None else message._seal.body
        return wire.frame_size(len(body), len(message.signature))

    def fits(self, max_size: int) -> bool:
        """Whether the frame has at most `max_size` bytes."""
        message, seal = self._message, self._message._seal
        if seal is not None:
            most = len(seal.body) + len(message.signature) + _MOST_FRAME_BYTES
        elif not message.topics:
            most = len(self._packed) + _MOST_ADDRESS_BYTES
        else:
            most = max_size + 1  # topics have no bound that is worth knowing
        if most <= max_size:
            return True
        try:
            return self.frame_size() <= max_size
        except ValueError:
            return False

    def message(self) -> Message:
        """A copy that nobody else has."""
        return twin(self._message, unpack_own(self._packed))
