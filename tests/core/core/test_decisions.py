from __future__ import annotations

import inspect
import pickle
from typing import Any

import pytest
from attrs.exceptions import FrozenInstanceError

from converge.core import decisions
from converge.core.decisions import Decision, InvokeTool, SubmitBid
from converge.core.message import Message
from converge.core.task import Task

REQUIRED = inspect.Parameter.empty

CONTRACT: dict[str, dict[str, object]] = {
    "SendMessage": {"message": REQUIRED},
    "JoinPool": {"pool_id": REQUIRED},
    "LeavePool": {"pool_id": REQUIRED},
    "CreatePool": {"spec": REQUIRED},
    "SubmitTask": {"task": REQUIRED},
    "ClaimTask": {"task_id": REQUIRED},
    "ReportTask": {"task_id": REQUIRED, "result": REQUIRED},
    "SubmitBid": {"auction_id": REQUIRED, "amount": REQUIRED, "content": None},
    "Vote": {"vote_id": REQUIRED, "option": REQUIRED},
    "Propose": {"session_id": REQUIRED, "proposal_content": REQUIRED},
    "AcceptProposal": {"session_id": REQUIRED},
    "RejectProposal": {"session_id": REQUIRED},
    "Delegate": {"delegatee_id": REQUIRED, "scope": REQUIRED},
    "RevokeDelegation": {"delegation_id": REQUIRED},
    "InvokeTool": {"tool_name": REQUIRED, "params": REQUIRED},
}
VALUES: dict[str, Any] = {
    "message": Message("m", timestamp=1),
    "task": Task("t"),
    "amount": 1.5,
    "scope": ["read"],
    "spec": {"id": "p"},
    "params": {"x": 1},
    "result": {"done": True},
}


def arguments(name: str) -> list[Any]:
    return [VALUES.get(parameter, parameter) for parameter in CONTRACT[name]]


def made(name: str) -> Decision:
    decision: Decision = getattr(decisions, name)(*arguments(name))
    return decision


def test_there_are_these_decisions_and_no_others() -> None:
    assert set(decisions.__all__) == {"Decision", *CONTRACT}


@pytest.mark.parametrize("name", CONTRACT)
def test_the_parameters_are_those_of_the_contract_in_its_order(name: str) -> None:
    given = inspect.signature(getattr(decisions, name)).parameters
    parameters = {key: one for key, one in given.items() if one.kind is not one.KEYWORD_ONLY}
    assert list(parameters) == list(CONTRACT[name])
    assert all(one.default is not one.empty for key, one in given.items() if key not in parameters)
    for parameter, default in CONTRACT[name].items():
        if default is not REQUIRED:
            assert parameters[parameter].default is default


@pytest.mark.parametrize("name", CONTRACT)
def test_positional_arguments_end_up_in_their_attributes(name: str) -> None:
    decision = made(name)
    assert isinstance(decision, Decision)
    assert [getattr(decision, parameter) for parameter in CONTRACT[name]] == arguments(name)


@pytest.mark.parametrize("name", CONTRACT)
def test_a_decision_cannot_be_changed_or_extended(name: str) -> None:
    decision = made(name)
    for attribute in (next(iter(CONTRACT[name])), "another"):
        with pytest.raises((FrozenInstanceError, AttributeError)):
            setattr(decision, attribute, "changed")


@pytest.mark.parametrize("name", CONTRACT)
def test_decisions_are_equal_by_value_and_survive_pickle(name: str) -> None:
    assert made(name) == made(name) == pickle.loads(pickle.dumps(made(name)))


def test_optional_arguments_have_defaults_that_are_not_shared() -> None:
    assert SubmitBid("a", 1).content is None
    InvokeTool("t").params["x"] = 1
    assert InvokeTool("t").params == {}


def test_an_application_adds_its_own_by_subclassing() -> None:
    class Wave(Decision):
        def __init__(self, hand: str) -> None:
            self.hand = hand

    assert isinstance(Wave("left"), Decision)
    assert Wave("left").hand == "left"
