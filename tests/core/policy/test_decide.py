from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from converge.policy.admission import AdmissionPolicy, OpenAdmission, WhitelistAdmission
from converge.policy.decide import admits, is_trusted, settles
from converge.policy.governance import DemocraticGovernance, GovernanceModel
from converge.policy.trust import TrustModel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Answering(AdmissionPolicy, GovernanceModel, TrustModel):
    """A policy of each kind that answers as it is told."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        super().__init__()
        self.answer = answer

    def can_admit(self, agent_id: str, context: Mapping[str, object]) -> bool:
        return self.answer()  # type: ignore[no-any-return]  # odd answers are the point

    def resolve_dispute(self, context: Mapping[str, object]) -> Any:
        return self.answer()

    def get_trust(self, agent_id: str) -> float:
        return self.answer()  # type: ignore[no-any-return]  # odd answers are the point


def fail(error: Exception) -> Callable[[], object]:
    def answer() -> object:
        raise error

    return answer


async def a_coroutine() -> bool:
    return True


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_a_policy_that_answers_is_followed() -> None:
    assert admits(OpenAdmission(), "a", {}) is True
    assert admits(WhitelistAdmission(["a"]), "b", {}) is False
    assert settles(DemocraticGovernance(), {"votes": ["x", "x", "y"]}) == "x"


@pytest.mark.parametrize("error", [ValueError("bad"), KeyError("token"), RecursionError(), UnprintableError()])
def test_a_policy_that_raises_denies_and_the_reason_is_logged(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    policy = Answering(fail(error))
    assert admits(policy, "a", {}) is False
    assert settles(policy, {}) is None
    assert is_trusted(policy, "a", 0.1) is False
    assert caplog.text.count(f"Answering raised {type(error).__name__}") == 3


@pytest.mark.parametrize("answer", [1, "yes", None, object(), [True]])
def test_an_answer_that_is_not_a_bool_admits_nobody(answer: object, caplog: pytest.LogCaptureFixture) -> None:
    assert admits(Answering(lambda: answer), "a", {}) is False
    assert "not a bool" in caplog.text


def test_a_coroutine_is_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    policy = Answering(a_coroutine)
    assert admits(policy, "a", {}) is False
    assert is_trusted(policy, "a", 0.5) is False
    assert settles(policy, {}) is None
    assert caplog.text.count("answered with coroutine") == 3


@pytest.mark.parametrize("answer", [math.nan, [math.nan], {"x": set()}, {"x"}])
def test_an_option_that_cannot_be_one_settles_nothing(answer: object) -> None:
    assert settles(Answering(lambda: answer), {}) is None


def test_what_is_no_policy_denies() -> None:
    nothing: Any = None
    assert admits(nothing, "a", {}) is False
    assert settles(nothing, {}) is None


def test_the_token_and_line_breaks_stay_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    policy = Answering(fail(ValueError("s3cret is wrong\nadmitted: everybody")))
    assert admits(policy, "a\nINFO forged", {"token": "s3cret"}) is False
    assert "s3cret" not in caplog.text
    assert len(caplog.text.splitlines()) == 1


def test_trust_is_asked_only_above_a_threshold_of_zero() -> None:
    model = Answering(fail(RuntimeError("asked")))
    assert is_trusted(model, "a", 0) is True
    assert is_trusted(None, "a", 0.0) is True


def test_trust_at_the_threshold_is_enough_and_below_is_not() -> None:
    model = TrustModel(0.5)
    assert is_trusted(model, "a", 0.5) is True
    assert is_trusted(model, "a", 0.51) is False


def test_a_threshold_without_a_model_to_ask_is_met_by_nobody(caplog: pytest.LogCaptureFixture) -> None:
    assert is_trusted(None, "a", 0.1) is False
    assert "no trust model" in caplog.text


@pytest.mark.parametrize("threshold", [math.nan, math.inf, -0.1, 1.1, True])
def test_a_threshold_that_is_no_trust_is_met_by_nobody(threshold: float) -> None:
    assert is_trusted(TrustModel(1), "a", threshold) is False


@pytest.mark.parametrize("trust", [math.nan, math.inf, 1.1, "1", None, True])
def test_a_trust_that_is_none_is_not_enough(trust: object) -> None:
    assert is_trusted(Answering(lambda: trust), "a", 0.1) is False
