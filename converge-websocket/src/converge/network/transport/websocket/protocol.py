"""The protocol of one connection as two state machines without I/O: packets go in, what they mean comes out.

    HubProtocol     challenge() -> hello in, welcome out: authenticate() -> packets in: receive()
    ClientProtocol  challenge in, hello out: hello() -> welcome in: finish() -> packets in: receive()

Every method raises `ProtocolViolation` for what is not allowed at that moment; the connection is over then, and the
machine takes nothing more.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from converge.network.transport.websocket.errors import CloseCode, ProtocolViolation
from converge.network.transport.websocket.handshake import ClientHandshake, HubHandshake, Terms
from converge.network.transport.websocket.packets import (
    Kind,
    Lost,
    Request,
    decode_count,
    decode_ids,
    decode_lost,
    decode_messages,
    decode_reply,
    decode_request,
    kind_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.core.identity import Identity

__all__ = [
    "Busy",
    "ClientEvent",
    "ClientProtocol",
    "Confirmed",
    "Gone",
    "HubEvent",
    "HubProtocol",
    "LostMessages",
    "Messages",
    "Ready",
    "Replied",
]

_T = TypeVar("_T")


class Messages(NamedTuple):
    """Frames of messages, as they came."""

    frames: list[bytes]


class Confirmed(NamedTuple):
    """The other side took so many messages of this connection."""

    messages: int


class Replied(NamedTuple):
    """The answer to a request."""

    number: int
    items: list[str]


class LostMessages(NamedTuple):
    """Direct messages of this client that did not reach their recipients."""

    messages: list[Lost]


class Gone(NamedTuple):
    """Agents that were asked for and have left since."""

    ids: list[str]


class Busy(NamedTuple):
    """Agents for whom much waits at the hub: send them nothing until they are ready again."""

    ids: list[str]


class Ready(NamedTuple):
    """Agents that were busy and are not any more."""

    ids: list[str]


HubEvent: TypeAlias = Messages | Confirmed | Request
"""What a client says."""
ClientEvent: TypeAlias = Messages | Confirmed | Replied | LostMessages | Gone | Busy | Ready
"""What a hub says."""

_MESSAGES = bytes([Kind.MESSAGES])
_HUB_TAKES: dict[Kind, Callable[[bytes], HubEvent]] = {
    Kind.MESSAGES: lambda packet: Messages(decode_messages(packet)),
    Kind.CONFIRMED: lambda packet: Confirmed(decode_count(packet)),
    Kind.REQUEST: decode_request,
}
_CLIENT_TAKES: dict[Kind, Callable[[bytes], ClientEvent]] = {
    Kind.MESSAGES: lambda packet: Messages(decode_messages(packet)),
    Kind.CONFIRMED: lambda packet: Confirmed(decode_count(packet)),
    Kind.REPLY: lambda packet: Replied(*decode_reply(packet)),
    Kind.LOST: lambda packet: LostMessages(decode_lost(packet)),
    Kind.GONE: lambda packet: Gone(decode_ids(packet)),
    Kind.BUSY: lambda packet: Busy(decode_ids(packet)),
    Kind.READY: lambda packet: Ready(decode_ids(packet)),
}


class _State(Enum):
    NEW = "before the handshake"
    PROVING = "in the handshake"
    OPEN = "after the handshake"
    OVER = "after the end"


class _Machine:
    def __init__(self, max_packet_bytes: int) -> None:
        self._state = _State.NEW
        self._max_packet = max_packet_bytes

    def _move(self, before: _State, after: _State) -> None:
        if self._state is not before:
            raise self._over(ProtocolViolation(CloseCode.UNAUTHENTICATED, f"out of turn {self._state.value}"))
        self._state = after

    def _over(self, violation: ProtocolViolation) -> ProtocolViolation:
        self._state = _State.OVER
        return violation

    def _attempt(self, step: Callable[[bytes], _T], packet: str | bytes) -> _T:
        try:
            if not isinstance(packet, bytes):
                raise ProtocolViolation(CloseCode.MALFORMED, "a text message came; this protocol has binary ones only")
            return step(packet)
        except ProtocolViolation as violation:
            raise self._over(violation) from None

    def _take(self, packet: str | bytes, takes: dict[Kind, Callable[[bytes], _T]]) -> _T:
        self._move(_State.OPEN, _State.OPEN)

        def read(packet: bytes) -> _T:
            if len(packet) > self._max_packet:
                text = f"the packet has {len(packet)} bytes; the limit is {self._max_packet}"
                raise ProtocolViolation(CloseCode.MALFORMED, text)
            kind = kind_of(packet)
            decode = takes.get(kind)
            if decode is None:
                raise ProtocolViolation(
                    CloseCode.MALFORMED, f"a packet of kind {kind.name} does not come from this side"
                )
            return decode(packet)

        return self._attempt(read, packet)

    def messages_in(self, packet: bytes) -> list[bytes] | None:
        """The frames of a packet of messages; None for any other one, which `receive` takes or refuses."""
        if self._state is not _State.OPEN or packet[:1] != _MESSAGES or len(packet) > self._max_packet:
            return None
        try:
            return decode_messages(packet)
        except ProtocolViolation:
            return None


class HubProtocol(_Machine):
    """The hub's side. `client_id` and `client_key` say who is there once `authenticate` has returned."""

    def __init__(self, identity: Identity, certificate_hash: bytes, terms: Terms, max_packet_bytes: int) -> None:
        super().__init__(max_packet_bytes)
        self._handshake = HubHandshake(identity, certificate_hash, terms)

    @property
    def client_id(self) -> str:
        """The id of the agent, its proof being good; empty before."""
        return self._handshake.client_id

    @property
    def client_key(self) -> bytes:
        """The public key of the agent, its proof being good; empty before."""
        return self._handshake.client_key

    def challenge(self) -> bytes:
        """What to send first."""
        self._move(_State.NEW, _State.PROVING)
        return self._handshake.challenge()

    def authenticate(self, packet: str | bytes) -> bytes:
        """Take the hello; the welcome to send."""
        self._move(_State.PROVING, _State.OPEN)
        return self._attempt(self._handshake.receive, packet)

    def receive(self, packet: str | bytes) -> HubEvent:
        """What the client says in the next packet."""
        return self._take(packet, _HUB_TAKES)


class ClientProtocol(_Machine):
    """The client's side. `hub_id` says who is there once `finish` has returned."""

    def __init__(self, identity: Identity, certificate_hash: bytes, hub_id: str | None, max_packet_bytes: int) -> None:
        super().__init__(max_packet_bytes)
        self._handshake = ClientHandshake(identity, certificate_hash, hub_id)

    @property
    def hub_id(self) -> str:
        """The id of the hub; proved once `finish` has returned."""
        return self._handshake.hub_id

    @property
    def terms(self) -> Terms:
        """What the hub takes."""
        return self._handshake.terms

    def hello(self, packet: str | bytes) -> bytes:
        """Take the challenge; the hello to send."""
        self._move(_State.NEW, _State.PROVING)
        return self._attempt(self._handshake.hello, packet)

    def finish(self, packet: str | bytes) -> None:
        """Take the welcome."""
        self._move(_State.PROVING, _State.OPEN)
        self._attempt(self._handshake.finish, packet)

    def receive(self, packet: str | bytes) -> ClientEvent:
        """What the hub says in the next packet."""
        return self._take(packet, _CLIENT_TAKES)
