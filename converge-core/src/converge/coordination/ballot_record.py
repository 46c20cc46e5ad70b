"""A ballot of a pool, pure: what is asked of whom, and what came of it.

OPEN --all have voted, or the deadline--> CLOSED, which is final.

The record holds everything that the result depends on, so that anybody can count again: `replay`.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from attrs import asdict, evolve, fields_dict, frozen

from converge.coordination.equality import same
from converge.core.plain import Plain
from converge.policy.options import is_amount

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Ballot", "Outcome", "check_option", "check_rules"]

_SHARD = 64
_MAX_SHARDS = 256
_MAX_OPTIONS = 1000
_SCALARS = (bool, int, float, str, bytes)
_RULES = ("tie_breaker", "fallback", "weights", "chambers")
_SETTINGS = ("pool_id", "question", "options", "deadline", "rules", "opened_by")
_SHAPE: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("id", "pool_id", "opening"), str),
    **dict.fromkeys(("options", "electorate"), list),
    **dict.fromkeys(("governance", "extra_options", "rules"), dict),
    **dict.fromkeys(("votes", "outcome"), (dict, type(None))),
    "opened_by": (str, type(None)),
}


@frozen
class Outcome:
    """What a ballot decided: an option, or None for nothing; and why the governance failed, if it did."""

    option: Plain = None
    failure: str | None = None


@frozen(kw_only=True)
class Ballot:
    """A ballot as the store holds it. Times are Unix seconds.

    `electorate` are the members of the pool when it was opened, sorted; `governance` the table of the model that
    decides; `extra_options` what that model lets some agents vote for besides `options`; `opening` tells two openings
    of one id apart. `votes`, by agent id, and `outcome` are None until it is closed, and final then.
    """

    id: str
    pool_id: str
    question: Plain
    options: list[Plain]
    electorate: list[str]
    governance: dict[str, Any]
    extra_options: dict[str, list[Plain]]
    rules: dict[str, Any]
    opening: str
    opened_by: str | None
    opened_at: float
    deadline: float
    votes: dict[str, Plain] | None = None
    outcome: dict[str, Any] | None = None
    closed_at: float | None = None

    @classmethod
    def from_plain(cls, data: object) -> Ballot:
        """The ballot in a stored value; `ValueError` when it is none of this version."""
        if not isinstance(data, dict):
            raise ValueError(f"it is {type(data).__name__}, not a dict")
        try:
            ballot = cls(**data)
        except TypeError as error:
            raise ValueError(str(error)) from None
        ballot.check()
        return ballot

    def to_plain(self) -> dict[str, Plain]:
        """The ballot as the store takes it."""
        return asdict(self, recurse=False)

    def check(self) -> None:
        """`ValueError` unless all who read the ballot later can rely on its fields."""
        for name, kinds in _SHAPE.items():
            if not isinstance(value := getattr(self, name), kinds):
                raise ValueError(f"{name} is {type(value).__name__}")
        times = (self.opened_at, self.deadline, *(() if self.closed_at is None else (self.closed_at,)))
        if not all(is_amount(time) for time in times):
            raise ValueError(f"a time is a finite number of Unix seconds, and these are {times!r}")
        _check_options(self.options)
        _check_ids(self.electorate)
        _check_extra(self.extra_options, self.electorate)
        check_rules(self.rules, self.options, self.electorate)
        if len({self.votes is None, self.outcome is None, self.closed_at is None}) != 1:
            raise ValueError("votes, outcome and closed_at come together, when it is closed")
        if self.votes is not None and self.outcome is not None:
            for agent_id, option in self.votes.items():
                self.check_vote(agent_id, option)
            self._check_outcome(self.outcome)

    # -- who may do what

    @property
    def is_closed(self) -> bool:
        """Whether the result is there."""
        return self.outcome is not None

    @property
    def result(self) -> Outcome | None:
        """The result; None while it is open."""
        return None if self.outcome is None else Outcome(**self.outcome)

    def is_over(self, now: float) -> bool:
        """Whether the deadline has come."""
        return now >= self.deadline

    def is_elector(self, agent_id: str) -> bool:
        """Whether the agent was a member when it was opened."""
        return self._place(agent_id) is not None

    def check_vote(self, agent_id: str, option: object) -> Plain:
        """The option as it was offered; `ValueError` with the reason when this agent may not vote for it."""
        if not self.is_elector(agent_id):
            raise ValueError(f"it was no member of pool {self.pool_id!r} when the ballot was opened")
        offers: tuple[Plain, ...] = (*self.options, *self.extra_options.get(agent_id, ()))
        for offered in offers:
            if _are_same(offered, option):
                return offered
        shown = ", ".join(repr(offered) for offered in self.options[:10])
        more = ", …" if len(self.options) > 10 else ""
        raise ValueError(f"{option!r} is no option; vote for one of {shown}{more}")

    def differing_settings(self, other: Ballot) -> list[str]:
        """What two ballots ask differently; the electorate is none, for it depends on the moment."""
        return [name for name in _SETTINGS if not same(getattr(self, name), getattr(other, name))]

    # -- where votes lie

    @property
    def shards(self) -> int:
        """Into how many records the votes go, so that many can be written at once and none is large."""
        return min(_MAX_SHARDS, -(-len(self.electorate) // _SHARD))

    def shard_of(self, agent_id: str) -> int:
        """The record for the vote of this elector."""
        place = self._place(agent_id)
        assert place is not None  # whoever asks has checked that it is an elector
        return place % self.shards

    def electors_of(self, shard: int) -> int:
        """How many vote in this record."""
        return len(range(shard, len(self.electorate), self.shards))

    def _place(self, agent_id: str) -> int | None:
        place = bisect_left(self.electorate, agent_id)
        return place if place < len(self.electorate) and self.electorate[place] == agent_id else None

    # -- the count

    def context(self, votes: Mapping[str, Plain]) -> dict[str, object]:
        """What the governance model is asked with."""
        chambers = self.rules.get("chambers", {})
        by_chamber = {
            f"chamber_{name}_votes": {agent: votes[agent] for agent in agents if agent in votes}
            for name, agents in chambers.items()
        }
        context: dict[str, object] = {name: rule for name, rule in self.rules.items() if name != "chambers"}
        return {**context, **by_chamber, "votes": dict(votes), "electorate": list(self.electorate)}

    def closed(self, votes: Mapping[str, Plain], outcome: Outcome, now: float) -> Ballot:
        """CLOSED with this result."""
        ordered = {agent_id: votes[agent_id] for agent_id in sorted(votes)}
        return evolve(self, votes=ordered, outcome=asdict(outcome), closed_at=now)

    def _check_outcome(self, outcome: dict[str, Any]) -> None:
        if {*outcome} != {*fields_dict(Outcome)} or not isinstance(outcome["failure"], str | None):
            raise ValueError("its outcome is no dict of option and failure")
        option = outcome["option"]
        if option is not None and not self.may_win(option):
            raise ValueError(f"its outcome {option!r} is no option")

    def may_win(self, option: object) -> bool:
        """Whether this is an option that all, or some, could vote for."""
        offered = (*self.options, *(each for extra in self.extra_options.values() for each in extra))
        return any(_are_same(each, option) for each in offered)


def check_option(option: object) -> Plain:
    """`option` itself when a ballot can have it; `ValueError` when not."""
    if isinstance(option, _SCALARS) and option == option:
        return option
    raise ValueError(f"an option is a str, a number, a bool or bytes, not {option!r}")


def _check_options(options: list[Plain]) -> None:
    if not 1 <= len(options) <= _MAX_OPTIONS:
        raise ValueError(f"a ballot has 1 to {_MAX_OPTIONS} options, not {len(options)}")
    if len({check_option(option) for option in options}) != len(options):  # type: ignore[type-var, unused-ignore]  # scalars
        raise ValueError("no two options of a ballot are equal")


def _check_ids(electorate: list[Any]) -> None:
    if not all(isinstance(agent_id, str) and agent_id for agent_id in electorate):
        raise ValueError("an electorate is a list of agent ids")
    if not electorate or any(one >= other for one, other in pairwise(electorate)):
        raise ValueError("an electorate is not empty, is sorted and has nobody twice")


def _check_extra(extra: dict[str, list[Plain]], electorate: list[str]) -> None:
    for agent_id, options in extra.items():
        if agent_id not in electorate or not isinstance(options, list):
            raise ValueError("extra_options are lists of options, by the id of an elector")
        for option in options:
            check_option(option)


def check_rules(rules: Mapping[str, Any], options: list[Plain], electorate: list[str]) -> None:
    """`ValueError` unless `rules` make sense for a ballot of these options and electors."""
    unknown = [name for name in rules if name not in _RULES]
    if unknown:
        raise ValueError(f"there is no rule {unknown[0]!r}; there are {', '.join(_RULES)}")
    for name in ("tie_breaker", "fallback"):
        if name in rules and not any(_are_same(option, rules[name]) for option in options):
            raise ValueError(f"{name} is {rules[name]!r}, which is no option")
    electors = {*electorate}
    weights = rules.get("weights", {})
    if not isinstance(weights, dict) or not all(is_amount(weight) for weight in weights.values()):
        raise ValueError("weights are finite numbers, at least 0, by agent id")
    chambers = rules.get("chambers", {})
    if not isinstance(chambers, dict) or {*chambers} not in (set(), {"a", "b"}):
        raise ValueError('chambers are the lists "a" and "b" of agent ids')
    if not all(isinstance(agents, list) for agents in chambers.values()):
        raise ValueError('chambers are the lists "a" and "b" of agent ids')
    seated = [agent for agents in chambers.values() for agent in agents]
    strangers = [agent for agent in (*weights, *seated) if not isinstance(agent, str) or agent not in electors]
    if strangers:
        raise ValueError(f"{strangers[0]!r} is given a weight or a chamber and is no elector")
    if len({*seated}) != len(seated):
        raise ValueError("an agent sits in one chamber, once")


def _are_same(offered: object, option: object) -> bool:
    """Whether two options are one. What is offered is pairwise different, so that 1.0 can only mean the 1 there is."""
    return isinstance(option, _SCALARS) and offered == option
