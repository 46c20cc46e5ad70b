from __future__ import annotations

from converge.core import aead
from converge.extensions import crypto


def test_the_extension_is_the_encryption_of_core() -> None:
    assert sorted(crypto.__all__) == ["decrypt", "derive_key", "encrypt", "secure_random_bytes"]
    for name in crypto.__all__:
        assert getattr(crypto, name) is getattr(aead, name)


def test_a_password_seals_and_opens_a_secret() -> None:
    salt = crypto.secure_random_bytes(16)
    sealed = crypto.encrypt(b"secret", crypto.derive_key("correct horse", salt, iterations=10), b"for bob")
    assert crypto.decrypt(sealed, crypto.derive_key("correct horse", salt, iterations=10), b"for bob") == b"secret"
