"""Records of pools and ballots that somebody else wrote, or damaged: denied or refused, by documented errors only."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converge.coordination.ballot import BallotBox
from converge.coordination.ballot_errors import BallotError
from converge.coordination.errors import ForeignRecord, UnknownPool, VoteRefused
from converge.coordination.pool_ballots import PoolBallots, replay
from converge.coordination.pool_manager import PoolManager
from converge.core.plain import pack
from converge.core.pool import Pool
from converge.extensions.storage.memory import MemoryStore
from converge.policy.admission import WhitelistAdmission
from converge.policy.governance import QuorumGovernance
from converge.policy.trust import TrustModel

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(["a", "yes", "p", "use", "open", "default"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


class Clock:
    now = 1_700_000_000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


def stored() -> dict[str, Any]:
    """A pool, an open ballot with its votes, and a closed one."""
    store, clock = MemoryStore(), Clock()
    pools = PoolManager(store)
    pools.create_pool(
        Pool(
            "p",
            admission_policy=WhitelistAdmission(["a", "b"]),
            governance=QuorumGovernance(),
            agents=["a", "b"],
            trust_model=TrustModel(scores={"a": 0.9}),
            trust_threshold=0.4,
        )
    )
    ballots = PoolBallots(pools, clock=clock)
    for name in ("open", "closed"):
        ballots.open("p", ["yes", "no"], deadline=clock.now + 60, ballot_id=name, rules={"fallback": "no"})
        ballots.vote(name, "a", "yes")
    ballots.vote("closed", "b", "yes")
    return {key: store.get(key) for key in store.list()}


RECORDS = stored()
KEYS = sorted(RECORDS)


def places(value: Any) -> list[list[Any]]:
    """The way to each part of a value, itself included."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [[], *([name, *rest] for name, part in parts for rest in places(part))]


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, Any]:
    key = draw(st.sampled_from(KEYS))
    record: Any = deepcopy(RECORDS[key])
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.sampled_from(places(record)))
        if not place:
            record = draw(plain)
            continue
        inside = record
        for name in place[:-1]:
            inside = inside[name]
        if draw(st.booleans()):
            inside[place[-1]] = draw(plain)
        elif isinstance(inside, dict):
            del inside[place[-1]]
            inside[draw(st.text(max_size=4))] = draw(plain)
        else:
            inside.append(draw(plain))
    return key, record


def attempt(move: Any) -> Any:
    """What it returned, or the documented error that it raised."""
    try:
        return move()
    except (ForeignRecord, UnknownPool, VoteRefused, BallotError) as error:
        return error


@settings(max_examples=400)
@given(change=damaged())
def test_damaged_records_are_refused_by_documented_errors_and_never_admit_a_stranger(change: tuple[str, Any]) -> None:
    key, record = change
    store, clock = MemoryStore(), Clock()
    store.put_many({**RECORDS, key: record})
    pools = PoolManager(store)
    ballots, box = PoolBallots(pools, clock=clock), BallotBox(store, clock=clock)
    before = pack(store.get(key))
    attempt(lambda: pools.get_pool("p"))
    attempt(lambda: pools.join_pool("b", "p"))
    assert isinstance(attempt(lambda: pools.get_pools_for_agent("a")), list)
    for name in ("open", "closed"):
        attempt(lambda name=name: ballots.get(name))
        attempt(lambda name=name: ballots.votes(name))
        attempt(lambda name=name: box.votes(name))
        attempt(lambda name=name: box.cast(name, "b", "no"))
        attempt(lambda name=name: ballots.vote(name, "a", "no"))
        attempt(lambda name=name: ballots.result(name))
    clock.now += 61
    assert isinstance(ballots.close_due(), list)
    assert isinstance(ballots.list_open(), list)
    found = attempt(lambda: ballots.close("open"))
    if not isinstance(found, Exception):
        assert replay(found) == found.result or key.startswith("ballot:")
    if isinstance(attempt(lambda: pools.get_pool("p")), ForeignRecord):
        assert pack(store.get(key)) == before


@settings(max_examples=150)
@given(table=plain)
def test_a_policy_table_that_is_not_what_was_stored_denies_or_is_another_policy_by_name(table: Any) -> None:
    store = MemoryStore()
    pool: Any = deepcopy(RECORDS["pool:p"])
    pool["admission_policy"] = table
    store.put("pool:p", pool)
    joined = attempt(lambda: PoolManager(store).join_pool("stranger", "p"))
    named = table is None or (isinstance(table, dict) and table.get("use") == "open")
    assert joined is named or isinstance(joined, ForeignRecord)


def test_the_records_of_this_file_are_sound() -> None:
    store = MemoryStore()
    store.put_many(RECORDS)
    ballots = PoolBallots(PoolManager(store), clock=Clock())
    assert ballots.votes("open") == {"a": "yes"}
    found = ballots.get("closed")
    assert found is not None
    assert found.result == replay(found)
    with pytest.raises(VoteRefused):
        ballots.vote("open", "stranger", "yes")
