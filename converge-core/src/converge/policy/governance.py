"""How a dispute ends: six models of governance, each a pure function of the context it is given.

The context is a mapping. An absent key and a None mean "not given"; keys a model does not use are not looked at:

- `votes`: a list of options, one a vote, or a mapping agent id -> option. Not given: nobody voted.
- `tie_breaker`: the casting vote, an option.
- `fallback`: the option that holds when the model reaches no decision; without it the answer is None.
- `weights`, `chamber_a_votes`, `chamber_b_votes`, `veto_exercised`, `electorate`: see the model that uses them.

An option is any hashable value but None, or a list or dict of such. Anything malformed is `PolicyContextError` (a
ValueError) with the key in `error.key`, whether or not the outcome would have depended on it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen

from converge.policy.ballots import Option, check_option, leaders, option_key, strict_majority, tally
from converge.policy.errors import PolicyContextError, PolicyOptionError
from converge.policy.options import NoOptions, check_agent_id, is_amount

if TYPE_CHECKING:
    from collections.abc import Hashable
    from fractions import Fraction

    from converge.policy.ballots import Tally

__all__ = [
    "VETO",
    "BicameralGovernance",
    "DemocraticGovernance",
    "DictatorialGovernance",
    "DictatorialOptions",
    "EmpiricalGovernance",
    "GovernanceModel",
    "QuorumGovernance",
    "QuorumOptions",
    "VetoGovernance",
    "VetoOptions",
]

VETO = "veto"
"""The option by which the agent of a `VetoGovernance` vetoes in a ballot. From everybody else it is an option."""

_EVIDENCE_TIE = 10**9
"""Part of the greater sum below which a lead over the other is a tie: rounding of floats must not decide."""


class GovernanceModel(ABC):
    """Decides a dispute. To implement one, write `resolve_dispute`; it may be called from any thread.

    To be found by name and restored after a restart, a model also has `converge_options`, an attrs class whose
    fields are the keywords of the constructor, and `to_options()`, and is registered under `converge.governance`.
    """

    @abstractmethod
    def resolve_dispute(self, context: Mapping[str, object]) -> Option | None:
        """The option that wins; None when nothing is decided. Whatever this raises counts as None."""

    def extra_options(self) -> Mapping[str, tuple[Option, ...]]:
        """By agent id, what that agent may vote for in every ballot besides its options, such as a veto."""
        return {}


@frozen
class DemocraticGovernance(GovernanceModel):
    """The option with more than half of the votes cast.

    Without one, `tie_breaker` decides if it is among the options with the most votes; else it is undecided.
    """

    converge_options: ClassVar[type[NoOptions]] = NoOptions

    def to_options(self) -> dict[str, str]:
        """No options."""
        return {}

    def resolve_dispute(self, context: Mapping[str, object]) -> Option | None:
        """The winner, else `fallback`, else None."""
        return _first(_majority(context), _fallback(context))


@frozen
class DictatorialOptions:
    """Options of `DictatorialGovernance`: the agent that decides."""

    leader_id: str


@frozen
class DictatorialGovernance(GovernanceModel):
    """What the leader voted, whatever the others did; a leader who did not vote leaves it undecided.

    `votes` has to be a mapping: a list does not say which vote is the leader's, and is refused.
    """

    converge_options: ClassVar[type[DictatorialOptions]] = DictatorialOptions

    leader_id: str = field()

    @leader_id.validator
    def _check_leader_id(self, _: object, value: object) -> None:
        check_agent_id(type(self).__name__, "leader_id", value)

    def to_options(self) -> dict[str, str]:
        """The leader's id."""
        return {"leader_id": self.leader_id}

    def resolve_dispute(self, context: Mapping[str, object]) -> Option | None:
        """The leader's option, else `fallback`, else None."""
        votes = _given(context, "votes", {})
        if not isinstance(votes, Mapping):
            raise PolicyContextError("votes", "does not say who voted; a leader needs a mapping agent id -> option")
        tally(votes)
        return _first(votes.get(self.leader_id), _fallback(context))


@frozen
class BicameralGovernance(GovernanceModel):
    """The option that has more than half of the votes in each of two chambers.

    `chamber_a_votes` and `chamber_b_votes` have the form of `votes`. When each chamber has a majority and the two
    differ, `tie_breaker` decides if it is one of them. A chamber without a majority leaves it undecided.
    """

    converge_options: ClassVar[type[NoOptions]] = NoOptions

    def to_options(self) -> dict[str, str]:
        """No options."""
        return {}

    def resolve_dispute(self, context: Mapping[str, object]) -> Option | None:
        """The common majority, else `fallback`, else None."""
        first, second = (
            strict_majority(tally(_given(context, key, ()), key)) for key in ("chamber_a_votes", "chamber_b_votes")
        )
        casting, fallback = _option(context, "tie_breaker"), _fallback(context)
        if first is None or second is None:
            return fallback
        if _are_same(first, second):
            return first
        return casting if any(_are_same(casting, option) for option in (first, second)) else fallback


@frozen
class VetoOptions:
    """Options of `VetoGovernance`: the agent that may veto."""

    veto_agent_id: str


@frozen
class VetoGovernance(GovernanceModel):
    """As `DemocraticGovernance`, unless one agent vetoes: then it is undecided, whatever the majority.

    The veto is `veto_exercised=True` in the context, or that agent's vote for `VETO` where `votes` is a mapping.
    An agent that votes for another option has voted, not vetoed.
    """

    converge_options: ClassVar[type[VetoOptions]] = VetoOptions

    veto_agent_id: str = field()

    @veto_agent_id.validator
    def _check_veto_agent_id(self, _: object, value: object) -> None:
        check_agent_id(type(self).__name__, "veto_agent_id", value)

    def to_options(self) -> dict[str, str]:
        """The id of the agent that may veto."""
        return {"veto_agent_id": self.veto_agent_id}

    def resolve_dispute(self, context: Mapping[str, object]) -> Option | None:
        """The majority's option unless vetoed, else `fallback`, else None."""
        winner, fallback = _majority(context), _fallback(context)
        return fallback if self._vetoed(context) else _first(winner, fallback)

    def extra_options(self) -> Mapping[str, tuple[Option, ...]]:
        """`VETO`, for the agent that may veto: who opens a ballot cannot take the veto away."""
        return {self.veto_agent_id: (VETO,)}

    def _vetoed(self, context: Mapping[str, object]) -> bool:
        exercised = _given(context, "veto_exercised", default=False)
        if not isinstance(exercised, bool):
            raise PolicyContextError("veto_exercised", f"is {exercised!r}; it is True or False")
        votes = context.get("votes")
        return exercised or (isinstance(votes, Mapping) and votes.get(self.veto_agent_id) == VETO)


@frozen
class EmpiricalGovernance(GovernanceModel):
    """The option with the most evidence: the greatest sum of the weights of its votes.

    `weights` has the form of `votes`: a list of the same length, or a mapping agent id -> weight, where an agent
    without a weight counts for nothing. Not given: every vote weighs 1. A weight is finite and not negative. Sums
    within one part in 10⁹ are a tie. A tie, or no evidence for anything, is undecided; there is no casting vote.
    """

    converge_options: ClassVar[type[NoOptions]] = NoOptions

    def to_options(self) -> dict[str, str]:
        """No options."""
        return {}

    def resolve_dispute(self, context: Mapping[str, object]) -> Option | None:
        """The option with the most evidence, else `fallback`, else None."""
        votes, fallback = _given(context, "votes", ()), _fallback(context)
        tally(votes)
        evidence: dict[Hashable, tuple[Option, list[float]]] = {}
        for option, weight in _weighed(votes, context.get("weights")):
            evidence.setdefault(option_key(option, "votes"), (option, []))[1].append(weight)
        sums = [(option, _exact_sum(weights)) for option, weights in evidence.values()]
        return _first(_greatest(sums), fallback)


@frozen
class QuorumOptions:
    """Options of `QuorumGovernance`: the share that has to vote, and the share of the votes that decides."""

    quorum: float = 0.5
    majority: float = 0.5


@frozen
class QuorumGovernance(GovernanceModel):
    """An option that has a majority of the votes, if enough of the electorate voted at all.

    At least `quorum` of the electorate has to vote (above 0, at most 1), and the option has to have more than
    `majority` of the votes cast (at least 0.5, below 1). Both are taken as the decimal that was written, so that 0.1
    of 30 is 3. `electorate` in the context is a list of agent ids, or how many there are; without it, or with more
    votes than electors, or the vote of a stranger where ids are given, the context is refused. There is no casting
    vote.
    """

    converge_options: ClassVar[type[QuorumOptions]] = QuorumOptions

    quorum: float = field(default=0.5)
    majority: float = field(default=0.5)

    @quorum.validator
    def _check_quorum(self, _: object, value: object) -> None:
        if not is_amount(value) or not 0 < value <= 1:  # type: ignore[operator]  # a number, as is_amount found
            raise PolicyOptionError(type(self).__name__, "quorum", f"is {value!r}; give a share above 0, at most 1")

    @majority.validator
    def _check_majority(self, _: object, value: object) -> None:
        if not is_amount(value) or not 0.5 <= value < 1:  # type: ignore[operator]  # as above
            raise PolicyOptionError(
                type(self).__name__, "majority", f"is {value!r}; give a share of at least 0.5, below 1"
            )

    def to_options(self) -> dict[str, float]:
        """The two shares."""
        return {"quorum": self.quorum, "majority": self.majority}

    def resolve_dispute(self, context: Mapping[str, object]) -> Option | None:
        """The option with the majority if there is a quorum, else `fallback`, else None."""
        votes, fallback = _given(context, "votes", ()), _fallback(context)
        counted = tally(votes)
        electors = _electors(context, votes, counted)
        if counted.total == 0 or counted.total < _decimal(self.quorum) * electors:
            return fallback
        needed = _decimal(self.majority) * counted.total
        return _first(next((option for option, count in counted.items() if count > needed), None), fallback)


def _given(context: object, key: str, default: object) -> object:
    if not isinstance(context, Mapping):
        raise PolicyContextError(key, f"cannot be read from {type(context).__name__}; a dispute's context is a mapping")
    value: object = context.get(key)
    return default if value is None else value


def _option(context: Mapping[str, object], key: str) -> Option | None:
    value = _given(context, key, None)
    return None if value is None else check_option(value, key)


def _are_same(one: Option | None, other: Option) -> bool:
    return one is not None and option_key(one, "votes") == option_key(other, "votes")


def _fallback(context: Mapping[str, object]) -> Option | None:
    return _option(context, "fallback")


def _first(decided: Option | None, fallback: Option | None) -> Option | None:
    return fallback if decided is None else decided


def _majority(context: Mapping[str, object]) -> Option | None:
    """What more than half voted for, else the casting vote for a leading option, else None."""
    counts, casting = tally(_given(context, "votes", ())), _option(context, "tie_breaker")
    winner = strict_majority(counts)
    if winner is None and any(_are_same(casting, leader) for leader in leaders(counts)):
        return casting
    return winner


def _electors(context: Mapping[str, object], votes: object, counted: Tally) -> int:
    """How many there are; `PolicyContextError` when the votes cannot all be theirs."""
    electorate = _given(context, "electorate", None)
    if isinstance(electorate, int) and not isinstance(electorate, bool) and electorate >= 0:
        electors = electorate
    elif isinstance(electorate, list | tuple | set | frozenset):
        ids = {agent for agent in electorate if isinstance(agent, str)}
        electors = len(ids)
        if electors != len(electorate):
            raise PolicyContextError("electorate", "is no list of agent ids, each one once")
        strangers = [agent for agent in votes if agent not in ids] if isinstance(votes, Mapping) else []
        if strangers:
            raise PolicyContextError("electorate", f"does not have {strangers[0]!r}, who has voted")
    else:
        raise PolicyContextError("electorate", "is not given; a quorum needs agent ids, or how many there are")
    if counted.total > electors:
        raise PolicyContextError("electorate", f"has {electors} agents, and there are {counted.total} votes")
    return electors


def _decimal(share: float) -> Fraction:
    from fractions import Fraction

    return Fraction(repr(float(share)))


def _weighed(votes: object, weights: object) -> Iterable[tuple[Option, float]]:
    """Each vote with its weight."""
    if isinstance(votes, Mapping):
        if weights is None:
            return [(option, 1.0) for option in votes.values()]
        if not isinstance(weights, Mapping):
            raise PolicyContextError("weights", "is no mapping agent id -> weight, which votes given as a mapping need")
        checked = {agent: _weight(weight, f"of {agent!r}") for agent, weight in weights.items()}
        return [(option, checked.get(agent, 0.0)) for agent, option in votes.items()]
    options: list[Option] = list(votes)  # type: ignore[call-overload]  # tally() refused what is no list
    if weights is None:
        return [(option, 1.0) for option in options]
    if not isinstance(weights, list | tuple):
        raise PolicyContextError("weights", "is no list of numbers, which votes given as a list need")
    if len(weights) != len(options):
        raise PolicyContextError("weights", f"has {len(weights)} entries for {len(options)} votes; each vote needs one")
    return zip(options, (_weight(weight, f"number {index}") for index, weight in enumerate(weights)), strict=True)


def _weight(value: object, which: str) -> float:
    if not isinstance(value, int | float) or not is_amount(value):
        raise PolicyContextError("weights", f"{which} is {value!r}; a weight is a finite number, at least 0")
    return float(value)


def _exact_sum(weights: Iterable[float]) -> Fraction:
    """Exact, so that the order of the votes changes nothing, and so that no sum of finite weights is too great."""
    from fractions import Fraction

    return sum(map(Fraction, weights), Fraction(0))


def _greatest(sums: list[tuple[Option, Fraction]]) -> Option | None:
    ranked = sorted(sums, key=lambda item: item[1], reverse=True)
    if not ranked or ranked[0][1] == 0:
        return None
    winner, most = ranked[0]
    if len(ranked) > 1 and (most - ranked[1][1]) * _EVIDENCE_TIE <= most:
        return None
    return winner
