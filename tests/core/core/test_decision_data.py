"""Decisions written down and read again."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import frozen

from converge.core.decision_data import BUILT_IN, decision_from_plain, decision_to_plain
from converge.core.decisions import (
    AcceptProposal,
    ClaimTask,
    CreatePool,
    Decision,
    Delegate,
    InvokeTool,
    JoinPool,
    LeavePool,
    Propose,
    RejectProposal,
    ReportTask,
    RevokeDelegation,
    SendMessage,
    SubmitBid,
    SubmitTask,
    Vote,
)
from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.plain import pack, unpack
from converge.core.task import Task
from converge.core.topic import Topic

ALICE = Identity.generate()
TOPIC = Topic("news", {"n": 1})
DECISIONS: list[Decision] = [
    AcceptProposal("s"),
    ClaimTask("t"),
    CreatePool({"id": "p", "topics": []}),
    Delegate("bob", ["read"]),
    InvokeTool("mail", {"to": "x", "raw": b"\x00", "$": "plain", "value": 1}),
    JoinPool("p"),
    LeavePool("p"),
    Propose("s", {"price": 3, "$": "message"}),
    RejectProposal("s"),
    ReportTask("t", {"$": "task", "value": {}}),
    RevokeDelegation("d"),
    SendMessage(Message(recipient="r" * 64, payload={"n": b"\xff"}, topics=[TOPIC])),
    SendMessage(Message(payload={"a": [1]}).sign(ALICE)),
    SubmitBid("a", 2.5, "note"),
    SubmitTask(Task("t", {"do": 1}, {"x": 2}, constraints={"timeout_sec": 3}, topic=TOPIC, pool_id="p", priority=2)),
    SubmitTask(Task("t", traceparent=f"00-{'a' * 32}-{'1' * 16}-01")),
    Vote("v", ["yes"]),
]


@frozen
class Shout(Decision):
    what: str
    message: Message | None = None


def stored(decision: Decision) -> Any:
    return unpack(pack(decision_to_plain(decision)))


def test_every_decision_of_converge_is_tried_here() -> None:
    assert {type(decision).__name__ for decision in DECISIONS} == set(BUILT_IN)


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda decision: type(decision).__name__)
def test_a_decision_comes_back_equal(decision: Decision) -> None:
    assert decision_from_plain(stored(decision)) == decision


def test_a_signed_message_comes_back_with_the_bytes_that_were_signed() -> None:
    again = decision_from_plain(stored(SendMessage(Message(payload={"a": 1}).sign(ALICE))))
    assert isinstance(again, SendMessage)
    assert again.message.verify()


def test_a_decision_of_an_application_comes_back_if_its_class_is_named() -> None:
    decision = Shout("hey", Message(payload={"n": 1}))
    assert decision_from_plain(stored(decision), {"Shout": Shout}) == decision
    with pytest.raises(ValueError, match="'Shout' is no decision known here; known are AcceptProposal, "):
        decision_from_plain(stored(decision))


class NoFields(Decision):
    pass


@pytest.mark.parametrize(
    ("decision", "error"),
    [
        (NoFields(), "NoFields is no attrs class"),
        (InvokeTool("t", {"f": object()}), r"InvokeTool.params.f: builtins.object is not plain data"),  # type: ignore[dict-item]  # what must be refused
        (CreatePool({"admission_policy": {1}}), r"CreatePool.spec.admission_policy: builtins.set is not plain data"),
    ],
)
def test_what_cannot_be_written_down_is_refused_with_its_place(decision: Decision, error: str) -> None:
    with pytest.raises(TypeError, match=error):
        decision_to_plain(decision)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"type": 1},
        {"type": "Decision"},
        {"type": "os.system", "command": "x"},
        {"type": "ClaimTask"},
        {"type": "ClaimTask", "task_id": "t", "more": 1},
        {"type": "SendMessage", "message": {"$": "message", "value": b"junk"}},
        {"type": "SendMessage", "message": {"$": "message"}},
        {"type": "SendMessage", "message": {"$": "pickle", "value": b""}},
        {"type": "SendMessage", "message": {"$": []}},
        {"type": "SubmitTask", "task": {"$": "task", "value": 3}},
        {"type": "SubmitTask", "task": {"$": "task", "value": {"id": "t", "state": "x", "y": 1}}},
        {"type": "SubmitTask", "task": {"$": "task", "value": {"id": "t", "topic": 3}}},
    ],
)
def test_what_is_no_decision_is_a_value_error(data: object) -> None:
    with pytest.raises(ValueError):
        decision_from_plain(data)
