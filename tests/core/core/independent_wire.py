"""A reader of wire format 1 written from docs/reference/wire-format.md alone, with hashlib and an Ed25519 library.

Nothing of Converge is imported here, and no msgpack library: it shows that the page is enough, and tells the tests of
Converge what has to be refused.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any, ClassVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

PURPOSE = b"converge/message/v1\x00"
P = 2**255 - 19
ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
SMALL_ORDER = {0, 1, P - 1, ORDER_8, P - ORDER_8}


class Refused(Exception):
    """The bytes are no message of wire format 1, or not signed by the key they carry."""


def require(condition: bool, what: str) -> None:
    if not condition:
        raise Refused(what)


class Reader:
    """The msgpack types that the page allows; depth counts maps and arrays."""

    SIZED: ClassVar = {
        0xC4: ("bin", 1), 0xC5: ("bin", 2), 0xC6: ("bin", 4), 0xD9: ("str", 1), 0xDA: ("str", 2), 0xDB: ("str", 4),
        0xDC: ("array", 2), 0xDD: ("array", 4), 0xDE: ("map", 2), 0xDF: ("map", 4),
    }  # fmt: skip
    NUMBERS: ClassVar = {
        0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i",
        0xD3: ">q",
    }  # fmt: skip

    def __init__(self, data: bytes, most_deep: int) -> None:
        self.data, self.at, self.most_deep = data, 0, most_deep

    def take(self, count: int) -> bytes:
        require(self.at + count <= len(self.data), "it ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def value(self, depth: int = 0) -> Any:
        first = self.take(1)[0]
        if first < 0x80:
            return first
        if first >= 0xE0:
            return first - 0x100
        if first in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[first]
        if first in self.NUMBERS:
            form = self.NUMBERS[first]
            number = struct.unpack(form, self.take(struct.calcsize(form)))[0]
            require(isinstance(number, float) or number < 2**63, "an integer too large")
            return number
        if first < 0x90:
            return self.entries(first & 15, depth)
        if first < 0xA0:
            return self.items(first & 15, depth)
        if first < 0xC0:
            return self.text(first & 31)
        require(first in self.SIZED, "an extension, or the byte that is never used")
        kind, width = self.SIZED[first]
        count = int.from_bytes(self.take(width), "big")
        if kind == "bin":
            return self.take(count)
        if kind == "str":
            return self.text(count)
        return self.items(count, depth) if kind == "array" else self.entries(count, depth)

    def text(self, count: int) -> str:
        try:
            return self.take(count).decode()
        except UnicodeDecodeError as error:
            raise Refused("text that is not UTF-8") from error

    def items(self, count: int, depth: int) -> list[Any]:
        require(count <= 10_000 and depth < self.most_deep, "too many elements, or too deep")
        return [self.value(depth + 1) for _ in range(count)]

    def entries(self, count: int, depth: int) -> dict[str, Any]:
        require(count <= 10_000 and depth < self.most_deep, "too many entries, or too deep")
        entries: dict[str, Any] = {}
        for _ in range(count):
            key = self.value(depth + 1)
            require(type(key) is str and key not in entries, "a key that is no text, or twice the same")
            entries[key] = self.value(depth + 1)
        return entries


def unpacked(data: bytes, most_deep: int) -> Any:
    reader = Reader(data, most_deep)
    value = reader.value()
    require(reader.at == len(data), "bytes after the end")
    return value


def split(frame: bytes, limit: int = 262_144) -> tuple[bytes, bytes]:
    require(len(frame) <= limit, "longer than the limit")
    require(frame[:1] == b"\x92", "not a frame")
    reader, parts = Reader(frame[1:], 0), []
    for _ in range(2):
        require(reader.data[reader.at : reader.at + 1] in (b"\xc4", b"\xc5", b"\xc6"), "not bytes")
        parts.append(reader.value())
    require(reader.at == len(reader.data), "bytes after the end")
    return parts[0], parts[1]


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def place_of(field: bytes) -> tuple[int, int, list[bytes]]:
    """Leaf index, tree size and path of a signature field."""
    if len(field) == 64:
        return 0, 1, []
    require(len(field) >= 72 and (len(field) - 72) % 32 == 0, "no signature field")
    index, size = struct.unpack(">II", field[64:72])
    require(2 <= size <= 65_536 and index < size, "no such leaf or tree")
    return index, size, [field[at : at + 32] for at in range(72, len(field), 32)]


def root_of(body: bytes, field: bytes) -> bytes:
    """From the top: the last hash of the path is the other half of the tree."""

    def root(index: int, size: int, path: list[bytes]) -> bytes:
        if size == 1:
            require(not path, "a path too long")
            return sha(b"\x00", body)
        require(bool(path), "a path too short")
        half = 1 << (size - 1).bit_length() - 1
        if index < half:
            return sha(b"\x01", root(index, half, path[:-1]), path[-1])
        return sha(b"\x01", path[-1], root(index - half, size - half, path[:-1]))

    return root(*place_of(field))


def y_of(point: bytes) -> int:
    return int.from_bytes(point, "little") % 2**255


def check_signature(body: bytes, field: bytes) -> None:
    require(body[:4].hex() == "9a01c420" and body[36:37] == b"\xc0", "a body that does not begin as a signed one")
    key, root = body[4:36], root_of(body, field)
    require(y_of(key) < P and y_of(key) not in SMALL_ORDER, "a weak key")
    require(y_of(field[:32]) not in SMALL_ORDER, "a weak signature")
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(field[:64], PURPOSE + root)
    except InvalidSignature as error:
        raise Refused("not signed by this key") from error


def check_text(value: object, least: int = 1) -> None:
    require(isinstance(value, str) and least <= len(value.encode()) <= 1024, "no text of 1 to 1,024 bytes")


def check_integer(value: object) -> None:
    require(type(value) is int and 0 <= value < 2**63, "no integer from 0")


def check_header(name: str, value: object) -> None:
    if name == "ttl_ms":
        check_integer(value)
    else:
        require(name in ("enc", "in_reply_to", "traceparent"), "an unknown header")
        check_text(value)


def opened(frame: bytes) -> list[Any]:
    """The ten elements of a message, the sender's id in its place and the payload decoded; `Refused` if it is none."""
    body, field = split(frame)
    if field:
        check_signature(body, field)
    value = unpacked(body, 1 + 2 + 64)  # attributes stand in topics, which stand in the body
    require(isinstance(value, list) and len(value) == 10, "not ten elements")
    fields: list[Any] = value
    version, key, sender, id_, recipient, topics, timestamp, task_id, headers, payload = fields
    require((type(version), version) == (int, 1), "another version")
    require((key is None) == (not field), "a key without signature, or the other way round")
    if key is None:
        check_text(sender, 0)
    else:
        require(sender is None, "a signed message that names its sender")
        fields[2] = hashlib.sha256(key).hexdigest()
    check_text(id_)
    for optional in (recipient, task_id):
        if optional is not None:
            check_text(optional)
    require(isinstance(topics, list) and len(topics) <= 64, "topics")
    for topic in topics:
        require(isinstance(topic, list) and len(topic) == 3 and isinstance(topic[1], dict), "a topic")
        check_text(topic[0])
        check_text(topic[2])
    check_integer(timestamp)
    require(isinstance(headers, dict), "headers")
    for name, value in headers.items():
        check_header(name, value)
    require(isinstance(payload, bytes), "the payload is no bytes")
    fields[9] = unpacked(payload, 64)
    require(isinstance(fields[9], dict), "the payload is no map")
    return fields
