"""Who may hand on what, for how long, and what a revocation ends."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from converge.coordination.delegation import Delegation, DelegationProtocol
from converge.coordination.delegation_record import MAX_DEPTH
from converge.coordination.errors import DelegationRefused, ForeignRecord, UnknownDelegation
from converge.extensions.storage.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.core.store import VersionedStore
    from tests.core.coordination.conftest import ManualClock


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def grants(store: MemoryStore, clock: ManualClock) -> DelegationProtocol:
    return DelegationProtocol(store, clock=clock)


def looked_at(grants: DelegationProtocol, delegation_id: str) -> Delegation:
    found = grants.get(delegation_id)
    assert found is not None
    return found


def chain_of(grants: DelegationProtocol, agents: str, scope: Any = ("x",)) -> list[str]:
    """A chain of delegations along `agents`, one letter each; the ids from the first to the last."""
    ids: list[str] = []
    for delegator, delegatee in pairwise(agents):
        ids.append(grants.delegate(delegator, delegatee, scope, parent_id=ids[-1] if ids else None))
    return ids


def test_a_delegation_is_seen_by_everybody_until_its_delegator_revokes_it(
    open_store: Callable[[], VersionedStore], clock: ManualClock
) -> None:
    one, two = DelegationProtocol(open_store(), clock=clock), DelegationProtocol(open_store(), clock=clock)
    delegation_id = one.delegate("alice", "bob", ["read", "write", "read"])
    seen = looked_at(two, delegation_id)
    assert (seen.active, seen.reason, seen.revoked) == (True, None, False)
    assert (seen.principal_id, seen.delegator_id, seen.delegatee_id) == ("alice", "alice", "bob")
    assert seen.scope == ["read", "write"]
    assert two.allows("bob", "write", on_behalf_of="alice")
    assert two.revoke(delegation_id, agent_id="alice")
    assert not one.revoke(delegation_id, agent_id="alice")
    gone = looked_at(one, delegation_id)
    assert (gone.active, gone.revoked, gone.reason) == (False, True, f"delegation {delegation_id!r} has been revoked")
    assert not one.allows("bob", "write", on_behalf_of="alice")


@pytest.mark.parametrize("stranger", ["eve", "bob", "carol", ""])
def test_nobody_revokes_what_is_not_theirs(grants: DelegationProtocol, stranger: str) -> None:
    first, second = chain_of(grants, "abc")
    with pytest.raises(DelegationRefused, match="is revoked by its delegator, not by") as caught:
        grants.revoke(first, agent_id=stranger)
    assert caught.value.subject_id == first
    with pytest.raises(DelegationRefused):
        grants.revoke(second, agent_id="a")
    assert looked_at(grants, second).active


def test_without_an_agent_a_revocation_is_an_administrator_s(grants: DelegationProtocol) -> None:
    delegation_id = grants.delegate("alice", "bob", ["x"])
    assert grants.revoke(delegation_id)
    assert not looked_at(grants, delegation_id).active


def test_a_revocation_ends_the_whole_chain_at_once_and_nothing_above_it(
    grants: DelegationProtocol, store: MemoryStore
) -> None:
    ids = chain_of(grants, "abcde")
    other = grants.delegate("b", "z", ["x"], parent_id=ids[0])
    writes = store.changes()[0]
    grants.revoke(ids[1], agent_id="b")
    assert store.changes()[0] == writes + 1
    assert [looked_at(grants, one).active for one in ids] == [True, False, False, False]
    assert looked_at(grants, ids[3]).reason == f"delegation {ids[1]!r} has been revoked"
    assert not looked_at(grants, ids[3]).revoked
    assert looked_at(grants, other).active
    with pytest.raises(DelegationRefused, match="has been revoked"):
        grants.delegate("d", "f", ["x"], parent_id=ids[2])


# -- scope


@pytest.mark.parametrize(
    ("outer", "inner", "fits"),
    [
        (["r", "w"], ["r"], True),
        (["r", "w"], ["w", "r"], True),
        (["r"], ["r", "w"], False),
        (["r"], ["R"], False),
        (["r*"], ["read"], False),
        (["spend"], {"spend": 5}, True),
        (["spend"], {"spend": None}, True),
        ({"spend": 100}, {"spend": 100}, True),
        ({"spend": 100}, {"spend": 99.5}, True),
        ({"spend": 100}, {"spend": 101}, False),
        ({"spend": 100}, {"spend": None}, False),
        ({"spend": 100}, ["spend"], False),
        ({"spend": None, "read": None}, ["spend", "read"], True),
        ({"spend": 0}, {"spend": 0}, True),
        ({"spend": 0}, {"spend": 1}, False),
    ],
)
def test_a_scope_only_narrows_along_a_chain(grants: DelegationProtocol, outer: Any, inner: Any, fits: bool) -> None:
    first = grants.delegate("a", "b", outer)
    if fits:
        second = looked_at(grants, grants.delegate("b", "c", inner, parent_id=first))
        assert (second.active, second.principal_id, second.parent_id) == (True, "a", first)
    else:
        with pytest.raises(DelegationRefused, match="the scope goes beyond that of delegation"):
            grants.delegate("b", "c", inner, parent_id=first)


@pytest.mark.parametrize(
    ("scope", "text"),
    [
        ("read", "a list of action names, or a dict of them with limits, not 'read'"),
        (None, "a scope is a list"),
        (5, "a scope is a list"),
        ([], "1 to 1000 actions, not 0"),
        ({}, "1 to 1000 actions, not 0"),
        ([str(n) for n in range(1001)], "not 1001"),
        ([""], "the name of an action cannot be empty"),
        ({"spend": math.nan}, "the limit of 'spend' is nan"),
        ({"spend": -1}, "the limit of 'spend'"),
        ({"spend": True}, "the limit of 'spend' is a number, not a bool"),
        ({"spend": "5"}, "the limit of 'spend' is a number"),
    ],
)
def test_what_is_no_scope_is_refused_and_nothing_is_stored(
    grants: DelegationProtocol, store: MemoryStore, scope: Any, text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        grants.delegate("a", "b", scope)
    assert store.list() == []


@pytest.mark.parametrize(
    ("action", "amount", "allowed"),
    [
        ("read", None, True),
        ("read", 5, True),
        ("spend", 100, True),
        ("spend", 0, True),
        ("spend", 100.5, False),
        ("spend", None, False),
        ("spend", math.nan, False),
        ("spend", -1, False),
        ("spend", "5", False),
        ("read", math.nan, False),
        ("write", None, False),
        ("", None, False),
    ],
)
def test_an_action_is_allowed_within_its_limit(
    grants: DelegationProtocol, action: str, amount: Any, allowed: bool
) -> None:
    grants.delegate("alice", "bob", {"read": None, "spend": 100})
    assert grants.allows("bob", action, on_behalf_of="alice", amount=amount) is allowed


def test_a_delegation_is_in_the_name_of_who_the_chain_begins_with_and_nobody_else(grants: DelegationProtocol) -> None:
    chain_of(grants, "abc")
    grants.delegate("eve", "mallory", ["everything"])
    assert grants.allows("c", "x", on_behalf_of="a")
    assert not grants.allows("c", "x", on_behalf_of="b")
    assert not grants.allows("a", "x", on_behalf_of="a")
    assert not grants.allows("mallory", "everything", on_behalf_of="a")
    assert grants.allows("mallory", "everything", on_behalf_of="eve")


# -- chains


def test_only_who_holds_a_delegation_delegates_a_part_of_it(grants: DelegationProtocol) -> None:
    first = grants.delegate("alice", "bob", ["x"])
    for stranger in ("eve", "alice"):
        with pytest.raises(DelegationRefused, match=f"is held by 'bob', not by {stranger!r}"):
            grants.delegate(stranger, "carol", ["x"], parent_id=first)
    with pytest.raises(UnknownDelegation, match="there is no delegation 'none'"):
        grants.delegate("bob", "carol", ["x"], parent_id="none")


def test_a_chain_has_no_cycle(grants: DelegationProtocol) -> None:
    ids = chain_of(grants, "abc")
    for delegatee in "abc":
        with pytest.raises(DelegationRefused, match="to itself or back along the chain"):
            grants.delegate("c", delegatee, ["x"], parent_id=ids[-1])
    with pytest.raises(DelegationRefused, match="to itself"):
        grants.delegate("a", "a", ["x"])


def test_the_depth_of_a_chain_is_bounded(grants: DelegationProtocol) -> None:
    ids = chain_of(grants, "abcdefghi")
    assert len(ids) == MAX_DEPTH
    assert looked_at(grants, ids[-1]).active
    with pytest.raises(DelegationRefused, match="has 8 links already"):
        grants.delegate("i", "j", ["x"], parent_id=ids[-1])


def test_a_delegation_ends_at_its_time_and_a_child_never_outlives_its_parent(
    grants: DelegationProtocol, clock: ManualClock
) -> None:
    now = clock.time()
    first = grants.delegate("a", "b", ["x"], expires_at=now + 10)
    inherited = grants.delegate("b", "c", ["x"], parent_id=first)
    shorter = grants.delegate("b", "d", ["x"], parent_id=first, expires_at=now + 5)
    assert looked_at(grants, inherited).expires_at == now + 10
    with pytest.raises(DelegationRefused, match="it would outlive delegation"):
        grants.delegate("b", "e", ["x"], parent_id=first, expires_at=now + 10.5)
    clock.advance(5)
    assert looked_at(grants, shorter).reason == f"delegation {shorter!r} has expired"
    assert looked_at(grants, inherited).active
    clock.advance(5)
    assert not looked_at(grants, first).active
    assert not looked_at(grants, inherited).active
    assert grants.held_by("c") == []
    with pytest.raises(DelegationRefused, match="has expired"):
        grants.delegate("b", "f", ["x"], parent_id=first)
    assert grants.revoke(first, agent_id="a")
    clock.set_back(3600)
    assert not looked_at(grants, first).active


@pytest.mark.parametrize("when", [0, -1, math.nan, math.inf, "soon", True])
def test_an_end_is_a_time_to_come(grants: DelegationProtocol, when: Any) -> None:
    with pytest.raises(ValueError, match="expires_at is a Unix time to come"):
        grants.delegate("a", "b", ["x"], expires_at=when)


def test_a_chain_whose_parent_is_gone_is_not_in_force(grants: DelegationProtocol, store: MemoryStore) -> None:
    first, second = chain_of(grants, "abc")
    store.delete(f"delegation:{first}")
    assert looked_at(grants, second).reason == f"delegation {first!r} is gone"
    assert not grants.allows("c", "x", on_behalf_of="b")
    assert grants.get(first) is None


@pytest.mark.parametrize(
    "change",
    [
        {"scope": ["x", "y"]},
        {"delegator_id": "z"},
        {"expires_at": None},
        {"expires_at": 1e12},
        {"parent_id": "2"},
    ],
    ids=repr,
)
def test_a_link_that_was_written_past_the_rules_is_not_in_force(
    grants: DelegationProtocol, store: MemoryStore, clock: ManualClock, change: dict[str, Any]
) -> None:
    grants.delegate("a", "b", ["x"], delegation_id="1", expires_at=clock.time() + 10)
    grants.delegate("b", "c", ["x"], delegation_id="2", parent_id="1")
    record = store.get("delegation:2")
    assert isinstance(record, dict)
    store.put("delegation:2", record | change)
    assert not looked_at(grants, "2").active
    for action in "xy":
        assert not grants.allows("c", action, on_behalf_of="a")


# -- records


def test_making_the_same_delegation_again_returns_it_and_another_one_is_refused(grants: DelegationProtocol) -> None:
    assert grants.delegate("a", "b", ["x"], delegation_id="d") == "d"
    assert grants.delegate("a", "b", ["x"], delegation_id="d") == "d"
    for arguments in (("a", "c", ["x"]), ("z", "b", ["x"]), ("a", "b", ["y"])):
        with pytest.raises(DelegationRefused, match="exists and is another one; choose another id"):
            grants.delegate(*arguments, delegation_id="d")
    grants.revoke("d")
    assert grants.delegate("a", "b", ["x"], delegation_id="d") == "d"
    assert not looked_at(grants, "d").active


def test_what_is_seen_is_a_copy(grants: DelegationProtocol) -> None:
    scope = {"spend": 5}
    delegation_id = grants.delegate("a", "b", scope)
    scope["spend"] = 500
    seen = looked_at(grants, delegation_id).scope
    assert isinstance(seen, dict)
    seen["spend"] = 500
    assert looked_at(grants, delegation_id).scope == {"spend": 5}


def test_what_an_agent_holds_is_what_is_active(grants: DelegationProtocol, store: MemoryStore) -> None:
    one = grants.delegate("a", "b", ["x"], delegation_id="1")
    two = grants.delegate("z", "b", ["y"], delegation_id="2")
    grants.delegate("a", "c", ["x"])
    assert [held.id for held in grants.held_by("b")] == [one, two]
    grants.revoke(one)
    assert [held.id for held in grants.held_by("b")] == [two]
    store.delete(f"delegation:{two}")
    assert grants.held_by("b") == []
    assert grants.held_by("nobody") == []


@pytest.mark.parametrize(
    "change",
    [
        {"id": "e"},
        {"scope": "x"},
        {"scope": []},
        {"scope": {"x": "5"}},
        {"delegator_id": ""},
        {"delegatee_id": None},
        {"parent_id": 5},
        {"expires_at": "soon"},
        {"revoked_at": True},
        {"created_at": None},
        {"more": 1},
    ],
    ids=repr,
)
def test_what_is_no_delegation_of_this_version_is_left_alone_and_allows_nothing(
    store: MemoryStore, clock: ManualClock, change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    DelegationProtocol(store, clock=clock).delegate("a", "b", ["x"], delegation_id="d")
    record = store.get("delegation:d")
    assert isinstance(record, dict)
    store.put("delegation:d", record | change)
    grants = DelegationProtocol(store, clock=clock)
    with pytest.raises(ForeignRecord, match="delegation:d"):
        grants.get("d")
    with pytest.raises(ForeignRecord):
        grants.revoke("d", agent_id="a")
    assert not grants.allows("b", "x", on_behalf_of="a")
    assert "delegation:d" in caplog.text
    assert store.changes()[0] == 2


def test_a_damaged_parent_takes_the_child_out_of_force_and_nothing_else(
    store: MemoryStore, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    grants = DelegationProtocol(store, clock=clock)
    first, _ = chain_of(grants, "abc")
    grants.delegate("z", "c", ["x"])
    store.put(f"delegation:{first}", "something else")
    assert not grants.allows("c", "x", on_behalf_of="a")
    assert grants.allows("c", "x", on_behalf_of="z")
    assert "counts for nothing" in caplog.text


def test_a_delegation_that_is_not_there_is_unknown(grants: DelegationProtocol) -> None:
    assert grants.get("d") is None
    with pytest.raises(UnknownDelegation, match="there is no delegation 'd'"):
        grants.revoke("d", agent_id="a")


def test_delegations_in_memory_do_not_block(grants: DelegationProtocol) -> None:
    assert not grants.blocking
