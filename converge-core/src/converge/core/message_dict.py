"""The dict form of a message: its keys, and the checks on a dict that claims to be one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from converge.core.errors import MessageDecodeError
from converge.core.plain_json import Json, from_json, to_json

__all__ = ["Content", "decode", "encode"]

_REQUIRED = frozenset({"id", "sender", "payload", "timestamp"})
_KNOWN = _REQUIRED | {"recipient", "topics", "task_id", "headers", "signature", "public_key", "body"}


class Content(NamedTuple):
    """What a dict says: arguments for the constructor, dicts of topics, and the bytes beyond the fields."""

    fields: dict[str, Any]
    topics: list[dict[str, Any]]
    public_key: bytes | None
    body: bytes | None


def encode(fields: Mapping[str, Any]) -> dict[str, Json]:
    """The fields of a message, topics as dicts already, as JSON-safe data."""
    data: dict[str, Json] = dict(fields)
    data["payload"] = to_json(fields["payload"])
    data["headers"] = dict(fields["headers"])
    data["signature"] = fields["signature"].hex()
    return data


def decode(data: Mapping[str, object]) -> Content:
    """What is in the dict of a message; `MessageDecodeError` when it cannot be one. Types of fields are not checked."""
    if not isinstance(data, Mapping):
        raise MessageDecodeError(f"message: read from a dict, not from {type(data).__name__}")
    _check_keys(data)
    try:
        payload = from_json(data["payload"], "payload")
    except ValueError as error:
        raise MessageDecodeError(f"message: {error}") from None
    topics, headers = data.get("topics", []), data.get("headers", {})
    if not isinstance(topics, list) or not isinstance(headers, dict):
        raise MessageDecodeError("message: topics must be a list and headers a dict")
    public_key, body = _optional_hex(data, "public_key"), _optional_hex(data, "body")
    if public_key is None and body is not None:
        raise MessageDecodeError("message: a body needs the public key it carries")
    kept = {key: data[key] for key in ("id", "sender", "recipient", "task_id", "timestamp") if key in data}
    fields = {**kept, "payload": payload, "headers": headers, "signature": _optional_hex(data, "signature") or b""}
    return Content(fields, topics, public_key, body)


def _check_keys(data: Mapping[str, object]) -> None:
    unknown = [key for key in data if key not in _KNOWN]
    if unknown:
        raise MessageDecodeError(
            f"message: unknown key {str(unknown[0])[:60]!r}; known ones are {', '.join(sorted(_KNOWN))}"
        )
    missing = sorted(_REQUIRED - data.keys())
    if missing:
        raise MessageDecodeError(f"message: {', '.join(missing)} missing")


def _optional_hex(data: Mapping[str, object], key: str) -> bytes | None:
    value = data.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise MessageDecodeError(f"message: {key} must be a hex str, not {type(value).__name__}")
    try:
        return bytes.fromhex(value)
    except ValueError:
        raise MessageDecodeError(f"message: {key} is not hex") from None
