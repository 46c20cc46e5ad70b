from __future__ import annotations

import pickle

import pytest

from converge.coordination import errors
from converge.core.errors import ConvergeError

EXAMPLES: list[ConvergeError] = [
    errors.TaskError("text", "t"),
    errors.TaskConflict("text", "t"),
    errors.UnknownTask("t"),
    errors.ClaimLost("text", "t"),
    errors.ContractRefused("t", "why"),
    errors.InvalidTransition("text", "t"),
    errors.ForeignRecord("task:t", "it is odd"),
    errors.PoolError("text", "p"),
    errors.PoolExists("text", "p"),
    errors.UnknownPool("p"),
    errors.VoteRefused("v", "a", "why"),
    errors.MoveRefused("text", "s"),
    errors.AuctionRefused("text", "a"),
    errors.AuctionExists("text", "a"),
    errors.UnknownAuction("text", "a"),
    errors.NegotiationRefused("text", "s"),
    errors.UnknownSession("text", "s"),
    errors.DelegationRefused("text", "d"),
    errors.UnknownDelegation("text", "d"),
    errors.ApprovalRefused("text", "a"),
    errors.UnknownApproval("text", "a"),
]


def test_every_error_has_an_example_here() -> None:
    assert sorted(type(error).__name__ for error in EXAMPLES) == errors.__all__


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_is_a_value_error_and_keeps_its_data_through_pickle(error: ConvergeError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(error, ValueError)
    assert (type(copy).__name__, str(copy), vars(copy)) == (type(error).__name__, str(error), vars(error))


def test_what_is_unknown_is_a_lookup_error_that_says_what_to_do() -> None:
    for error in (errors.UnknownTask("t"), errors.UnknownPool("p")):
        assert isinstance(error, LookupError)
    assert str(errors.UnknownTask("t")) == "there is no task 't'; submit it first"
    assert str(errors.UnknownPool("p")) == "there is no pool 'p'; create it first"
    assert "use the version that wrote it" in str(errors.ForeignRecord("task:t", "it is odd"))
