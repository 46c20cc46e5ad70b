"""What an agent and its model have said to each other, within a window."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from attrs import field, frozen

from converge.extensions.llm.chat import ChatMessage, ToolCall

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from converge.core.plain import Plain

__all__ = ["Conversation", "Exchange", "MemoryWindow", "size_of"]

_FORMAT: Final = 1
_MESSAGE_OVERHEAD: Final = 16  # role and marks, about what vendors count for them


@frozen(kw_only=True)
class MemoryWindow:
    """How much is remembered: the last messages, in number and in bytes."""

    messages: int = 40
    bytes: int = 64 * 1024

    def __attrs_post_init__(self) -> None:
        for name, value in (("messages", self.messages), ("bytes", self.bytes)):
            if type(value) is not int or value < 0:
                raise ValueError(f"the memory window's {name} is {value!r}; give an int, at least 0")


@frozen
class Exchange:
    """What was said to the model, which may begin with the answers to its calls, and what it replied."""

    said: tuple[ChatMessage, ...]
    reply: ChatMessage
    size: int = field(init=False)
    """About how many bytes it takes in a prompt."""

    @size.default
    def _size(self) -> int:
        return sum(size_of(message) for message in (*self.said, self.reply))

    def __len__(self) -> int:
        return len(self.said) + 1


class Conversation:
    """The exchanges so far, oldest first, within `window`; whole exchanges are forgotten."""

    def __init__(self, window: MemoryWindow | None = None) -> None:
        self.window = MemoryWindow() if window is None else window
        self._exchanges: list[Exchange] = []

    def __len__(self) -> int:
        return len(self._exchanges)

    @property
    def open_calls(self) -> tuple[ToolCall, ...]:
        """The calls of the last reply, which the next turn has to answer."""
        return self._exchanges[-1].reply.tool_calls if self._exchanges else ()

    @property
    def has_calls(self) -> bool:
        """Whether the model has called functions in it."""
        return any(exchange.reply.tool_calls for exchange in self._exchanges)

    def add(self, said: Sequence[ChatMessage], reply: ChatMessage) -> None:
        """Remember an exchange, and forget the oldest ones that the window has no room for.

        The last one is always kept while its calls are open.
        """
        self._exchanges.append(Exchange(tuple(said), reply))
        kept = self._suffix(self.window.bytes, self.window.messages)
        if not kept and reply.tool_calls:
            kept = self._exchanges[-1:]
        self._exchanges = kept

    def prompt(self, system: str, said: Sequence[ChatMessage], room: int) -> list[ChatMessage]:
        """A valid sequence of messages for a model: `system`, as much of the past as fits into `room`, `said`.

        Where the call that a result answers is forgotten, the result is shown in a user's turn instead.
        """
        spent = sum(size_of(message) for message in (ChatMessage(role="system", content=system), *said))
        messages: list[ChatMessage] = []
        for exchange in self._suffix(room - spent, self.window.messages):
            messages += exchange.said if messages else _without_calls(exchange.said)
            messages.append(exchange.reply)
        messages += said if messages else _without_calls(said)
        return [ChatMessage(role="system", content=system), *messages]

    def _suffix(self, room: int, most: int) -> list[Exchange]:
        """The last exchanges that fit."""
        start = len(self._exchanges)
        while start > 0:
            exchange = self._exchanges[start - 1]
            room, most = room - exchange.size, most - len(exchange)
            if room < 0 or most < 0:
                break
            start -= 1
        return self._exchanges[start:]

    def to_plain(self) -> Plain:
        """For the store."""
        return {
            "format": _FORMAT,
            "exchanges": [
                {"said": [_plain(message) for message in exchange.said], "reply": _plain(exchange.reply)}
                for exchange in self._exchanges
            ],
        }

    def restore(self, data: object) -> None:
        """Go on from what `to_plain` gave; `ValueError` for anything else, which changes nothing."""
        try:
            stored = msgspec.convert(data, _Stored)
        except msgspec.ValidationError as error:
            raise ValueError(f"this is no conversation: {error}") from None
        if stored.format != _FORMAT:
            raise ValueError(f"this conversation has the format {stored.format}; {_FORMAT} is known here")
        exchanges = [
            Exchange(tuple(_message(message) for message in exchange.said), _message(exchange.reply))
            for exchange in stored.exchanges
        ]
        _check_sequence(exchanges)
        self._exchanges = exchanges
        self._exchanges = self._suffix(self.window.bytes, self.window.messages) or exchanges[-1:]


def size_of(message: ChatMessage) -> int:
    """About how many bytes a message takes in a prompt."""
    calls = sum(len(call.id) + len(call.name) + len(call.raw.encode(errors="replace")) for call in message.tool_calls)
    return len(message.content.encode(errors="replace")) + calls + _MESSAGE_OVERHEAD


def _without_calls(said: Iterable[ChatMessage]) -> list[ChatMessage]:
    """As one user's turn, where there are results whose calls are not in the sequence."""
    messages = list(said)
    if not any(message.role == "tool" for message in messages):
        return messages
    return [ChatMessage(role="user", content="\n".join(message.content for message in messages))]


def _check_sequence(exchanges: Sequence[Exchange]) -> None:
    for exchange in exchanges:
        if exchange.reply.role != "assistant" or not exchange.said:
            raise ValueError("this is no conversation: an exchange is something said, and a reply of the model")
        if any(message.role not in ("user", "tool") for message in exchange.said):
            raise ValueError("this is no conversation: somebody else than a user or a tool speaks to the model")
    for before, after in itertools.pairwise(exchanges):
        answered = [message.tool_call_id for message in after.said if message.role == "tool"]
        if sorted(str(call_id) for call_id in answered) != sorted(call.id for call in before.reply.tool_calls):
            raise ValueError("this is no conversation: the results do not answer the calls before them")


class _StoredCall(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    name: str
    arguments: dict[str, Any] | None
    raw: str


class _StoredMessage(msgspec.Struct, forbid_unknown_fields=True):
    role: Literal["user", "assistant", "tool"]
    content: str
    tool_calls: list[_StoredCall]
    tool_call_id: str | None


class _StoredExchange(msgspec.Struct, forbid_unknown_fields=True):
    said: list[_StoredMessage]
    reply: _StoredMessage


class _Stored(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    exchanges: list[_StoredExchange]


def _plain(message: ChatMessage) -> dict[str, Plain]:
    return {
        "role": message.role,
        "content": message.content,
        "tool_calls": [
            {"id": call.id, "name": call.name, "arguments": call.arguments, "raw": call.raw}
            for call in message.tool_calls
        ],
        "tool_call_id": message.tool_call_id,
    }


def _message(stored: _StoredMessage) -> ChatMessage:
    return ChatMessage(
        role=stored.role,
        content=stored.content,
        tool_calls=tuple(ToolCall(call.id, call.name, call.arguments, call.raw) for call in stored.tool_calls),
        tool_call_id=stored.tool_call_id,
    )
