from __future__ import annotations

import pickle

import pytest

from converge.core.errors import ConvergeError
from converge.policy.errors import PolicyContextError, PolicyError, PolicyOptionError, TrustError, TrustRecordError

ERRORS = [
    PolicyOptionError("P", "agents", "is wrong"),
    PolicyContextError("votes", "is wrong"),
    TrustError("wrong"),
    TrustRecordError("trust:x:a", "wrong"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_policy_errors_are_value_errors_of_converge_and_survive_pickle(error: PolicyError) -> None:
    assert isinstance(error, ConvergeError)
    assert isinstance(error, ValueError)
    restored = pickle.loads(pickle.dumps(error))
    assert (type(restored), str(restored), vars(restored)) == (type(error), str(error), vars(error))


def test_the_texts_name_what_is_wrong() -> None:
    assert str(ERRORS[0]) == "P: agents is wrong"
    assert str(ERRORS[1]) == "context['votes'] is wrong"
