"""How a descriptor lies in a store: pure functions over plain data.

A plain record is the descriptor's fields, and `"lease": [issued, duration]` when it has one, both in microseconds. A
signed record is `{"body", "public_key", "signature"}`, all bytes: the body is the msgpack array `[1, issued, duration,
fields]`, or `[2, issued, duration, fields, key]` when the agent lets the holder of a key renew it together with others
(`discovery_renewal`). What is signed is `PURPOSE` and then the body, byte for byte. A signature is verified before
anything of the body is decoded. A record that has expired is replaced by a marker for the moment until it is deleted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import frozen

from converge.core import ed25519
from converge.core.limits import MAX_TOPICS
from converge.core.plain import pack, unpack
from converge.network.discovery_lease import MAX_TTL_SEC, Lease

if TYPE_CHECKING:
    from converge.core.identity import Identity
    from converge.core.plain import Plain
    from converge.core.plain_json import Json

__all__ = [
    "EXPIRED",
    "MAX_CAPABILITIES",
    "MAX_DESCRIPTOR_BYTES",
    "PURPOSE",
    "Proof",
    "Record",
    "check_size",
    "plain_record",
    "read_record",
    "sign_record",
]

PURPOSE = b"converge/descriptor/v1\0"
"""What every signed byte string begins with, so that no signature made for another purpose is one of a descriptor."""

MAX_DESCRIPTOR_BYTES = 64 * 1024
"""The largest descriptor, as msgpack of its `to_dict`."""

MAX_CAPABILITIES = 256
"""The most capabilities of one descriptor; of topics, as many as a message can have."""

EXPIRED: Plain = {"expired": True}
"""What stands for a descriptor while it is being deleted."""

_FORMAT = 1
_FORMAT_RENEWED = 2
_BODY_OVERHEAD = 72  # the array, the version, the lease and the renewer
_PROOF_FIELDS = {"body", "public_key", "signature"}


@frozen
class Proof:
    """The signed bytes of a descriptor, whose they are, and the signature over them."""

    body: bytes
    public_key: bytes
    signature: bytes

    def to_plain(self) -> dict[str, Plain]:
        """The record that is stored."""
        return {"body": self.body, "public_key": self.public_key, "signature": self.signature}


@frozen
class Record:
    """What was read: the fields of a descriptor, unchecked, its lease, and the proof when it is signed."""

    fields: Mapping[str, Any]
    lease: Lease | None
    proof: Proof | None
    renewer: bytes | None = None


def check_size(fields: Mapping[str, Json]) -> None:
    """Raise `ValueError`, naming what and how much, for the `to_dict` of a descriptor that is too large."""
    for name, most in (("topics", MAX_TOPICS), ("capabilities", MAX_CAPABILITIES)):
        entries = fields.get(name)
        if isinstance(entries, list) and len(entries) > most:
            raise ValueError(f"it has {len(entries)} {name}; at most {most} are allowed")
    _check_bytes(len(pack(fields)), MAX_DESCRIPTOR_BYTES)


def _check_bytes(size: int, most: int) -> None:
    if size > most:
        raise ValueError(f"it has {size} bytes; at most {most} are allowed")


def plain_record(fields: Mapping[str, Json], lease: Lease | None) -> dict[str, Plain]:
    """The record of a descriptor that nobody signed."""
    record: dict[str, Any] = dict(fields)
    return record if lease is None else {**record, "lease": [lease.issued_us, lease.ttl_us]}


def sign_record(fields: Mapping[str, Json], lease: Lease, identity: Identity, renewer: bytes | None = None) -> Proof:
    """The fields and the lease under the signature of `identity`; `SigningError` when it has no private key.

    With `renewer`, a public key, whoever holds it may begin the lease anew.
    """
    if renewer is None:
        body = pack([_FORMAT, lease.issued_us, lease.ttl_us, fields])
    else:
        body = pack([_FORMAT_RENEWED, lease.issued_us, lease.ttl_us, fields, renewer])
    return Proof(body, identity.public_key, identity.sign(PURPOSE + body))


def read_record(agent_id: str, value: object) -> Record:
    """What is stored for `agent_id`.

    Raises `ValueError`, whatever is wrong with it: a shape that is none, a size over the limits, a key that does not
    hash to the id, or a signature that is not one of that key over these bytes. The fields are for the caller to check.
    """
    if not isinstance(value, dict):
        raise ValueError(f"a record is a dict, not {type(value).__name__}")  # bad data
    if not _PROOF_FIELDS.isdisjoint(value) and "id" not in value:
        return _read_signed(agent_id, value)
    fields = dict(value)
    lease = None if "lease" not in fields else _read_lease(fields.pop("lease"))
    try:
        check_size(fields)
    except TypeError as error:
        raise ValueError(str(error)) from None
    return Record(fields, lease, None)


def _read_signed(agent_id: str, value: dict[str, Any]) -> Record:
    if set(value) != _PROOF_FIELDS or not all(type(part) is bytes for part in value.values()):
        raise ValueError("a signed record has the bytes body, public_key and signature, and nothing else")
    proof = Proof(**value)
    _check_bytes(len(proof.body), MAX_DESCRIPTOR_BYTES + _BODY_OVERHEAD)
    if ed25519.fingerprint_of(proof.public_key) != agent_id:
        raise ValueError(f"it is signed with the key of {ed25519.fingerprint_of(proof.public_key)}")
    if not ed25519.verify(proof.public_key, proof.signature, PURPOSE + proof.body):
        raise ValueError("the signature is not one of its agent over these bytes")
    body = unpack(proof.body)
    renewer = _renewer_in(body)
    if type(body[3]) is not dict:
        raise ValueError(f"the fields of a descriptor are a dict, not {type(body[3]).__name__}")
    check_size(body[3])
    return Record(body[3], _read_lease(body[1:3]), proof, renewer)


def _renewer_in(body: object) -> bytes | None:
    if isinstance(body, list) and body and type(body[0]) is int:
        if len(body) == 4 and body[0] == _FORMAT:
            return None
        if len(body) == 5 and body[0] == _FORMAT_RENEWED and type(body[4]) is bytes:
            return body[4]
    raise ValueError(f"what is signed is not a descriptor of format {_FORMAT} or {_FORMAT_RENEWED}")


def _read_lease(value: object) -> Lease:
    if not isinstance(value, list) or len(value) != 2 or not all(type(number) is int for number in value):
        raise ValueError("a lease is two integers, when it was issued and its duration, in microseconds")
    lease = Lease(*value)
    if lease.issued_us < 0 or not 0 < lease.ttl_us <= MAX_TTL_SEC * 1e6:
        raise ValueError(f"a lease of {lease.ttl_us} µs from {lease.issued_us} is none; it lasts a day at most")
    return lease
