"""Contract net: a task is announced, agents bid for it, and the award is the lease on it.

R. G. Smith, "The Contract Net Protocol", IEEE Transactions on Computers C-29(12), 1980.

    ANNOUNCED --award--> AWARDED --(the task ends)--> CLOSED
    ANNOUNCED, AWARDED: nobody left to award to, or withdrawn --> CLOSED

The contract lies under `contract:<task id>`, the task in the same store with the constraint `award_only`, so that
nobody claims it past the award. An award gives the best bidder the lease, to be started within a time; when that runs
out unstarted, or the attempt fails and the task may be tried again, `advance` awards it to the next one. Each award is
written into the contract with the attempt that it will be, before the task itself changes: so whoever advances, and
whoever dies in between, each attempt has one award.
"""

from __future__ import annotations

import math
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, cast

from attrs import asdict, evolve, field, frozen

from converge.coordination.errors import ContractRefused, ForeignRecord, InvalidTransition, UnknownTask
from converge.core.clock import Clock, SystemClock
from converge.core.errors import VersionConflict
from converge.core.plain import Plain, check
from converge.core.store import Store, versioned
from converge.core.task import Task, TaskState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from converge.coordination.task_manager import Claim, TaskManager

__all__ = ["MAX_BIDS", "Contract", "ContractBid", "ContractNet", "ContractState"]

MAX_BIDS = 1_000
"""Bids that one contract takes."""

_KEY = "contract:"


class ContractState(Enum):
    """ANNOUNCED: bids are taken. AWARDED: somebody has the task, or had it last. CLOSED: nobody will get it."""

    ANNOUNCED = "announced"
    AWARDED = "awarded"
    CLOSED = "closed"


@frozen
class ContractBid:
    """What an agent offered to do the task for; the lowest amount wins, of equal ones the first."""

    agent_id: str
    amount: float
    content: Plain = None


@frozen(kw_only=True)
class Contract:
    """A contract as the store holds it. Times are Unix seconds.

    `bids` are in the order in which they were accepted, `awards` (agent, attempt) in that of the awards.
    """

    task_id: str
    initiator: str
    closes_at: float
    start_within_sec: float
    max_amount: float | None
    bidders: list[str] | None
    state: ContractState = ContractState.ANNOUNCED
    bids: list[ContractBid] = field(factory=list)
    awards: list[tuple[str, int]] = field(factory=list)

    def ranking(self) -> list[ContractBid]:
        """The bids, the best first: the lowest amount, then the earliest."""
        return sorted(self.bids, key=lambda bid: bid.amount)

    def next_bid(self) -> ContractBid | None:
        """The best bid of those who had no award yet."""
        had = {agent_id for agent_id, _ in self.awards}
        return next((bid for bid in self.ranking() if bid.agent_id not in had), None)


class ContractNet:
    """Announces tasks of `tasks`, collects bids and awards. `store` is the one that `tasks` works on.

    Any number of these, in any number of processes, may work on one store. Methods are synchronous, safe to call from
    several threads, and may wait for a store that is blocking. A method that raised has changed nothing, but for
    `advance`, which may have taken the first of its steps. The callers' identities are theirs to prove: the executor
    passes its own agent.
    """

    def __init__(self, tasks: TaskManager, store: Store, *, clock: Clock | None = None) -> None:
        self._tasks = tasks
        self._store = versioned(store)
        self._clock: Clock = SystemClock() if clock is None else clock

    def announce(
        self,
        initiator_id: str,
        task: Task,
        *,
        closes_in_sec: float,
        start_within_sec: float = 30.0,
        max_amount: float | None = None,
        bidders: Collection[str] | None = None,
    ) -> str:
        """Take bids for `task`; its id. The task is submitted, with the constraint `award_only`.

        Bids are taken for `closes_in_sec`, from `bidders` only if given, and up to `max_amount`. Announcing the same
        contract again returns the id; another one with the same task is `ContractRefused`.
        """
        for name, seconds in (("closes_in_sec", closes_in_sec), ("start_within_sec", start_within_sec)):
            _check_number(name, seconds, least=0.0)
        if start_within_sec == 0:
            raise ValueError("start_within_sec is above 0")
        if max_amount is not None:
            _check_number("max_amount", max_amount, least=0.0)
        contract = Contract(
            task_id=task.id,
            initiator=initiator_id,
            closes_at=self._clock.time() + closes_in_sec,
            start_within_sec=float(start_within_sec),
            max_amount=max_amount,
            bidders=None if bidders is None else sorted(bidders),
        )
        task.constraints["award_only"] = True
        self._tasks.submit(task)
        if self._store.put_if_absent(_KEY + task.id, _to_plain(contract)):
            return task.id
        there = self.get(task.id)
        same = evolve(there, closes_at=contract.closes_at, state=contract.state, bids=[], awards=[])
        if same != contract:
            raise ContractRefused(task.id, "it is announced already, by another agent or on other terms")
        return task.id

    def get(self, task_id: str) -> Contract:
        """The contract on a task as the store holds it; `UnknownTask` when there is none."""
        return self._read(task_id)[0]

    def bid(self, agent_id: str, task_id: str, amount: float, content: Plain = None) -> None:
        """Offer to do the task for `amount`, at least 0; a second bid of the same agent replaces the first.

        Raises `ContractRefused` after the closing, for somebody who is not among the bidders, for the initiator, and
        for an amount above `max_amount`; `ValueError` for an amount that is no such number.
        """
        _check_number("amount", amount, least=0.0)
        check(content)

        def accept(contract: Contract) -> Contract:
            refusal = self._refusal(contract, agent_id, amount)
            if refusal is not None:
                raise ContractRefused(task_id, f"the bid of {agent_id!r} is not taken: {refusal}")
            others = [bid for bid in contract.bids if bid.agent_id != agent_id]
            return evolve(contract, bids=[*others, ContractBid(agent_id, float(amount), content)])

        self._update(task_id, accept)

    def _refusal(self, contract: Contract, agent_id: str, amount: float) -> str | None:
        if contract.state is not ContractState.ANNOUNCED or self._clock.time() >= contract.closes_at:
            return "the bidding is over"
        if agent_id == contract.initiator:
            return "it is the initiator"
        if contract.bidders is not None and agent_id not in contract.bidders:
            return "it is not among the bidders"
        if contract.max_amount is not None and amount > contract.max_amount:
            return f"{amount} is above {contract.max_amount}"
        if len(contract.bids) >= MAX_BIDS and all(bid.agent_id != agent_id for bid in contract.bids):
            return f"there are {MAX_BIDS} bids already"
        return None

    def award(self, initiator_id: str, task_id: str, *, early: bool = False) -> Claim | None:
        """Award the task to the best bidder; the lease, or None when nobody has bid, which closes the contract.

        Raises `ContractRefused` for anybody but the initiator, when the bidding is not over (unless `early`), and when
        it was awarded already: `advance` goes on from there.
        """
        contract = self.get(task_id)
        if contract.initiator != initiator_id:
            raise ContractRefused(task_id, f"{contract.initiator} announced it, not {initiator_id}")
        if contract.state is not ContractState.ANNOUNCED:
            raise ContractRefused(task_id, f"it is {contract.state.value} already")
        if not early and self._clock.time() < contract.closes_at:
            raise ContractRefused(task_id, "the bidding is not over; wait, or award early")
        return self._award_next(task_id, expected=contract)

    def withdraw(self, initiator_id: str, task_id: str) -> None:
        """Close the contract and cancel its task, which may have ended already; by the initiator only."""

        def close(contract: Contract) -> Contract:
            if contract.initiator != initiator_id:
                raise ContractRefused(task_id, f"{contract.initiator} announced it, not {initiator_id}")
            return evolve(contract, state=ContractState.CLOSED)

        self._update(task_id, close)
        self._tasks.cancel_task(task_id)

    def advance(self, task_id: str) -> Claim | None:
        """Do what is due for an awarded contract; the new lease when there is one.

        The task is PENDING again because its last winner did not start in time, or failed and it may be tried again:
        the next best bidder gets it; without one the task is FAILED and the contract closed. An award that a dead
        process wrote down and did not make is made. To be called now and then, after `release_expired_claims`, by
        whoever cares; by several is fine.
        """
        contract, task = self.get(task_id), self._task(task_id)
        if contract.state is ContractState.AWARDED and task.state.is_final:
            self._update(task_id, lambda current: evolve(current, state=ContractState.CLOSED))
            return None
        if contract.state is ContractState.ANNOUNCED or task.state is not TaskState.PENDING:
            return None
        if contract.state is ContractState.CLOSED:
            self._give_up(contract)
            return None
        agent_id, attempt = contract.awards[-1]
        if task.attempt < attempt:
            return self._make_award(contract, agent_id, attempt)
        return self._award_next(task_id, expected=contract)

    def _award_next(self, task_id: str, *, expected: Contract) -> Claim | None:
        """Write the next award down and make it; None, with nothing done, when another was faster."""
        best = expected.next_bid()
        attempt = self._task(task_id).attempt + 1
        if best is None:
            decided = evolve(expected, state=ContractState.CLOSED)
        else:
            awards = [*expected.awards, (best.agent_id, attempt)]
            decided = evolve(expected, state=ContractState.AWARDED, awards=awards)
        contract, version = self._read(task_id)
        if contract != expected:
            return None
        try:
            self._store.compare_and_set(_KEY + task_id, _to_plain(decided), version)
        except VersionConflict:
            return None
        if best is not None:
            return self._make_award(decided, best.agent_id, attempt)
        self._give_up(decided)
        return None

    def _give_up(self, contract: Contract) -> None:
        reason = "no bidder is left to do it" if contract.bids else "nobody has bid for it"
        with suppress(InvalidTransition):  # it has ended otherwise meanwhile
            self._tasks.fail_task(contract.task_id, reason)

    def _make_award(self, contract: Contract, agent_id: str, attempt: int) -> Claim | None:
        try:
            return self._tasks.award(
                contract.task_id, agent_id, start_within_sec=contract.start_within_sec, attempt=attempt
            )
        except InvalidTransition:
            return None  # another process has made this award, or the task has ended

    def _task(self, task_id: str) -> Task:
        task = self._tasks.get_task(task_id)
        if task is None:
            raise UnknownTask(task_id)
        return task

    def _read(self, task_id: str) -> tuple[Contract, int]:
        found = self._store.get_versioned(_KEY + task_id)
        if found is None:
            raise UnknownTask(task_id)
        return _from_plain(task_id, found[0]), found[1]

    def _update(self, task_id: str, move: Callable[[Contract], Contract]) -> None:
        while True:
            contract, version = self._read(task_id)
            try:
                self._store.compare_and_set(_KEY + task_id, _to_plain(move(contract)), version)
            except VersionConflict:
                continue
            return


def _check_number(name: str, value: object, *, least: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value >= least):
        raise ValueError(f"{name} is a finite number of at least {least:g}, not {value!r}")


def _to_plain(contract: Contract) -> dict[str, Plain]:
    plain = asdict(contract, recurse=False)
    plain["state"] = contract.state.value
    plain["bids"] = [[bid.agent_id, bid.amount, bid.content] for bid in contract.bids]
    plain["awards"] = [list(award) for award in contract.awards]
    return plain


def _from_plain(task_id: str, data: Plain) -> Contract:
    """The contract in a stored value; `ForeignRecord` when it is none of this version."""
    try:
        match data:
            case {
                "task_id": str(own), "initiator": str(), "closes_at": int() | float(), "state": str(state),
                "start_within_sec": int() | float(), "max_amount": int() | float() | None,
                "bidders": list() | None, "bids": list(bids), "awards": list(awards),
            } if own == task_id:  # fmt: skip
                contract = Contract(**cast("dict[str, object]", data))  # type: ignore[arg-type]  # matched above
                return evolve(
                    contract,
                    state=ContractState(state),
                    bids=[_bid(entry) for entry in bids],
                    awards=[_award(entry) for entry in awards],
                )
    except (TypeError, ValueError) as error:
        raise ForeignRecord(_KEY + task_id, str(error)) from None
    raise ForeignRecord(_KEY + task_id, "it is no contract on this task")


def _bid(entry: Plain) -> ContractBid:
    match entry:
        case [str(agent_id), int() | float() as amount, content]:
            return ContractBid(agent_id, float(amount), content)
    raise ValueError(f"{entry!r} is no bid")


def _award(entry: Plain) -> tuple[str, int]:
    match entry:
        case [str(agent_id), int(attempt)]:
            return agent_id, attempt
    raise ValueError(f"{entry!r} is no award")
