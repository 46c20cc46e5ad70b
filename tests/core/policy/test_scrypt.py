from __future__ import annotations

import hashlib
from base64 import b64decode

import pytest

from converge.policy.scrypt import MAX_TOKEN_BYTES, check_verifier, make_verifier, verifies

SALT, KEY = "A" * 22 + "==", "B" * 43 + "="


def test_a_verifier_is_scrypt_of_the_token_under_its_salt() -> None:
    name, n, r, p, salt, key = make_verifier("geheim ü").split("$")
    assert (name, n, r, p) == ("scrypt", "16384", "8", "1")
    assert len(b64decode(salt)) == 16
    expected = hashlib.scrypt("geheim ü".encode(), salt=b64decode(salt), n=2**14, r=8, p=1, dklen=32)
    assert b64decode(key) == expected


def test_a_verifier_of_higher_cost_is_honoured() -> None:
    key = hashlib.scrypt(b"token", salt=b"0123456789abcdef", n=2**15, r=8, p=1, dklen=32, maxmem=2**26)
    from base64 import b64encode

    verifier = f"scrypt$32768$8$1${b64encode(b'0123456789abcdef').decode()}${b64encode(key).decode()}"
    assert verifies(verifier, "token")
    assert not verifies(verifier, "Token")


def test_the_longest_token_is_taken() -> None:
    longest = "x" * MAX_TOKEN_BYTES
    assert verifies(make_verifier(longest), longest)


@pytest.mark.parametrize(
    "verifier",
    [
        "",
        "scrypt",
        f"pbkdf2$16384$8$1${SALT}${KEY}",
        f"scrypt$16384$8$1${SALT}${KEY}\n",
        f"scrypt$16384$8$1${SALT}${KEY[:-4]}",
        f"scrypt$1024$8$1${SALT}${KEY}",
        f"scrypt$16385$8$1${SALT}${KEY}",
        f"scrypt$65536$8$1${SALT}${KEY}",
        f"scrypt$1048576$8$1${SALT}${KEY}",
        f"scrypt$16384$8$17${SALT}${KEY}",
        f"scrypt$16384$1$1${SALT}${KEY}",
        f"scrypt$16384$8$0${SALT}${KEY}",
        f"scrypt$16384$8$1${'=' * 24}${KEY}",
        f"scrypt$-1$8$1${SALT}${KEY}",
    ],
)
def test_a_verifier_that_is_malformed_or_of_another_cost_is_refused(verifier: str) -> None:
    with pytest.raises(ValueError, match=r"scrypt\$n|cost|base64"):
        check_verifier(verifier)


def test_a_good_verifier_is_returned_as_it_is() -> None:
    verifier = f"scrypt$16384$8$16${SALT}${KEY}"
    assert check_verifier(verifier) == verifier
