"""Plain data, the one value domain of messages, stores and records, and its msgpack encoding.

Plain data are None, bool, int (64 bit signed), float, str, bytes, list and dict with str keys, nested at most
`MAX_DEPTH` deep. A tuple is taken as a list. The encoding is deterministic for equal input in equal order.
"""

from __future__ import annotations

import re
from typing import Any, TypeAlias, Union

import msgpack
import ormsgpack

__all__ = ["MAX_DEPTH", "Plain", "check", "is_modest", "looks_odd", "pack", "repack", "unpack", "unpack_own"]

Plain: TypeAlias = Union[bool, int, float, str, bytes, "list[Plain]", "dict[str, Plain]", None]
"""What a value may be made of."""

MAX_DEPTH = 64
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_LEAVES = frozenset({type(None), bool, float, bytes})
_SCALAR_TYPES = _LEAVES | {str, int}
_CONTAINER_TYPES = frozenset({dict, list, tuple})
_TYPES = _SCALAR_TYPES | _CONTAINER_TYPES
_STR_ALONE = frozenset({str})
_NATIVE_TYPES_ONLY = (
    ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_UUID
)
# The first bytes of msgpack values (github.com/msgpack/msgpack/blob/master/spec.md)
_CONTAINERS = bytes([*range(0x80, 0xA0), *range(0xDC, 0xE0)])
_BYTES_AND_EXTENSIONS = bytes([*range(0xC4, 0xCA), *range(0xD4, 0xD9)])
_NO_CONTAINERS = bytes({*range(256)} - {*_CONTAINERS})
_ORDINARY = bytes({*range(256)} - {*_CONTAINERS} - {*_BYTES_AND_EXTENSIONS})
_LARGE = re.compile(rb"\xcf[\x80-\xff]")  # an unsigned integer of 64 bits whose highest bit is set


def check(value: object, where: str = "$", depth: int = 0) -> None:
    """Raise `TypeError` naming the place (`$.a[2]`) unless `value` is plain data."""
    kind = type(value)
    if kind in _LEAVES:
        return
    if kind is str:
        _check_str(value, where)  # type: ignore[arg-type]  # exact type tested above
    elif kind is int:
        if not _INT_MIN <= value <= _INT_MAX:  # type: ignore[operator]  # exact type tested above
            raise TypeError(f"{where}: {value} does not fit in 64 bits; plain data has 64-bit integers")
    elif kind is dict:
        _check_depth(depth, where)
        for key, item in value.items():  # type: ignore[attr-defined]  # exact type tested above
            if type(key) is not str:
                raise TypeError(f"{where}: the key {key!r} is {type(key).__name__}; plain data has str keys only")
            _check_str(key, where)
            check(item, f"{where}.{key}", depth + 1)
    elif kind is list or kind is tuple:
        _check_depth(depth, where)
        for index, item in enumerate(value):  # type: ignore[arg-type]  # exact type tested above
            check(item, f"{where}[{index}]", depth + 1)
    else:
        raise TypeError(
            f"{where}: {kind.__module__}.{kind.__qualname__} is not plain data; "
            "use None, bool, int, float, str, bytes, list or dict with str keys"
        )


def _check_depth(depth: int, where: str) -> None:
    if depth >= MAX_DEPTH:
        raise TypeError(f"{where}: nested deeper than {MAX_DEPTH}")


def _check_str(value: str, where: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise TypeError(f"{where}: a str with a lone surrogate cannot be encoded as UTF-8") from None


def pack(value: object, where: str = "$") -> bytes:
    """`value` as msgpack in shortest forms; `TypeError` naming the place for anything that is not plain data."""
    try:
        packed = ormsgpack.packb(value, option=_NATIVE_TYPES_ONLY)
    except TypeError:
        check(value, where)  # says where it is
        raise
    if looks_odd(packed) and not _has_plain_types(value, packed):
        check(value, where)
    return packed


def repack(value: object) -> bytes:
    """`pack` for values that were checked or decoded before: nothing is checked, and other errors may leave."""
    return ormsgpack.packb(value, option=_NATIVE_TYPES_ONLY)


def unpack(data: bytes) -> Any:  # noqa: ANN401  # the shape is the writer's
    """The value in `data`; `ValueError` when it is not exactly one msgpack value of plain data."""
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=True, max_ext_len=0)
    except ValueError:
        raise
    except Exception as error:  # noqa: BLE001  # msgpack has error classes outside ValueError; one kind leaves here
        raise ValueError(f"not msgpack: {type(error).__name__}: {error}") from None
    if looks_odd(data) and not _has_plain_types(value, data):
        try:
            check(value)
        except TypeError as error:
            raise ValueError(str(error)) from None
    return value


def unpack_own(packed: bytes) -> Any:  # noqa: ANN401  # as above
    """The value in bytes that came from `pack` and that nobody else had a chance to change; nothing is checked."""
    return ormsgpack.unpackb(packed)


def is_modest(packed: bytes) -> bool:
    """Whether msgpack that packs again to the same bytes surely is plain data; a no may be wrong.

    Such bytes have no extension and no key that is no text; what is left are integers from 2**63 up, and deep nesting.
    """
    if len(packed.translate(None, _NO_CONTAINERS)) > MAX_DEPTH:
        return False
    return 0xCF not in packed or _LARGE.search(packed) is None


def looks_odd(packed: bytes) -> bool:
    """Whether msgpack that two strict libraries agree to may hold what is not plain data; a yes may be wrong.

    What they let through is a bytearray, bytes as a key, an extension, an integer from 2**63 up, and deep nesting. The
    mark of each is a byte that text and small numbers seldom have, so one look at the bytes saves the walk over the
    values.
    """
    marks = packed.translate(None, _ORDINARY)
    if len(marks) > MAX_DEPTH or marks.translate(None, _CONTAINERS):
        return True
    return 0xCF in packed and _LARGE.search(packed) is not None


def _has_plain_types(value: object, packed: bytes) -> bool:
    """Whether `value`, which gave `packed` or came from it, is plain data for certain; a no may be wrong.

    Most bytes that look odd are those of a float. Asking for all types in a container at once costs a fifth of `check`.
    """
    if _LARGE.search(packed) is not None:
        return False
    level: list[Any] = [value] if type(value) in _CONTAINER_TYPES else [(value,)]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for container in level:
            items: Any = container
            if type(container) is dict:
                if not _STR_ALONE.issuperset(map(type, container)):
                    return False
                items = container.values()
            types = {*map(type, items)}
            if not types <= _SCALAR_TYPES:
                if not types <= _TYPES:
                    return False
                below += [item for item in items if type(item) in _CONTAINER_TYPES]
        if not below:
            return True
        level = below
    return False
