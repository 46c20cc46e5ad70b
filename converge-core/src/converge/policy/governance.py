"""How a dispute ends: five models of governance, each a pure function of the context it is given.

The context is a mapping. An absent key and a None mean "not given"; keys a model does not use are not looked at:

- `votes`: a list of options, one a vote, or a mapping agent id -> option. Not given: nobody voted.
- `tie_breaker`: the casting vote, an option.
- `fallback`: the option that holds when the model reaches no decision; without it the answer is None.
- `weights`, `chamber_a_votes`, `chamber_b_votes`, `veto_exercised`: see the model that uses them.

An option is any hashable value but None. Anything malformed is `PolicyContextError` (a ValueError) with the key in
`error.key`, whether or not the outcome would have depended on it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen

from converge.policy.ballots import check_option, leaders, strict_majority, tally
from converge.policy.errors import PolicyContextError
from converge.policy.options import NoOptions, check_agent_id, is_amount

if TYPE_CHECKING:
    from fractions import Fraction

__all__ = [
    "VETO",
    "BicameralGovernance",
    "DemocraticGovernance",
    "DictatorialGovernance",
    "DictatorialOptions",
    "EmpiricalGovernance",
    "GovernanceModel",
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
    def resolve_dispute(self, context: Mapping[str, object]) -> Hashable | None:
        """The option that wins; None when nothing is decided. Whatever this raises counts as None."""


@frozen
class DemocraticGovernance(GovernanceModel):
    """The option with more than half of the votes cast.

    Without one, `tie_breaker` decides if it is among the options with the most votes; else it is undecided.
    """

    converge_options: ClassVar[type[NoOptions]] = NoOptions

    def to_options(self) -> dict[str, str]:
        """No options."""
        return {}

    def resolve_dispute(self, context: Mapping[str, object]) -> Hashable | None:
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

    def resolve_dispute(self, context: Mapping[str, object]) -> Hashable | None:
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

    def resolve_dispute(self, context: Mapping[str, object]) -> Hashable | None:
        """The common majority, else `fallback`, else None."""
        first, second = (
            strict_majority(tally(_given(context, key, ()), key)) for key in ("chamber_a_votes", "chamber_b_votes")
        )
        casting, fallback = _option(context, "tie_breaker"), _fallback(context)
        if first is None or second is None:
            return fallback
        if first == second:
            return first
        return casting if casting in (first, second) else fallback


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

    def resolve_dispute(self, context: Mapping[str, object]) -> Hashable | None:
        """The majority's option unless vetoed, else `fallback`, else None."""
        winner, fallback = _majority(context), _fallback(context)
        return fallback if self._vetoed(context) else _first(winner, fallback)

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

    def resolve_dispute(self, context: Mapping[str, object]) -> Hashable | None:
        """The option with the most evidence, else `fallback`, else None."""
        votes, fallback = _given(context, "votes", ()), _fallback(context)
        tally(votes)
        evidence: dict[Hashable, list[float]] = {}
        for option, weight in _weighed(votes, context.get("weights")):
            evidence.setdefault(option, []).append(weight)
        sums = {option: _exact_sum(weights) for option, weights in evidence.items()}
        return _first(_greatest(sums), fallback)


def _given(context: object, key: str, default: object) -> object:
    if not isinstance(context, Mapping):
        raise PolicyContextError(key, f"cannot be read from {type(context).__name__}; a dispute's context is a mapping")
    value: object = context.get(key)
    return default if value is None else value


def _option(context: Mapping[str, object], key: str) -> Hashable | None:
    value = _given(context, key, None)
    return None if value is None else check_option(value, key)


def _fallback(context: Mapping[str, object]) -> Hashable | None:
    return _option(context, "fallback")


def _first(decided: Hashable | None, fallback: Hashable | None) -> Hashable | None:
    return fallback if decided is None else decided


def _majority(context: Mapping[str, object]) -> Hashable | None:
    """What more than half voted for, else the casting vote for a leading option, else None."""
    counts, casting = tally(_given(context, "votes", ())), _option(context, "tie_breaker")
    winner = strict_majority(counts)
    if winner is None and casting in leaders(counts):
        return casting
    return winner


def _weighed(votes: object, weights: object) -> Iterable[tuple[Hashable, float]]:
    """Each vote with its weight."""
    if isinstance(votes, Mapping):
        if weights is None:
            return [(option, 1.0) for option in votes.values()]
        if not isinstance(weights, Mapping):
            raise PolicyContextError("weights", "is no mapping agent id -> weight, which votes given as a mapping need")
        checked = {agent: _weight(weight, f"of {agent!r}") for agent, weight in weights.items()}
        return [(option, checked.get(agent, 0.0)) for agent, option in votes.items()]
    options: list[Hashable] = list(votes)  # type: ignore[call-overload]  # tally() refused what is no list
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


def _greatest(sums: Mapping[Hashable, Fraction]) -> Hashable | None:
    ranked = sorted(sums.items(), key=lambda item: item[1], reverse=True)
    if not ranked or ranked[0][1] == 0:
        return None
    winner, most = ranked[0]
    if len(ranked) > 1 and (most - ranked[1][1]) * _EVIDENCE_TIE <= most:
        return None
    return winner
