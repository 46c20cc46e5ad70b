"""Plain data as JSON and back, without loss.

JSON has no bytes, and no NaN or infinities. They travel as a dict with one key that begins with a dollar sign:
`{"$bytes": base64}` and `{"$float": hex of the 8 IEEE 754 bytes, big-endian}`. A dict of the user's own that has
exactly one key, beginning with a dollar sign, is wrapped as `{"$dict": {…}}`, so that it comes back as it was.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from typing import Any, TypeAlias, Union

from converge.core.plain import MAX_DEPTH, Plain

__all__ = ["Json", "from_json", "to_json"]

Json: TypeAlias = Union[bool, int, float, str, "list[Json]", "dict[str, Json]", None]
"""What `json.dumps` takes as it is."""


def to_json(value: Any) -> Any:  # noqa: ANN401  # Plain in, Json out; the shape is the caller's
    """`value`, which is plain data, as something `json.dumps(…, allow_nan=False)` takes."""
    if isinstance(value, dict):
        encoded = {key: to_json(item) for key, item in value.items()}
        return {"$dict": encoded} if _looks_tagged(encoded) else encoded
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": struct.pack(">d", value).hex()}
    return value


def from_json(value: object, where: str = "$", depth: int = 0) -> Plain:
    """The plain data that `to_json` made `value` from; `ValueError` naming the place when it cannot have."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if depth > MAX_DEPTH:
        raise ValueError(f"{where}: nested deeper than {MAX_DEPTH}")
    if isinstance(value, list):
        return [from_json(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
    if not isinstance(value, dict):
        raise ValueError(
            f"{where}: {type(value).__name__} is not JSON; bytes are written as {{'$bytes': base64}}"
        )  # bad data is one kind of error
    for key in value:
        if not isinstance(key, str):
            raise ValueError(f"{where}: a key is {type(key).__name__}; JSON has str keys only")  # as above
    if _looks_tagged(value):
        return _from_tag(value, where, depth)
    return _from_entries(value, where, depth)


def _looks_tagged(value: dict[str, Any]) -> bool:
    return len(value) == 1 and next(iter(value)).startswith("$")


def _from_entries(value: dict[str, Any], where: str, depth: int) -> dict[str, Plain]:
    return {key: from_json(item, f"{where}.{key}", depth + 1) for key, item in value.items()}


def _from_tag(value: dict[str, Any], where: str, depth: int) -> Plain:
    tag, content = next(iter(value.items()))
    if tag == "$bytes" and isinstance(content, str):
        try:
            return base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(f"{where}.$bytes: not base64") from None
    if tag == "$float" and isinstance(content, str):
        return _non_finite(content, where)
    if tag == "$dict" and isinstance(content, dict) and len(content) == 1:
        return _from_entries(content, where, depth)
    raise ValueError(f"{where}: {tag[:60]!r} is not a tag with content of its kind; tags are $bytes, $float, $dict")


def _non_finite(content: str, where: str) -> float:
    try:
        number: float = struct.unpack(">d", bytes.fromhex(content))[0]
    except (ValueError, struct.error):
        raise ValueError(f"{where}.$float: not the hex of 8 bytes") from None
    if math.isfinite(number):
        raise ValueError(f"{where}.$float: {number} is finite and is written as a number")
    return number
