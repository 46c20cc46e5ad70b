from __future__ import annotations

import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from converge.core.aead import decrypt, derive_key, encrypt, secure_random_bytes
from converge.core.errors import ConvergeError, DecryptionError

KEY = bytes(range(32))


@pytest.mark.parametrize("plaintext", [b"", b"x", bytes(100_000)])
@pytest.mark.parametrize("associated_data", [None, b"", b"header"])
def test_what_was_encrypted_opens_again(plaintext: bytes, associated_data: bytes | None) -> None:
    assert decrypt(encrypt(plaintext, KEY, associated_data), KEY, associated_data) == plaintext


def test_the_layout_is_nonce_ciphertext_tag() -> None:
    sealed = encrypt(b"hello", KEY, b"header")
    assert len(sealed) == 12 + 5 + 16
    assert AESGCM(KEY).decrypt(sealed[:12], sealed[12:], b"header") == b"hello"


def test_every_encryption_has_its_own_nonce() -> None:
    assert len({encrypt(b"same", KEY)[:12] for _ in range(1000)}) == 1000


def test_any_changed_byte_is_noticed() -> None:
    sealed = encrypt(b"hello", KEY)
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 1
        with pytest.raises(DecryptionError):
            decrypt(bytes(changed), KEY)


def test_another_key_or_other_associated_data_do_not_open_it() -> None:
    sealed = encrypt(b"hello", KEY, b"a")
    for key, associated_data in [(bytes(32), b"a"), (KEY, b"b"), (KEY, None)]:
        with pytest.raises(DecryptionError, match="does not open"):
            decrypt(sealed, key, associated_data)


def test_a_decryption_error_is_a_value_error_of_converge() -> None:
    assert issubclass(DecryptionError, ValueError)
    assert issubclass(DecryptionError, ConvergeError)


@pytest.mark.parametrize("length", [0, 11, 27])
def test_a_ciphertext_that_is_too_short_is_refused(length: int) -> None:
    with pytest.raises(DecryptionError, match="at least 28 bytes"):
        decrypt(bytes(length), KEY)


@pytest.mark.parametrize("key", [b"", bytes(16), bytes(31), bytes(33)])
def test_a_key_of_another_length_is_a_value_error(key: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        encrypt(b"x", key)
    with pytest.raises(ValueError, match="32 bytes"):
        decrypt(bytes(40), key)


def test_a_password_in_place_of_the_key_is_a_type_error() -> None:
    key: Any = "k" * 32
    with pytest.raises(TypeError, match="derive_key"):
        encrypt(b"x", key)


def test_derive_key_is_pbkdf2_hmac_sha256() -> None:
    # RFC 7914 section 11 gives these for PBKDF2-HMAC-SHA-256.
    expected = "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"
    assert derive_key("passwd", b"salt", 32, 1).hex() == expected
    assert derive_key("pass", b"salt") == hashlib.pbkdf2_hmac("sha256", b"pass", b"salt", 100_000, 32)
    assert len(derive_key("pass", b"salt", length=64, iterations=1)) == 64


def test_derive_key_refuses_what_makes_no_key() -> None:
    not_text: Any = b"pass"
    with pytest.raises(ValueError, match="salt"):
        derive_key("pass", b"")
    with pytest.raises(ValueError, match="at least 1"):
        derive_key("pass", b"salt", length=0)
    with pytest.raises(ValueError, match="at least 1"):
        derive_key("pass", b"salt", iterations=0)
    with pytest.raises(TypeError, match="str"):
        derive_key(not_text, b"salt")


def test_random_bytes_have_the_length_asked_for_and_differ() -> None:
    assert len(secure_random_bytes(16)) == 16
    assert len({secure_random_bytes(16) for _ in range(100)}) == 100
    with pytest.raises(ValueError, match="at least 1"):
        secure_random_bytes(0)
