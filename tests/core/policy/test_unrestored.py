from __future__ import annotations

from typing import TYPE_CHECKING

from converge.policy.decide import admits, settles
from converge.policy.unrestored import UnrestoredAdmission, UnrestoredGovernance

if TYPE_CHECKING:
    import pytest


def test_an_admission_policy_that_was_not_restored_denies_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    policy = UnrestoredAdmission("house rules", "no plugin of this name")
    assert admits(policy, "a", {"pool_id": "p"}) is False
    assert "'house rules' was not restored (no plugin of this name)" in caplog.text


def test_a_governance_model_that_was_not_restored_decides_nothing_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    model = UnrestoredGovernance("elders", "no plugin of this name")
    assert settles(model, {"votes": ["x"], "fallback": "y"}) is None
    assert "'elders' was not restored (no plugin of this name)" in caplog.text
