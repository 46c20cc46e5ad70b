"""The members of pools under two managers on one store, against a model: reopened, and dead before any operation."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from converge.coordination.errors import PoolExists, UnknownPool
from converge.coordination.pool_manager import PoolManager
from converge.policy.admission import WhitelistAdmission
from converge.policy.trust import TrustModel
from tests.core.coordination.pool_crashing import Crash, Crashing

AGENTS = ["a", "b", "c", "stranger"]
POOLS = ["p", "q"]
LISTED = {"p": ["a", "b", "c"], "q": ["a", "b"]}

agents = st.sampled_from(AGENTS)
pools = st.sampled_from(POOLS)
who = st.integers(0, 1)


class PoolModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = Crashing()
        self.managers = [PoolManager(self.store), PoolManager(self.store)]
        self.members: dict[str, set[str]] = {}
        self.trust: dict[tuple[str, str], float] = {}

    @initialize()
    def begin(self) -> None:
        self.create(0, "p")

    def _spec(self, pool: str) -> dict[str, object]:
        return {
            "id": pool,
            "admission_policy": WhitelistAdmission(LISTED[pool]),
            "trust_model": TrustModel(),
            "trust_threshold": 0.5,
            "allowed_task_types": [pool],
        }

    @rule(number=who, pool=pools)
    def create(self, number: int, pool: str) -> None:
        self.managers[number].create_pool(self._spec(pool))
        self.members.setdefault(pool, set())

    @rule(number=who, pool=pools)
    def create_another(self, number: int, pool: str) -> None:
        if pool in self.members:
            with pytest.raises(PoolExists):
                self.managers[number].create_pool({**self._spec(pool), "admission_policy": "open"})

    @rule(number=who, agent=agents, pool=pools)
    def join(self, number: int, agent: str, pool: str) -> None:
        if pool not in self.members:
            with pytest.raises(UnknownPool):
                self.managers[number].join_pool(agent, pool)
            return
        admitted = agent in LISTED[pool] and self.trust.get((pool, agent), 0.5) >= 0.5
        assert self.managers[number].join_pool(agent, pool) is (admitted or agent in self.members[pool])
        if admitted:
            self.members[pool].add(agent)

    @rule(number=who, agent=agents, pool=pools)
    def leave(self, number: int, agent: str, pool: str) -> None:
        if pool in self.members:
            assert self.managers[number].leave_pool(agent, pool) is (agent in self.members[pool])
            self.members[pool].discard(agent)

    @rule(number=who, agent=agents, pool=pools, up=st.booleans())
    def trust_changes(self, number: int, agent: str, pool: str, up: bool) -> None:
        found = self.managers[number].get_pool(pool)
        if found is not None and found.trust_model is not None:
            before = self.trust.get((pool, agent), 0.5)
            trust = found.trust_model.update_trust(agent, 0.25 if up else -0.25)
            assert trust == min(1.0, max(0.0, before + (0.25 if up else -0.25)))
            self.trust[pool, agent] = trust

    @rule(number=who)
    def reopen(self, number: int) -> None:
        self.managers[number] = PoolManager(self.store)

    @precondition(lambda self: self.members)
    @rule(number=who, agent=agents, pool=pools, joins=st.booleans(), left=st.integers(0, 4), late=st.booleans())
    def die_in_a_move(self, number: int, agent: str, pool: str, joins: bool, left: int, late: bool) -> None:
        before = set(self.members.get(pool, set()))
        manager = self.managers[number]
        self.store.arm(left, late=late)
        with suppress(Crash, UnknownPool):
            (manager.join_pool if joins else manager.leave_pool)(agent, pool)
        self.store.disarm()
        self.reopen(number)
        found = self.managers[number].get_pool(pool)
        if found is not None:
            assert found.agents ^ before <= {agent}
            assert not found.agents - before or agent in LISTED[pool]
            self.members[pool] = found.agents

    @rule(number=who, pool=pools, left=st.integers(0, 3), late=st.booleans())
    def die_in_a_creation(self, number: int, pool: str, left: int, late: bool) -> None:
        self.store.arm(left, late=late)
        with suppress(Crash):
            self.managers[number].create_pool(self._spec(pool))
        self.store.disarm()
        self.reopen(number)
        if self.managers[number].get_pool(pool) is not None:
            self.members.setdefault(pool, set())

    @invariant()
    def all_managers_know_the_same(self) -> None:
        for manager in self.managers:
            for pool in POOLS:
                found = manager.get_pool(pool)
                assert (found and found.agents) == self.members.get(pool)
                if found is not None:
                    assert found.admission_policy == WhitelistAdmission(LISTED[pool])
            for agent in AGENTS:
                expected = [pool for pool in POOLS if agent in self.members.get(pool, set())]
                assert manager.get_pools_for_agent(agent) == expected


PoolModel.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestPools = PoolModel.TestCase
