"""Random histories of two objects on one negotiation, with deadlines and crashes, compared with a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from converge.coordination.errors import NegotiationRefused
from converge.coordination.negotiation import NegotiationProtocol, NegotiationState
from converge.coordination.negotiation_record import SessionRecord
from tests.core.coordination.conftest import ManualClock
from tests.core.coordination.crashing import Crashed, CrashingStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.core.coordination.crashing import Crash

objects_drawn = st.sampled_from([0, 1])
agents_drawn = st.sampled_from(["a", "b", "c", "stranger"])
crashes_drawn = st.sampled_from([None, None, None, "before", "after"])


class NegotiationLife(RuleBasedStateMachine):
    @initialize(three=st.booleans(), rounds=st.sampled_from([None, 3]), limited=st.booleans())
    def create(self, three: bool, rounds: int | None, limited: bool) -> None:
        self.clock, self.store = ManualClock(), CrashingStore()
        self.participants = ["a", "b", "c"] if three else ["a", "b"]
        self.rounds, self.deadline = rounds, self.clock.time() + 50 if limited else None
        self.objects = [NegotiationProtocol(self.store, clock=self.clock) for _ in range(2)]
        self.objects[0].create_session(
            "a", self.participants[1:], 0, session_id="s", deadline=self.deadline, max_rounds=rounds
        )
        self.said: list[tuple[str, int]] = [("a", 0)]  # the model: every proposal, in order
        self.accepted: set[str] = set()
        self.state = "proposed"

    def may(self, agent: str, *, answers: bool) -> bool:
        if self.state == "proposed" and self.deadline is not None and self.clock.time() >= self.deadline:
            self.state = "expired"
        return agent in self.participants and self.state == "proposed" and not (answers and self.said[-1][0] == agent)

    def attempt(self, crash: Crash, move: Callable[[], object], *, allowed: bool, happens: Callable[[], None]) -> None:
        """Carry out a move that may be the last one of its process; a new one takes its place."""
        self.store.crash = crash
        try:
            move()
        except NegotiationRefused:
            assert not allowed
        except Crashed:  # at the move, or at storing that the session has expired
            if allowed and crash == "after":
                happens()
            self.objects = [NegotiationProtocol(self.store, clock=self.clock) for _ in range(2)]
        else:
            assert allowed
            happens()
        self.store.crash = None

    @rule(number=objects_drawn, agent=agents_drawn, content=st.integers(0, 3), crash=crashes_drawn)
    def propose(self, number: int, agent: str, content: int, crash: Crash) -> None:
        same = self.said[-1] == (agent, content)
        more = self.rounds is None or len(self.said) < self.rounds
        allowed = self.may(agent, answers=False) and (same or (more and agent not in self.accepted))

        def happens() -> None:
            if not same:
                self.said.append((agent, content))
                self.accepted.clear()

        self.attempt(crash, lambda: self.objects[number].propose("s", agent, content), allowed=allowed, happens=happens)

    @rule(number=objects_drawn, agent=agents_drawn, named=st.sampled_from([None, 0, -1]), crash=crashes_drawn)
    def accept(self, number: int, agent: str, named: int | None, crash: Crash) -> None:
        unseen = [voice for voice, _ in reversed(self.said)]
        clear = unseen.index(agent) if agent in unseen else len(unseen)  # proposals of others since its own
        allowed = self.may(agent, answers=True) and (named == 0 or (named is None and clear == 1))

        def happens() -> None:
            self.accepted.add(agent)
            if self.accepted | {self.said[-1][0]} == {*self.participants}:
                self.state = "accepted"

        chosen = None if named is None else len(self.said) + named
        self.attempt(
            crash,
            lambda: self.objects[number].accept("s", agent, proposal_number=chosen),
            allowed=allowed,
            happens=happens,
        )

    @rule(number=objects_drawn, agent=agents_drawn, crash=crashes_drawn, seldom=st.integers(0, 3))
    def reject(self, number: int, agent: str, crash: Crash, seldom: int) -> None:
        if seldom:  # or few histories would get far
            return
        allowed = self.may(agent, answers=True) and agent not in self.accepted

        def happens() -> None:
            self.state = "rejected"

        self.attempt(crash, lambda: self.objects[number].reject("s", agent), allowed=allowed, happens=happens)

    @rule(seconds=st.sampled_from([5, 20, -30]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds) if seconds > 0 else self.clock.set_back(-seconds)

    @invariant()
    def all_see_what_the_model_says(self) -> None:
        self.may("a", answers=False)
        for talks in self.objects:
            session = talks.get_session("s")
            assert session is not None
            assert session.state is NegotiationState(self.state)
            assert session.proposal.number == len(self.said)
            assert (session.proposal.agent_id, session.proposal.content) == self.said[-1]
            assert {*session.accepted_by} == self.accepted
            assert session.proposals[0].content == 0


def check(examples: int, *, of_mutant: bool = False) -> None:
    run_state_machine_as_test(
        NegotiationLife,
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


MUTANTS: dict[str, tuple[str, Any]] = {
    "strangers move": ("_check_move", lambda record, agent_id, what: None),
    "anybody answers any proposal": ("_check_answer", lambda record, agent_id, what, number: None),
    "an acceptance does not bind": ("_check_bound", lambda record, agent_id, what: None),
    "what was replaced is accepted": ("_is_only_one_for", lambda record, agent_id: True),
    "the deadline is not looked at": ("expired", lambda record, now: record),
    "one acceptance is enough": ("missing", []),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_model_catches_a_negotiation_in_which(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SessionRecord, *MUTANTS[mutant])
    with pytest.raises((AssertionError, ValueError)):
        check(1_000, of_mutant=True)
