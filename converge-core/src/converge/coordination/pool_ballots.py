"""Ballots of pools: the members vote, the pool's governance decides, and the result is final.

A ballot has the members at its opening as electorate, and is decided by the model that the pool was created with.
Everything lives in the store of the pools, so that agents in any processes vote in one ballot.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from converge.coordination.ballot_errors import BallotError, BallotExists, BallotOpen, GovernanceUnavailable
from converge.coordination.ballot_record import Ballot, Outcome, check_option
from converge.coordination.ballot_store import BallotStore
from converge.coordination.errors import ForeignRecord, UnknownPool
from converge.core.clock import Clock, SystemClock
from converge.plugins import default_manager
from converge.policy.decide import verdict
from converge.policy.governance import GovernanceModel
from converge.policy.unrestored import UnrestoredGovernance

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from converge.coordination.pool_manager import PoolManager
    from converge.core.plain import Plain
    from converge.plugins import PluginManager

__all__ = ["PoolBallots", "replay"]

_log = logging.getLogger(__name__)


class PoolBallots:
    """Opens, votes in and closes ballots of the pools of `pools`, in their store.

    Safe between threads, and between processes on a store that they share. A ballot is closed by whoever comes first
    once all have voted or its deadline has come: a vote that completes it, `result`, `close` or `close_due`. The
    deadline is judged by the wall clock of who votes or closes.
    """

    def __init__(self, pools: PoolManager, *, clock: Clock | None = None) -> None:
        self._pools = pools
        self._clock: Clock = SystemClock() if clock is None else clock
        self._ballots = BallotStore(pools.store)

    @property
    def blocking(self) -> bool:
        """Whether calls may wait for a disk or a network."""
        return self._pools.blocking

    def open(
        self,
        pool_id: str,
        options: Sequence[Plain],
        *,
        deadline: float,
        question: Plain = None,
        agent_id: str | None = None,
        ballot_id: str | None = None,
        rules: Mapping[str, Any] | None = None,
    ) -> Ballot:
        """A ballot of the pool's present members, which stay its electorate; `ballot_id` is new by default.

        `options` are 1 to 1,000 different strs, numbers, bools or bytes; `deadline` is in Unix seconds. `agent_id` is
        the member that opens it; None is whoever runs this process, who alone may give `rules`, for they sway the
        result: `tie_breaker` and `fallback` (options), `weights` (agent id -> number) and `chambers` (`{"a": [agent
        ids], "b": [agent ids]}`), as the governance of the pool uses them.

        Opening one that exists with the same settings returns it as it is. Raises `BallotExists` when the settings
        are others, `BallotError` when the agent is no member or may not give rules, or the pool has none;
        `GovernanceUnavailable` when the pool has no governance that can decide here, `UnknownPool`, and `ValueError`
        for settings that make no sense (`TypeError` for what is not plain data). Nothing is stored then.
        """
        ballot_id = str(uuid4()) if ballot_id is None else _check_id(ballot_id)
        if not isinstance(options, list | tuple):
            raise ValueError(f"options are a list, not {options!r}")
        pool = self._pools.get_pool(pool_id)
        if pool is None:
            raise UnknownPool(pool_id)
        if agent_id is not None and agent_id not in pool.agents:
            raise BallotError(f"{agent_id!r} is no member of pool {pool_id!r} and opens no ballot there", ballot_id)
        if agent_id is not None and rules:
            raise BallotError(f"{agent_id!r} is a member; only who runs the process gives rules to a ballot", ballot_id)
        if not pool.agents:
            raise BallotError(f"pool {pool_id!r} has no members, so nobody could vote", ballot_id)
        table, extra = self._governance_of(pool_id, ballot_id, pool.agents)
        ballot = Ballot(
            id=ballot_id,
            pool_id=pool_id,
            question=question,
            options=list(options),
            electorate=sorted(pool.agents),
            governance=table,
            extra_options=extra,
            rules=dict(rules or {}),
            opening=uuid4().hex,
            opened_by=agent_id,
            opened_at=self._clock.time(),
            deadline=deadline,
        )
        ballot.check()
        while True:
            found = self._ballots.read(ballot_id)
            if found is not None:
                return _same(found[0], ballot)
            if ballot.is_over(self._clock.time()):
                raise ValueError(f"the deadline {deadline!r} has passed; give Unix seconds in the future")
            if self._ballots.create(ballot):
                return ballot

    def get(self, ballot_id: str) -> Ballot | None:
        """The ballot as the store holds it now, or None when there is none of this id."""
        found = self._ballots.read(ballot_id)
        return None if found is None else found[0]

    def vote(self, ballot_id: str, agent_id: str, option: Plain) -> bool:
        """Count the vote of `agent_id`, which whoever calls this has made sure of; False when it was counted before.

        Raises `VoteRefused` with the reason: it was no member at the opening, it has voted for something else, it is
        too late, or the option is none. Raises `UnknownBallot` when there is no such ballot. The last vote closes the
        ballot; where its governance is missing, the vote counts all the same and the log says so.
        """
        is_new, ballot = self._ballots.vote(ballot_id, agent_id, option, self._clock.time)
        try:
            if not ballot.is_closed and self._is_due(ballot):
                self.close(ballot_id)
        except GovernanceUnavailable as error:
            _log.warning("%s", error)
        return is_new

    def votes(self, ballot_id: str) -> dict[str, Plain]:
        """The votes counted so far, by agent id. Raises `UnknownBallot`."""
        ballot, _ = self._ballots.known(ballot_id)
        return dict(self._ballots.votes(ballot)) if ballot.votes is None else dict(ballot.votes)

    def result(self, ballot_id: str) -> Outcome | None:
        """The result, closing the ballot if it is due; None while it is open. Raises what `close` does otherwise."""
        ballot, _ = self._ballots.known(ballot_id)
        if not ballot.is_closed and not self._is_due(ballot):
            return None
        return self.close(ballot_id).result

    def close(self, ballot_id: str) -> Ballot:
        """The closed ballot: its votes are counted by the governance of the pool, and the result is stored.

        The result is final: of several that close at one instant, all return the one that is stored. A model that
        raises, or answers with what is no option of the ballot, has decided nothing, and `outcome` says why. Raises
        `BallotOpen` before the deadline unless all have voted, `GovernanceUnavailable` when the model cannot be
        restored here (nothing is stored then, so a process that has the plugin can close it) and `UnknownBallot`.
        """
        ballot, version = self._ballots.known(ballot_id)
        if ballot.is_closed:
            return ballot
        if not self._is_due(ballot):
            raise BallotOpen(
                f"ballot {ballot_id!r} is open until {ballot.deadline} or until all of its {len(ballot.electorate)} "
                "electors have voted",
                ballot_id,
            )
        model = self._pools.governance(ballot.pool_id, ballot.governance)
        if isinstance(model, UnrestoredGovernance):
            raise GovernanceUnavailable(
                f"ballot {ballot_id!r} is not closed here: the governance {model.name!r} of pool {ballot.pool_id!r} "
                f"was not restored ({model.reason}); close it in a process that has it",
                ballot_id,
            )
        votes = self._ballots.seal(ballot)
        outcome = _decided(ballot, votes, model)
        return self._ballots.close(ballot.closed(votes, outcome, self._clock.time()), version)

    def close_due(self) -> list[str]:
        """Close all ballots that are due; their ids. What cannot be closed here is logged and left."""
        closed = []
        for ballot in self._open():
            try:
                if self._is_due(ballot):
                    closed.append(self.close(ballot.id).id)
            except (BallotError, ForeignRecord) as error:
                _log.warning("%s", error)
        return closed

    def list_open(self, agent_id: str | None = None) -> list[Ballot]:
        """The ballots that can still be voted in: all of them, or those whose electorate the agent belongs to.

        Costs in proportion to the ballots that are open, not to all there ever were.
        """
        now = self._clock.time()
        found = (ballot for ballot in self._open() if not ballot.is_over(now))
        return [ballot for ballot in found if agent_id is None or ballot.is_elector(agent_id)]

    def _open(self) -> list[Ballot]:
        found = []
        for ballot_id in self._ballots.open_ids():
            try:
                known = self._ballots.read(ballot_id)
            except ForeignRecord as error:
                _log.warning("%s", error)
                continue
            if known is not None and known[0].is_closed:
                self._ballots.forget_votes(known[0])
            elif known is not None:
                found.append(known[0])
        return found

    def _is_due(self, ballot: Ballot) -> bool:
        return ballot.is_over(self._clock.time()) or self._ballots.is_complete(ballot)

    def _governance_of(
        self, pool_id: str, ballot_id: str, members: set[str]
    ) -> tuple[dict[str, Any], dict[str, list[Plain]]]:
        """The table of the model, and what it lets some members vote for."""
        table = self._pools.governance_table(pool_id)
        model = None if table is None else self._pools.governance(pool_id, table)
        if table is None or isinstance(model, UnrestoredGovernance):
            why = "is missing" if model is None else "cannot be restored here"
            raise GovernanceUnavailable(
                f"no ballot is opened in pool {pool_id!r}: its governance {why}; a model decides the result", ballot_id
            )
        assert isinstance(model, GovernanceModel)  # there is one, since there is a table
        try:
            offered = dict(model.extra_options())
            return table, {
                agent_id: [check_option(option) for option in offered[agent_id]]
                for agent_id in sorted(members & {*offered})
            }
        except Exception as error:  # whatever a plugin raises
            reason = f"{type(error).__name__}: {error}"
            raise GovernanceUnavailable(
                f"no ballot is opened in pool {pool_id!r}: its governance failed to say its extra options ({reason})",
                ballot_id,
            ) from error


def replay(
    ballot: Ballot | Mapping[str, Any], *, plugins: PluginManager | None = None, model: GovernanceModel | None = None
) -> Outcome:
    """Count a closed ballot again, from its record alone: what `Ballot.result` is, if nobody has changed the record.

    `ballot` is the ballot, or the stored value. The model is built from the table in the record with `plugins`, or is
    `model`, for one that is no plugin. Raises `BallotOpen` when it is not closed, `ValueError` for what is no ballot,
    and what `plugins` raise for a model that cannot be built.
    """
    known = ballot if isinstance(ballot, Ballot) else Ballot.from_plain(dict(ballot))
    if known.votes is None:
        raise BallotOpen(f"ballot {known.id!r} is not closed; there is no result to be replayed", known.id)
    if model is None:
        manager = default_manager() if plugins is None else plugins
        built = manager.build("governance", known.governance, where="governance")
        if not isinstance(built, GovernanceModel):
            raise ValueError(f"governance: {type(built).__qualname__} is no GovernanceModel")
        model = built
    return _decided(known, known.votes, model)


def _decided(ballot: Ballot, votes: Mapping[str, Plain], model: GovernanceModel) -> Outcome:
    """What the model makes of the votes, in the order of the agents' ids."""
    decided = verdict(model, ballot.context({agent_id: votes[agent_id] for agent_id in sorted(votes)}))
    if decided.failure is not None:
        return Outcome(failure=decided.failure)
    if decided.option is None:
        return Outcome()
    if not ballot.may_win(decided.option):
        return Outcome(failure=f"{type(model).__qualname__} answered with {decided.option!r}, which is no option")
    return Outcome(check_option(decided.option))


def _check_id(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"the id of a ballot is a non-empty str, not {value!r}")
    return value


def _same(known: Ballot, ballot: Ballot) -> Ballot:
    differing = known.differing_settings(ballot)
    if differing:
        raise BallotExists(
            f"ballot {known.id!r} exists with another {', '.join(differing)}; choose another id, or open it as it was",
            known.id,
        )
    return known
