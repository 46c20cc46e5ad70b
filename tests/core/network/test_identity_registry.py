from __future__ import annotations

import pytest

from converge.core.errors import IdentityError
from converge.core.identity import Identity
from converge.network.identity_registry import IdentityRegistry

ALICE, EVIL = Identity.generate(), Identity.generate()


def test_a_registered_agent_is_in_with_its_key() -> None:
    registry = IdentityRegistry()
    registry.register(ALICE.fingerprint, ALICE.public_key)
    assert ALICE.fingerprint in registry
    assert registry.get(ALICE.fingerprint) == ALICE.public_key
    assert len(registry) == 1


def test_a_stranger_is_not_in_and_has_no_key() -> None:
    registry = IdentityRegistry()
    assert ALICE.fingerprint not in registry
    assert registry.get(ALICE.fingerprint) is None


def test_a_key_that_does_not_hash_to_the_id_is_refused_and_the_right_one_stays() -> None:
    registry = IdentityRegistry()
    registry.register(ALICE.fingerprint, ALICE.public_key)
    with pytest.raises(IdentityError, match=f"belongs to {EVIL.fingerprint}, not to {ALICE.fingerprint}"):
        registry.register(ALICE.fingerprint, EVIL.public_key)
    assert registry.get(ALICE.fingerprint) == ALICE.public_key


@pytest.mark.parametrize("key", [b"", b"\0" * 32, b"\xff" * 32, "a" * 32, None])
def test_what_is_no_safe_key_is_refused(key: bytes) -> None:
    with pytest.raises(ValueError):
        IdentityRegistry().register("anybody", key)


def test_unregistering_twice_is_no_error() -> None:
    registry = IdentityRegistry()
    registry.register(ALICE.fingerprint, ALICE.public_key)
    registry.unregister(ALICE.fingerprint)
    registry.unregister(ALICE.fingerprint)
    assert ALICE.fingerprint not in registry
