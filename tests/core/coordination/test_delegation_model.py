"""Random histories of two objects on one store of delegations, with expiry and crashes, compared with a model."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from attrs import define
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from converge.coordination import delegation_record
from converge.coordination.delegation import DelegationProtocol
from converge.coordination.delegation_record import DelegationRecord
from converge.coordination.errors import DelegationRefused, UnknownDelegation
from tests.core.coordination.conftest import ManualClock
from tests.core.coordination.crashing import Crashed, CrashingStore

if TYPE_CHECKING:
    from tests.core.coordination.crashing import Crash

AGENTS = ["a", "b", "c", "d"]
ACTIONS = ["x", "y", "z"]
objects_drawn = st.sampled_from([0, 1])
agents_drawn = st.sampled_from(AGENTS)
crashes_drawn = st.sampled_from([None, None, None, "before", "after"])


@define
class Modelled:
    """What a delegation has to be."""

    delegator: str
    delegatee: str
    scope: set[str]
    parent: str | None
    ends_at: float | None
    revoked: bool = False


class DelegationLife(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock, self.store = ManualClock(), CrashingStore()
        self.objects = [DelegationProtocol(self.store, clock=self.clock) for _ in range(2)]
        self.model: dict[str, Modelled] = {}

    def restart(self) -> None:
        self.objects = [DelegationProtocol(self.store, clock=self.clock) for _ in range(2)]

    def links(self, delegation_id: str | None) -> list[Modelled]:
        found: list[Modelled] = []
        while delegation_id is not None:
            found.append(self.model[delegation_id])
            delegation_id = found[-1].parent
        return found

    def in_force(self, delegation_id: str) -> bool:
        now = self.clock.time()
        return not any(
            one.revoked or (one.ends_at is not None and now >= one.ends_at) for one in self.links(delegation_id)
        )

    @rule(
        number=objects_drawn,
        delegator=agents_drawn,
        delegatee=agents_drawn,
        scope=st.sets(st.sampled_from(ACTIONS), min_size=1),
        parent=st.integers(0, 6),
        honest=st.sampled_from([True, True, False]),
        lasts=st.sampled_from([None, None, 10, 40]),
        crash=crashes_drawn,
    )
    def delegate(
        self,
        number: int,
        delegator: str,
        delegatee: str,
        scope: set[str],
        parent: int,
        honest: bool,
        lasts: int | None,
        crash: Crash,
    ) -> None:
        delegation_id = str(len(self.model) + 1)
        parent_id = None if parent == 0 else str(parent)
        if honest and (held := self.model.get(str(parent))) is not None:
            delegator, scope = held.delegatee, scope & held.scope or scope
        ends_at = None if lasts is None else self.clock.time() + lasts
        known = parent_id is None or parent_id in self.model
        chain = self.links(parent_id) if known else []
        allowed = known and delegatee not in {delegator, *(one.delegator for one in chain)}
        if chain:
            mine = chain[0]
            ends_at = mine.ends_at if ends_at is None else ends_at
            allowed = allowed and self.in_force(str(parent_id)) and mine.delegatee == delegator and scope <= mine.scope
            allowed = allowed and (mine.ends_at is None or (ends_at is not None and ends_at <= mine.ends_at))
        self.store.crash = crash
        try:
            self.objects[number].delegate(
                delegator,
                delegatee,
                sorted(scope),
                parent_id=parent_id,
                expires_at=None if lasts is None else self.clock.time() + lasts,
                delegation_id=delegation_id,
            )
        except UnknownDelegation:
            assert not known
        except DelegationRefused:
            assert not allowed
        except Crashed:
            assert allowed
            self.restart()
        else:
            assert allowed
        self.store.crash = None
        if allowed and crash != "before":
            self.model[delegation_id] = Modelled(delegator, delegatee, scope, parent_id, ends_at)

    @rule(
        number=objects_drawn,
        agent=st.sampled_from(["me", "me", "me", None, *AGENTS]),
        which=st.integers(1, 3),
        crash=crashes_drawn,
    )
    def revoke(self, number: int, agent: str | None, which: int, crash: Crash) -> None:
        known = self.model.get(str(which))
        agent = known.delegator if agent == "me" and known is not None else agent
        allowed = known is not None and agent in (None, known.delegator)
        fresh = known is not None and not known.revoked
        self.store.crash = crash
        try:
            assert self.objects[number].revoke(str(which), agent_id=agent) is fresh
        except UnknownDelegation:
            assert known is None
        except DelegationRefused:
            assert not allowed
        except Crashed:
            assert allowed
            self.restart()
        else:
            assert allowed
        self.store.crash = None
        if known is not None and allowed and (crash != "before" or not fresh):
            known.revoked = True

    @rule(seconds=st.sampled_from([5, 30, -20]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds) if seconds > 0 else self.clock.set_back(-seconds)

    @rule(number=objects_drawn)
    def reopen(self, number: int) -> None:
        self.objects[number] = DelegationProtocol(self.store, clock=self.clock)

    @precondition(lambda self: self.model)
    @rule(number=objects_drawn, which=st.integers(0, 10), stranger=agents_drawn, asked=st.booleans())
    def ask(self, number: int, which: int, stranger: str, asked: bool) -> None:
        delegation_id = str(which % len(self.model) + 1)
        agent = self.model[delegation_id].delegatee
        principal = stranger if asked else self.links(delegation_id)[-1].delegator
        for action in ACTIONS:
            allowed = any(
                self.in_force(one) and self.links(one)[-1].delegator == principal and action in grant.scope
                for one, grant in self.model.items()
                if grant.delegatee == agent
            )
            assert self.objects[number].allows(agent, action, on_behalf_of=principal) is allowed

    @invariant()
    def all_see_what_the_model_says(self) -> None:
        for grants in self.objects:
            for delegation_id, model in self.model.items():
                seen = grants.get(delegation_id)
                assert seen is not None
                assert seen.active is self.in_force(delegation_id)
                assert (seen.revoked, seen.expires_at) == (model.revoked, model.ends_at)
                chain = self.links(delegation_id)
                assert seen.principal_id == chain[-1].delegator
                assert all(child.scope <= parent.scope for child, parent in pairwise(chain))


def check(examples: int, *, of_mutant: bool = False) -> None:
    run_state_machine_as_test(
        DelegationLife,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            database=None,
            phases=(Phase.generate,) if of_mutant else tuple(Phase),
            derandomize=of_mutant,  # so that a mutant that is caught once is caught always
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )


def test_every_history_is_one_that_the_model_allows() -> None:
    check(50)


def anybody_revokes(record: DelegationRecord, agent_id: str | None, now: float) -> DelegationRecord:
    return original_revoked(record, None, now)


def the_last_link_alone(chain: Any, now: float) -> str | None:
    return original_reason([*chain[:1]], now) if chain[0].parent_id is None else None


original_revoked, original_reason = DelegationRecord.revoked, delegation_record.why_not_in_force

MUTANTS: dict[str, tuple[str, Any]] = {
    "anybody revokes": ("converge.coordination.delegation_record.DelegationRecord.revoked", anybody_revokes),
    "a revocation does not cascade": ("converge.coordination.delegation.why_not_in_force", the_last_link_alone),
    "a scope may widen": ("converge.coordination.delegation_record.excess", lambda outer, inner: None),
    "limits of others are allowed": ("converge.coordination.delegation.permits", lambda scope, action, amount: True),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_model_catches_delegations_in_which(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*MUTANTS[mutant])
    with pytest.raises((AssertionError, ValueError)):
        check(1_000, of_mutant=True)
