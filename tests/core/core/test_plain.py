"""The value domain and its encoding."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converge.core.plain import MAX_DEPTH, check, pack, unpack
from converge.testing.store.model import VALUES


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
        (bytearray(b"x"), r"\$: builtins\.bytearray"),
    ],
)
def test_what_is_not_plain_is_a_type_error_that_names_the_place(value: object, place: str) -> None:
    with pytest.raises(TypeError, match=place):
        pack(value)


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
    ],
    ids=["empty", "two", "reserved", "short", "int-key", "uint64", "ext", "not-utf8", "deep", "very-deep"],
)
def test_bytes_that_are_not_one_plain_value_are_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        unpack(data)
