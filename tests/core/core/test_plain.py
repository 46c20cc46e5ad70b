"""The value domain and its encoding."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import IntEnum
from uuid import UUID

import msgpack
import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converge.core.plain import MAX_DEPTH, check, pack, unpack, unpack_own
from converge.testing.store.model import VALUES


class Colour(IntEnum):
    RED = 1


@given(VALUES)
def test_every_plain_value_survives_encoding_with_its_types(value: object) -> None:
    assert pack(unpack(pack(value))) == pack(value)


@given(st.binary(max_size=200))
def test_random_bytes_decode_to_plain_data_or_are_a_value_error(data: bytes) -> None:
    try:
        value = unpack(data)
    except ValueError:
        return
    check(value)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": [1, {2}]}, r"\$\.a\[1\]: builtins\.set"),
        ({"a": {1: 2}}, r"\$\.a: the key 1 is int"),
        ([2**63], r"\$\[0\]: 9223372036854775808 does not fit"),
        ({"a": "\udfff"}, r"\$\.a: .*surrogate"),
        ({"\udfff": 1}, r"\$: .*surrogate"),
        ([2**64], r"\$\[0\]: 18446744073709551616 does not fit"),
        ([-(2**63) - 1], r"\$\[0\]: -9223372036854775809 does not fit"),
        ({"a": memoryview(b"x")}, r"\$\.a: builtins\.memoryview"),
        ({b"a": 1}, r"\$: the key b'a' is bytes"),
        ({"a": [Colour.RED]}, r"\$\.a\[0\]: .*Colour"),
        ([ormsgpack.Ext(1, b"x")], r"\$\[0\]: .*Ext"),
        ([msgpack.ExtType(1, b"x")], r"\$\[0\]: .*ExtType"),
        ([datetime.now(UTC)], r"\$\[0\]: datetime\.datetime"),
        ([UUID(int=1)], r"\$\[0\]: uuid\.UUID"),
        (bytearray(b"x"), r"\$: builtins\.bytearray"),
    ],
)
def test_what_is_not_plain_is_a_type_error_that_names_the_place(value: object, place: str) -> None:
    with pytest.raises(TypeError, match=place):
        pack(value)


@given(VALUES)
def test_own_bytes_decode_to_what_any_decoder_makes_of_them(value: object) -> None:
    packed = pack(value)
    assert pack(unpack_own(packed)) == packed == msgpack.packb(unpack(packed))


def _domain() -> st.SearchStrategy[object]:
    odd = st.sampled_from(
        [bytearray(b"x"), {1}, Colour.RED, 2**63, 2**64, 1j, "\ud800", ormsgpack.Ext(1, b""), (1,), b"\xcf\xff"]
    )
    keys = st.sampled_from(["a", "\u00c4\u0100", b"a", 1, None, "\ud800", Colour.RED])
    return st.recursive(odd | VALUES, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=8)


@given(_domain())
def test_what_is_packed_is_what_the_walk_over_the_values_accepts(value: object) -> None:
    try:
        check(value)
    except TypeError as error:
        with pytest.raises(TypeError, match=re.escape(str(error))):
            pack(value)
    else:
        assert pack(value) == msgpack.packb(value)


def test_a_subclass_of_a_plain_type_is_not_plain() -> None:
    class Text(str):
        __slots__ = ()

    with pytest.raises(TypeError, match="Text"):
        pack(Text("x"))


def test_nesting_ends_at_the_documented_depth() -> None:
    value: object = 0
    for _ in range(MAX_DEPTH):
        value = [value]
    assert unpack(pack(value)) == value
    with pytest.raises(TypeError, match="nested deeper than 64"):
        pack([value])


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(TypeError, match="nested deeper"):
        pack(loop)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\x02",
        b"\xc1",
        b"\x92\x01",
        b"\x81\x01\x01",
        b"\xcf" + b"\xff" * 8,
        b"\xd4\x01\x00",
        b"\xa1\xff",
        b"\x91" * 100 + b"\x00",
        b"\x91" * 5000,
        b"\x81\xc4\x01a\x01",
    ],
    ids=["empty", "two", "reserved", "short", "int-key", "uint64", "ext", "not-utf8", "deep", "very-deep", "bytes-key"],
)
def test_bytes_that_are_not_one_plain_value_are_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        unpack(data)
