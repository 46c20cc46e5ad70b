"""Many leases renewed by one record: how it lies in a store, and who is renewed by it. No store and no clock.

An agent that shares its discovery service with many others names, in what it signs, the key of that service: its
renewer. From then on one record under the renewer's signature begins the leases of all that it names anew, instead of
one signature and one record of each. A renewal names descriptors, not agents, by the hash of what is signed: an older
descriptor of the agent is not renewed by it. How long a lease lasts is what the agent has signed.

The record is `{"body", "public_key", "signature"}`, all bytes, at `<fingerprint of the key>:<number>`. The body is the
msgpack array `[1, issued (µs), hashes]`; what is signed is `PURPOSE` and then the body.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from attrs import frozen

from converge.core import ed25519
from converge.core.identity import Identity
from converge.core.plain import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from converge.core.plain import Plain

__all__ = [
    "GROUP",
    "MAX_NAMED",
    "PURPOSE",
    "GroupRenewals",
    "KeepsRenewals",
    "Renewal",
    "RenewalBook",
    "hash_of",
    "read_renewal",
    "sign_renewal",
]

PURPOSE = b"converge/renewal/v1\0"
"""What every signed renewal begins with, so that no signature made for another purpose is one of a renewal."""

MAX_NAMED = 4096
"""The most descriptors that one record names: 64 KiB of hashes."""

GROUP = 64
"""From how many agents on a service renews them together; fewer sign for themselves."""

_FORMAT = 1
_HASH_BYTES = 16
_FIELDS = {"body", "public_key", "signature"}


def hash_of(body: bytes) -> bytes:
    """By what a renewal names the descriptor whose signed bytes are `body`: the first half of their SHA-256."""
    return sha256(body).digest()[:_HASH_BYTES]


@frozen
class Renewal:
    """Which descriptors are renewed, and from when (Unix microseconds)."""

    issued_us: int
    hashes: bytes

    def named(self) -> Iterator[bytes]:
        """The hashes, one by one."""
        return (self.hashes[at : at + _HASH_BYTES] for at in range(0, len(self.hashes), _HASH_BYTES))

    def names(self, name: bytes) -> bool:
        """Whether the descriptor of this hash is among them."""
        at = self.hashes.find(name)
        while at % _HASH_BYTES and at > 0:
            at = self.hashes.find(name, at + 1)
        return at >= 0


def sign_renewal(issued_us: int, names: Sequence[bytes], renewer: Identity) -> dict[str, Plain]:
    """The record that renews `names` (at most `MAX_NAMED`) from `issued_us` on."""
    body = pack([_FORMAT, issued_us, b"".join(names)])
    return {"body": body, "public_key": renewer.public_key, "signature": renewer.sign(PURPOSE + body)}


def read_renewal(renewer_id: str, value: object) -> Renewal:
    """What is stored for the renewer of this fingerprint; `ValueError`, whatever is wrong with it."""
    if not isinstance(value, dict) or set(value) != _FIELDS or not all(type(part) is bytes for part in value.values()):
        raise ValueError("a renewal has the bytes body, public_key and signature, and nothing else")
    record: dict[str, Any] = value
    if len(record["body"]) > MAX_NAMED * _HASH_BYTES + 32:
        raise ValueError(f"a renewal names at most {MAX_NAMED} descriptors; this one has {len(record['body'])} bytes")
    if ed25519.fingerprint_of(record["public_key"]) != renewer_id:
        raise ValueError(f"it is signed with the key of {ed25519.fingerprint_of(record['public_key'])}")
    if not ed25519.verify(record["public_key"], record["signature"], PURPOSE + record["body"]):
        raise ValueError("the signature is not one of its renewer over these bytes")
    body = unpack(record["body"])
    if type(body) is not list or len(body) != 3 or type(body[0]) is not int or body[0] != _FORMAT:
        raise ValueError(f"what is signed is not a renewal of format {_FORMAT}")
    _, issued_us, hashes = body
    if type(issued_us) is not int or issued_us < 0 or type(hashes) is not bytes or len(hashes) % _HASH_BYTES:
        raise ValueError("a renewal is the microsecond in which it was issued, and whole hashes")
    return Renewal(issued_us, hashes)


class KeepsRenewals(Protocol):
    """Where renewals are written."""

    def renew(self, key: str, renewal: Plain) -> None:
        """Keep it at this key, in the place of the one before."""

    def forget_renewal(self, key: str) -> None:
        """Delete it; an unknown key is no error."""


class _Followed(NamedTuple):
    agent_id: str
    renewer_id: str


class RenewalBook:
    """Whose descriptors wait for renewals of others, and the newest renewals. Not thread-safe."""

    def __init__(self) -> None:
        self._followed: dict[bytes, _Followed] = {}
        self._records: dict[str, Renewal] = {}  # by key

    def __len__(self) -> int:
        return len(self._followed)

    def follow(self, agent_id: str, body: bytes, renewer: bytes) -> int:
        """Follow a descriptor; when the newest renewal of it that is known was issued, -1 when none is."""
        name, renewer_id = hash_of(body), ed25519.fingerprint_of(renewer)
        self._followed[name] = _Followed(agent_id, renewer_id)
        found = [
            one.issued_us for key, one in self._records.items() if _renewer_of(key) == renewer_id and one.names(name)
        ]
        return max(found, default=-1)

    def leave(self, body: bytes) -> None:
        """Follow the descriptor no more; one that is not followed is no error."""
        self._followed.pop(hash_of(body), None)

    def take(self, key: str, value: object) -> tuple[int, list[str]]:
        """When a renewal was issued, and the agents that it renews; `ValueError` for one that is none."""
        renewer_id = _renewer_of(key)
        renewal = read_renewal(renewer_id, value)
        known = self._records.get(key)
        if known is not None and renewal.issued_us <= known.issued_us:
            return known.issued_us, []  # a replay
        self._records[key] = renewal
        found = [one for name in renewal.named() if (one := self._followed.get(name)) is not None]
        return renewal.issued_us, [one.agent_id for one in found if one.renewer_id == renewer_id]

    def drop(self, keys: Iterable[str]) -> None:
        """Forget records that are gone; unknown keys are no error."""
        for key in keys:
            self._records.pop(key, None)

    def keys(self) -> set[str]:
        """The keys of the records that are known."""
        return {*self._records}

    def issued_before(self, moment_us: int) -> list[str]:
        """The keys of the records that were issued before a moment."""
        return [key for key, renewal in self._records.items() if renewal.issued_us < moment_us]


class GroupRenewals:
    """Writes the renewals of one service, under a key that is made for it and never leaves it. Not thread-safe."""

    def __init__(self, records: KeepsRenewals) -> None:
        self._records = records
        self._identity: Identity | None = None  # most services have too few agents to need one
        self._last_us, self._written = -1, 0

    @property
    def key(self) -> bytes:
        """The public key that agents name."""
        return self._renewer.public_key

    @property
    def _renewer(self) -> Identity:
        if self._identity is None:
            self._identity = Identity.generate()
        return self._identity

    def renew(self, now: float, names: Sequence[bytes]) -> int:
        """Begin the leases of all that are named anew; from when, in Unix microseconds: later than the time before.

        When the store raises, some of them may have been renewed.
        """
        self._last_us = max(int(now * 1e6), self._last_us + 1)
        parts = [names[at : at + MAX_NAMED] for at in range(0, len(names), MAX_NAMED)]
        self._written = max(self._written, len(parts))
        for number, part in enumerate(parts):
            self._records.renew(self._key_of(number), sign_renewal(self._last_us, part, self._renewer))
        while self._written > len(parts):
            self._forget_one()
        return self._last_us

    def clear(self) -> None:
        """Delete what was written: nobody is left who is renewed by it."""
        while self._written:
            self._forget_one()

    def _forget_one(self) -> None:
        self._records.forget_renewal(self._key_of(self._written - 1))
        self._written -= 1

    def _key_of(self, number: int) -> str:
        return f"{self._renewer.fingerprint}:{number}"


def _renewer_of(key: str) -> str:
    return key.partition(":")[0]
