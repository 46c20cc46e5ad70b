"""Bids, proposals and delegations that an agent decides on: in its own name, and refused with the reason."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from attrs import frozen

from converge.coordination.bidding import AuctionType, BiddingProtocol
from converge.coordination.delegation import DelegationProtocol
from converge.coordination.negotiation import NegotiationProtocol, NegotiationState
from converge.coordination.pool_manager import PoolManager
from converge.coordination.task_manager import TaskManager
from converge.core.decisions import (
    AcceptProposal,
    Decision,
    Delegate,
    Propose,
    RejectProposal,
    RevokeDelegation,
    SubmitBid,
    SubmitTask,
    Vote,
)
from converge.core.task import Task
from converge.core.topic import Topic
from converge.extensions.storage.memory import MemoryStore
from converge.extensions.storage.sqlite import SQLiteStore
from converge.policy.safety import ActionPolicy
from converge.runtime.executor import StandardExecutor
from tests.core.runtime.conftest import Scripted

if TYPE_CHECKING:
    from pathlib import Path

    from converge.core.agent import Outcome
    from tests.core.runtime.conftest import World

ENGLISH = AuctionType.ENGLISH
MOVES: list[Decision] = [
    SubmitBid("x", 1),
    Propose("s", 1),
    AcceptProposal("s"),
    RejectProposal("s"),
    Delegate("b", ["x"]),
    RevokeDelegation("d"),
]


@frozen
class AcceptNumbered(AcceptProposal):
    """An acceptance that says which proposal it means."""

    proposal_number: int


@frozen
class DelegatePart(Delegate):
    """A part of what was delegated to me."""

    parent_id: str
    expires_at: float | None = None


async def done_by(agent_id: str, *decisions: Decision, **options: Any) -> list[Outcome]:
    return await StandardExecutor(agent_id, **options).execute(decisions)


async def test_a_bid_is_made_in_the_agent_s_own_name_in_the_auction_that_is_meant() -> None:
    auctions = {name: BiddingProtocol(ENGLISH, auction_id=name) for name in ("x", "y")}
    (outcome,) = await done_by("me", SubmitBid("y", 10, {"by": "noon"}), bidding_protocols=auctions)
    assert outcome.status == "done"
    assert outcome.value == auctions["y"].bids()[0]
    assert [(bid.agent_id, bid.amount, bid.content) for bid in auctions["y"].bids()] == [("me", 10, {"by": "noon"})]
    assert auctions["x"].bids() == []


async def test_an_auction_that_is_added_later_is_found() -> None:
    auctions: dict[str, BiddingProtocol] = {}
    carrier = StandardExecutor("me", bidding_protocols=auctions)
    assert (await carrier.execute([SubmitBid("x", 1)]))[0].status == "refused"
    auctions["x"] = BiddingProtocol(ENGLISH)
    assert (await carrier.execute([SubmitBid("x", 1)]))[0].status == "done"


async def test_a_negotiation_of_two_agents_through_their_executors() -> None:
    talks = NegotiationProtocol()
    session_id = talks.create_session("a", ["b"], 1)
    (countered,) = await done_by("b", Propose(session_id, 2), negotiation_protocol=talks)
    assert countered.status == "done"
    outcomes = await done_by("a", AcceptProposal(session_id), RejectProposal(session_id), negotiation_protocol=talks)
    assert [outcome.status for outcome in outcomes] == ["done", "refused"]
    assert outcomes[0].value == talks.get_session(session_id)
    assert "it has ended: accepted" in str(outcomes[1].error)


async def test_a_rejection_ends_a_negotiation() -> None:
    talks = NegotiationProtocol()
    session_id = talks.create_session("a", ["b"], 1)
    (outcome,) = await done_by("b", RejectProposal(session_id), negotiation_protocol=talks)
    session = talks.get_session(session_id)
    assert outcome.status == "done"
    assert session is not None
    assert session.state is NegotiationState.REJECTED


async def test_a_decision_of_an_application_s_own_may_say_which_proposal_it_means() -> None:
    talks = NegotiationProtocol()
    session_id = talks.create_session("a", ["b"], 1)
    talks.propose(session_id, "a", 100)
    decisions = [AcceptProposal(session_id), AcceptNumbered(session_id, 1), AcceptNumbered(session_id, 2)]
    outcomes = await done_by("b", *decisions, negotiation_protocol=talks)
    assert [outcome.status for outcome in outcomes] == ["refused", "refused", "done"]
    assert "it has to name one" in str(outcomes[0].error)
    assert "it is of proposal 1; the present one is number 2" in str(outcomes[1].error)


async def test_delegations_are_made_and_revoked_in_the_agent_s_own_name() -> None:
    grants = DelegationProtocol()
    (made,) = await done_by("alice", Delegate("bob", ["read"]), delegation_protocol=grants)
    delegation_id = str(made.value)
    assert grants.allows("bob", "read", on_behalf_of="alice")
    revoke = RevokeDelegation(delegation_id)
    for stranger in ("bob", "eve"):
        (refused,) = await done_by(stranger, revoke, delegation_protocol=grants)
        assert (refused.status, "is revoked by its delegator" in str(refused.error)) == ("refused", True)
    outcomes = await done_by("alice", revoke, revoke, delegation_protocol=grants)
    assert [(outcome.status, outcome.value) for outcome in outcomes] == [("done", True), ("done", False)]
    assert not grants.allows("bob", "read", on_behalf_of="alice")


async def test_a_delegate_decision_of_an_application_s_own_may_hand_on_a_part() -> None:
    grants = DelegationProtocol()
    first = grants.delegate("alice", "bob", ["read", "write"])
    outcomes = await done_by(
        "bob",
        DelegatePart("carol", ["read"], first),
        DelegatePart("carol", ["delete"], first),
        delegation_protocol=grants,
    )
    assert [outcome.status for outcome in outcomes] == ["done", "refused"]
    assert grants.allows("carol", "read", on_behalf_of="alice")
    assert not grants.allows("carol", "delete", on_behalf_of="alice")


@pytest.mark.parametrize(
    ("decision", "reason"),
    [
        (SubmitBid("x", float("nan")), "the amount is nan"),
        (SubmitBid("x", -1), "the amount is an int below 0"),
        (SubmitBid("x", True), "the amount is a number, not a bool"),
        (SubmitBid("x", "5"), "the amount is a number, not a str"),  # type: ignore[arg-type]  # wrong on purpose
        (SubmitBid("nowhere", 1), "this executor has no auction 'nowhere'"),
        (Propose("s", 1), "it is no participant"),
        (AcceptProposal("s"), "it is no participant"),
        (RejectProposal("s"), "it is no participant"),
        (AcceptProposal("none"), "there is no negotiation 'none'"),
        (Delegate("eve", ["x"]), "an agent does not delegate to itself"),
        (RevokeDelegation("none"), "there is no delegation 'none'"),
    ],
    ids=repr,
)
async def test_a_move_that_is_not_allowed_is_refused_and_the_rest_is_done(decision: Decision, reason: str) -> None:
    store = MemoryStore()
    talks = NegotiationProtocol(store)
    talks.create_session("a", ["b"], 1, session_id="s")
    outcomes = await done_by(
        "eve",
        decision,
        Vote("v", 1),
        bidding_protocols={"x": BiddingProtocol(ENGLISH, store)},
        negotiation_protocol=talks,
        delegation_protocol=DelegationProtocol(store),
        votes_store=store,
    )
    assert [outcome.status for outcome in outcomes] == ["refused", "done"]
    assert reason in str(outcomes[0].error)


@pytest.mark.parametrize(
    "decision",
    [
        SubmitBid(["x"], 1),  # type: ignore[arg-type]  # wrong on purpose
        SubmitBid("x", 1, object()),  # type: ignore[arg-type]  # wrong on purpose
        Propose("s", object()),  # type: ignore[arg-type]  # wrong on purpose
        AcceptProposal(None),  # type: ignore[arg-type]  # wrong on purpose
        Delegate("b", "read"),  # type: ignore[arg-type]  # wrong on purpose
        Delegate(None, ["x"]),  # type: ignore[arg-type]  # wrong on purpose
        RevokeDelegation(5),  # type: ignore[arg-type]  # wrong on purpose
    ],
    ids=lambda decision: type(decision).__name__,
)
async def test_a_move_of_a_wrong_type_fails_alone(decision: Decision) -> None:
    talks = NegotiationProtocol()
    talks.create_session("a", ["me"], 1, session_id="s")
    outcomes = await done_by(
        "me",
        decision,
        SubmitBid("x", 1),
        bidding_protocols={"x": BiddingProtocol(ENGLISH)},
        negotiation_protocol=talks,
        delegation_protocol=DelegationProtocol(),
    )
    assert [outcome.status for outcome in outcomes] == ["failed", "done"]


@pytest.mark.parametrize("decision", MOVES, ids=lambda decision: type(decision).__name__)
async def test_the_action_policy_is_asked_before_every_move(decision: Decision) -> None:
    name, store = type(decision).__name__, MemoryStore()
    options: dict[str, Any] = {
        "bidding_protocols": {"x": BiddingProtocol(ENGLISH, store)},
        "negotiation_protocol": NegotiationProtocol(store),
        "delegation_protocol": DelegationProtocol(store),
    }
    before = store.changes()[0]
    others = [type(move).__name__ for move in MOVES if move is not decision]
    for allowed in ([], others):
        (outcome,) = await done_by("me", decision, safety_policy=(None, ActionPolicy(allowed)), **options)
        assert (outcome.status, outcome.error) == ("refused", f"the action policy does not allow {name}")
    assert store.changes()[0] == before
    (outcome,) = await done_by("me", decision, safety_policy=(None, ActionPolicy([name])), **options)
    assert "action policy" not in str(outcome.error)


@pytest.mark.parametrize("decision", MOVES, ids=lambda decision: type(decision).__name__)
async def test_a_custom_handler_goes_before_a_protocol(decision: Decision) -> None:
    (outcome,) = await done_by("me", decision, custom_handlers={type(decision): lambda decision: "mine"})
    assert (outcome.status, outcome.value) == ("done", "mine")


async def test_moves_on_a_blocking_store_are_made_from_the_store_thread(world: World, tmp_path: Path) -> None:
    threads = list[bool]()

    class Watched(SQLiteStore):
        def compare_and_set(self, key: str, value: Any, expected: int) -> int:
            threads.append(threading.current_thread() is threading.main_thread())
            return super().compare_and_set(key, value, expected)

    with Watched(tmp_path / "s.db") as store:
        auctions = {"x": BiddingProtocol(ENGLISH, store)}
        grants = DelegationProtocol(store)
        threads.clear()
        agent = Scripted([SubmitBid("x", 1), Delegate("bob", ["read"])], [])
        runtime = await world.started(
            agent, executor_kwargs={"bidding_protocols": auctions, "delegation_protocol": grants}
        )
        await agent.called(1)
        peer = await world.peer()
        await peer.tell(agent.id)
        await agent.called(2)
        assert [outcome.status for outcome in agent.shown[1][2]] == ["done", "done"]
        assert threads == [False, False]
        assert grants.allows("bob", "read", on_behalf_of=agent.id)
        await runtime.stop()


async def test_a_task_that_its_pool_is_not_for_is_not_submitted_and_the_others_are() -> None:
    pools, tasks = PoolManager(), TaskManager()
    pools.create_pool({"id": "p", "allowed_task_types": ["code"]})
    executor = StandardExecutor("a" * 64, task_manager=tasks, pool_manager=pools)
    outcomes = await executor.execute(
        [
            SubmitTask(Task(id="code", pool_id="p", topic=Topic("code"))),
            SubmitTask(Task(id="prose", pool_id="p", topic=Topic("prose"))),
            SubmitTask(Task(id="plain", pool_id="p")),
            SubmitTask(Task(id="elsewhere", pool_id="q")),
        ]
    )
    assert [outcome.status for outcome in outcomes] == ["done", "refused", "refused", "done"]
    assert "the pool 'p' is for tasks of other types" in str(outcomes[1].error)
    assert {task.id for task in tasks.list_pending_tasks()} == {"code", "elsewhere"}
