"""Ballots under two managers on one store, against a model: reopened, dead before any operation, clocks that jump."""

from __future__ import annotations

from attrs import define, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, precondition, rule

from converge.coordination.ballot import BallotBox
from converge.coordination.ballot_errors import BallotOpen
from converge.coordination.ballot_record import Outcome
from converge.coordination.errors import VoteRefused
from converge.coordination.pool_ballots import PoolBallots, replay
from converge.coordination.pool_manager import PoolManager
from converge.core.pool import Pool
from converge.policy.governance import QuorumGovernance, VetoGovernance
from tests.core.coordination.pool_crashing import Crash, Crashing

AGENTS = [f"agent-{number:03}" for number in range(70)]  # two records of votes
VOTERS = [AGENTS[0], AGENTS[1], AGENTS[2], "stranger"]
OPTIONS = ["yes", "no"]
POOLS = {"few": VOTERS[:3], "many": AGENTS}
voters = st.sampled_from([*VOTERS[:3] * 2, "stranger"])
options = st.sampled_from([*OPTIONS * 2, "veto", "perhaps"])
who = st.integers(0, 1)


class Clock:
    now = 1_700_000_000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


@define
class Known:
    electorate: set[str]
    deadline: float
    has_veto: bool
    votes: dict[str, str] = field(factory=dict)
    outcome: Outcome | None = None
    may_be_sealed: bool = False

    @property
    def is_full(self) -> bool:
        return {*self.votes} == self.electorate


class BallotModel(RuleBasedStateMachine):
    ballots = Bundle("ballots")

    def __init__(self) -> None:
        super().__init__()
        self.store, self.clock = Crashing(), Clock()
        self.known: dict[str, Known] = {}
        self.members = {name: {*members} for name, members in POOLS.items()}
        self.models = {"few": VetoGovernance(VOTERS[0]), "many": QuorumGovernance(0.03)}
        pools = PoolManager(self.store)
        for name, members in POOLS.items():
            pools.create_pool(Pool(name, governance=self.models[name], agents=members))
        self.managers = [self._opened(), self._opened()]

    def _opened(self) -> PoolBallots:
        return PoolBallots(PoolManager(self.store), clock=self.clock)

    @initialize(target=ballots)
    def begin(self) -> object:
        return multiple(self.open(0, "few", 60.0), self.open(1, "few", 3600.0), self.open(0, "many", 3600.0))

    @precondition(lambda self: len(self.known) < 6)
    @rule(target=ballots, number=who, pool=st.sampled_from([*POOLS]), lasts=st.sampled_from([60.0, 3600.0]))
    def opening(self, number: int, pool: str, lasts: float) -> str:
        return self.open(number, pool, lasts)

    def open(self, number: int, pool: str, lasts: float) -> str:
        deadline = self.clock.now + lasts
        ballot = self.managers[number].open(pool, OPTIONS, deadline=deadline, agent_id=VOTERS[1])
        again = self.managers[1 - number].open(
            pool, OPTIONS, deadline=deadline, agent_id=VOTERS[1], ballot_id=ballot.id
        )
        assert again == ballot
        self.known[ballot.id] = Known(set(self.members[pool]), deadline, has_veto=pool == "few")
        return ballot.id

    @rule(number=who, agent=voters)
    def a_member_comes_or_goes(self, number: int, agent: str) -> None:
        pools = PoolManager(self.store)
        if agent != VOTERS[1] and not pools.leave_pool(agent, "few"):
            pools.join_pool(agent, "few")
        if agent != VOTERS[1]:
            self.members["few"] ^= {agent}

    @rule(number=who, ballot=ballots, votes=st.lists(st.tuples(voters, options), min_size=1, max_size=5))
    def votes(self, number: int, ballot: str, votes: list[tuple[str, str]]) -> None:
        for agent, option in votes:
            self.vote(number, ballot, agent, option, by_box=False)

    @rule(number=who, ballot=ballots, agent=voters, option=options, by_box=st.booleans())
    def vote(self, number: int, ballot: str, agent: str, option: str, by_box: bool) -> None:
        known = self.known[ballot]
        allowed = option in OPTIONS or (option == "veto" and known.has_veto and agent == VOTERS[0])
        late = known.outcome is not None or self.clock.now >= known.deadline
        expected: bool | None = None
        try:
            if by_box:
                BallotBox(self.store, clock=self.clock).cast(ballot, agent, option)
            else:
                new = self.managers[number].vote(ballot, agent, option)
                assert new is (agent not in known.votes)
        except VoteRefused:
            again = agent in known.votes and known.votes[agent] != option
            expected = agent not in known.electorate or not allowed or again or late or known.may_be_sealed
        if expected is not None:
            assert expected
            return
        assert agent in known.electorate
        assert allowed
        assert known.votes.get(agent, option) == option
        assert agent in known.votes or not late
        known.votes[agent] = option
        if not by_box and (known.is_full or late):
            self._note_closed(number, ballot)

    @rule(number=who, ballot=ballots)
    def close(self, number: int, ballot: str) -> None:
        known = self.known[ballot]
        due = known.outcome is not None or known.is_full or self.clock.now >= known.deadline
        try:
            closed = self.managers[number].close(ballot)
        except BallotOpen:
            assert not due
            return
        assert due
        assert closed.votes == known.votes
        self._note_closed(number, ballot)

    def _note_closed(self, number: int, ballot: str) -> None:
        found = self.managers[number].get(ballot)
        assert found is not None
        known = self.known[ballot]
        assert found.result is not None
        assert known.outcome in (None, found.result)
        known.outcome = found.result

    @rule(number=who)
    def close_all_that_are_due(self, number: int) -> None:
        for ballot in self.managers[number].close_due():
            self._note_closed(number, ballot)
        for ballot, known in self.known.items():
            if known.is_full or self.clock.now >= known.deadline:
                self._note_closed(number, ballot)

    @rule(seconds=st.sampled_from([1.0, 61.0, 3600.0, -3600.0]))
    def the_clock_moves(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(number=who)
    def reopen(self, number: int) -> None:
        self.managers[number] = self._opened()

    @rule(number=who, ballot=ballots, agent=voters, closes=st.booleans(), left=st.integers(0, 14), late=st.booleans())
    def die(self, number: int, ballot: str, agent: str, closes: bool, left: int, late: bool) -> None:
        known, manager = self.known[ballot], self.managers[number]
        before = manager.votes(ballot)
        self.store.arm(left, late=late)
        try:
            if closes:
                manager.close(ballot)
            else:
                manager.vote(ballot, agent, "no")
        except (Crash, VoteRefused, BallotOpen):
            pass
        self.store.disarm()
        self.reopen(number)
        found, votes = self.managers[number].get(ballot), self.managers[number].votes(ballot)
        assert found is not None
        assert {name: votes[name] for name in before} == before
        assert {*votes} - {*before} <= ({agent} & known.electorate if not closes and known.outcome is None else set())
        assert all(votes[name] == "no" for name in {*votes} - {*before})
        known.votes, known.may_be_sealed = {name: str(option) for name, option in votes.items()}, True
        if found.is_closed:
            self._note_closed(number, ballot)

    @invariant()
    def all_managers_know_the_same(self) -> None:
        for ballot, known in self.known.items():
            for manager in self.managers:
                found = manager.get(ballot)
                assert found is not None
                assert {*found.electorate} == known.electorate
                assert manager.votes(ballot) == known.votes
                assert found.result == known.outcome
                if found.result is not None:
                    assert found.votes == known.votes
                    assert replay(found) == replay(found.to_plain()) == found.result

    @invariant()
    def what_is_listed_can_be_voted_in(self) -> None:
        listed = {ballot.id for ballot in self.managers[0].list_open()}
        expected = {
            name for name, known in self.known.items() if known.outcome is None and self.clock.now < known.deadline
        }
        assert listed == expected


BallotModel.TestCase.settings = settings(max_examples=100, stateful_step_count=30)
TestBallots = BallotModel.TestCase
