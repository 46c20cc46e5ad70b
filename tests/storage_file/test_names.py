"""Keys and file names."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from converge.extensions.storage.file import names

KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)


@given(KEYS)
@example("CON")
@example("..")
@example(".journal")
@example("/etc/passwd")
@example("k" * 200)
@example("k" * 201)
@example("é" * 512)
def test_a_name_is_safe_short_and_tells_its_key(key: str) -> None:
    name = names.file_name(key)
    assert re.fullmatch(r"[a-z0-9_%~-]+\.record", name)
    assert len(name) <= 207
    assert names.has_digest(name) is (names.key_of(name) is None)
    assert names.key_of(name) in (key, None)
    assert names.identify(name) == (names.shard_of(key), names.key_of(name))
    assert names.place_of(key) == f"{names.shard_of(key)}/{name}"
    for cut in range(len(key)):
        assert names.may_start_with(key[:cut], name)


@given(KEYS, KEYS)
@example("a", "A")
@example("\u00e9", "e\u0301")
@example("k" * 300, "k" * 301)
@example("k" * 135 + "~" + "0" * 64, "k" * 300)
@example("%41", "A")
def test_two_keys_never_share_a_name_not_even_where_case_is_folded(one: str, other: str) -> None:
    def folded(key: str) -> str:
        return unicodedata.normalize("NFD", names.file_name(key)).casefold()

    assert (folded(one) == folded(other)) is (one == other)


@pytest.mark.parametrize(
    "name",
    ["a", ".record", "A.record", "%4.record", "%C3%A9.record", "%ff.record", "%61.record", "a.record.tmp", "é.record"],
)
def test_a_name_that_no_key_gives_tells_no_key(name: str) -> None:
    assert names.key_of(name) is None
    assert not names.has_digest(name)
    assert names.identify(name) is None


@given(KEYS, KEYS)
def test_a_name_is_ruled_out_only_when_its_key_does_not_start_with_the_prefix(prefix: str, key: str) -> None:
    if not names.may_start_with(prefix, names.file_name(key)):
        assert not key.startswith(prefix)


def test_a_shard_is_the_first_byte_of_the_sha_256_of_the_key() -> None:
    assert names.place_of("abc") == "ba/abc.record"  # FIPS 180-2, appendix B.1
    assert {names.shard_of(str(number)) for number in range(5000)} == names.SHARDS
