"""The state machine of an auction, pure: a stored record goes in, the next one comes out.

OPEN --bid--> OPEN          sealed: it is kept, one an agent; English: it is the standing bid now
OPEN --bid--> SOLD          Dutch: the first one that reaches the price
OPEN --resolve--> SOLD      to the best bid that meets the reserve price
OPEN --resolve--> UNSOLD    when there is none

SOLD and UNSOLD are final. Bids are kept in the order in which the store accepted them, and that order, not a clock,
breaks ties: the earlier bid wins.
"""

from __future__ import annotations

from typing import Any

from attrs import evolve, field, frozen

from converge.coordination.amounts import Amount, amount_of
from converge.coordination.auction_rules import DUTCH, ENGLISH, FIRST_PRICE, SECOND_PRICE, AuctionRules
from converge.coordination.equality import same
from converge.coordination.errors import AuctionRefused
from converge.coordination.move_records import bounded, check_agent, is_time
from converge.core.plain import Plain

__all__ = ["MAX_BIDDERS", "MAX_CONTENT_BYTES", "MAX_HISTORY", "AuctionRecord", "AuctionResult", "Bid"]

MAX_BIDDERS = 1_000
"""The most bids of a sealed auction: its record holds all of them."""

MAX_HISTORY = 100
"""The latest bids that the record of an English auction keeps."""

MAX_CONTENT_BYTES = 16 * 1024
"""What the content of a bid may take, encoded."""

_OPEN, _SOLD, _UNSOLD = "open", "sold", "unsold"


@frozen
class Bid:
    """A bid that was accepted, at a time in Unix seconds by the clock of the process that took it."""

    agent_id: str
    amount: Amount
    content: Plain = None
    at: float = 0.0

    def to_plain(self) -> list[Plain]:
        """The bid as the store takes it."""
        return [self.agent_id, self.amount, self.content, self.at]

    def repeats(self, other: Bid) -> bool:
        """Whether it is the same bid again, made a second time."""
        return (self.agent_id, self.amount) == (other.agent_id, other.amount) and same(self.content, other.content)


@frozen
class AuctionResult:
    """How an auction has ended: who won and the price to pay (in a reverse auction: to be paid); None and None
    when it was not sold.
    """

    winner: str | None
    price: Amount | None
    at: float


@frozen(kw_only=True)
class AuctionRecord:
    """An auction as the store holds it. Times are Unix seconds."""

    id: str
    rules: AuctionRules
    opened_at: float
    state: str = _OPEN
    bids: list[Bid] = field(factory=list)
    winner: str | None = None
    price: Amount | None = None
    ended_at: float | None = None

    @classmethod
    def from_plain(cls, data: object) -> AuctionRecord:
        """The record in a stored value; `ValueError` or `TypeError` when it is not one of this version."""
        if not isinstance(data, dict):
            raise ValueError(f"it is {type(data).__name__}, not a dict")
        fields = {**data, "rules": AuctionRules(**data["rules"]) if isinstance(data.get("rules"), dict) else None}
        fields["bids"] = [_stored_bid(bid) for bid in data.get("bids", [])]
        record = cls(**fields)
        record._check()
        return record

    def to_plain(self) -> dict[str, Plain]:
        """The record as the store takes it."""
        return {
            "id": self.id,
            "rules": self.rules.to_plain(),
            "opened_at": self.opened_at,
            "state": self.state,
            "bids": [bid.to_plain() for bid in self.bids],
            "winner": self.winner,
            "price": self.price,
            "ended_at": self.ended_at,
        }

    @property
    def is_open(self) -> bool:
        """Whether it has not been resolved yet."""
        return self.state == _OPEN

    @property
    def result(self) -> AuctionResult | None:
        """How it ended; None while it is open."""
        return None if self.ended_at is None else AuctionResult(self.winner, self.price, self.ended_at)

    def is_over(self, now: float) -> bool:
        """Whether it takes no bid any more."""
        return not self.is_open or (self.rules.closes_at is not None and now >= self.rules.closes_at)

    def asking_price(self, now: float) -> Amount | None:
        """The least amount of a bid that could be accepted next (in a reverse auction: the most), where the rules tell
        it; None for a sealed auction and for one that takes no bid any more.

        In an English auction without an increment it is the standing amount, which a bid has to beat.
        """
        if self.is_over(now):
            return None
        if self.rules.type == DUTCH:
            price = self.rules.price_after(now - self.opened_at)
            return self.rules.floor_price if price is None else price
        if self.rules.type != ENGLISH:
            return None
        if not self.bids:
            return self.rules.start_price
        step = self.rules.min_increment or 0
        return self.bids[-1].amount - step if self.rules.reverse else self.bids[-1].amount + step

    def accept(self, agent_id: str, amount: object, content: Plain, now: float) -> AuctionRecord:
        """The auction after a bid; itself when the agent has made the same bid before.

        `AuctionRefused` when the rules do not allow it, `TypeError` for an agent id or a content of a wrong type.
        """
        check_agent(agent_id)
        if self.is_over(now):
            raise self._refused(agent_id, "the auction has ended")
        if agent_id == self.rules.seller:
            raise self._refused(agent_id, "the seller does not bid")
        if self.rules.bidders is not None and agent_id not in self.rules.bidders:
            raise self._refused(agent_id, "it is not among the bidders of this auction")
        try:
            bid = Bid(
                agent_id, amount_of(amount, "the amount"), bounded(content, MAX_CONTENT_BYTES, "the content"), now
            )
        except ValueError as error:
            raise self._refused(agent_id, str(error)) from None
        return _TAKE[self.rules.type](self, bid, now)

    def resolved(self, now: float, agent_id: str | None = None) -> AuctionRecord:
        """The auction with its result; itself when it has one.

        `AuctionRefused` before its closing time, and when `agent_id` may not end it.
        """
        if not self.is_open:
            return self
        if not self.is_over(now):
            if self.rules.closes_at is not None:
                raise AuctionRefused(f"auction {self.id!r} is open until {self.rules.closes_at} (Unix time)", self.id)
            if None not in (agent_id, self.rules.seller) and agent_id != self.rules.seller:
                raise AuctionRefused(f"auction {self.id!r} is ended by its seller, not by {agent_id!r}", self.id)
        valid = [bid for bid in self.bids if self.rules.meets_reserve(bid.amount)]
        if not valid or self.rules.type == DUTCH:
            return evolve(self, state=_UNSOLD, ended_at=now)
        best = valid[0]
        for bid in valid[1:]:
            if self.rules.beats(bid.amount, best.amount):
                best = bid
        return self._sold(best, _PRICE[self.rules.type](self, best), now)

    # -- what each type makes of a bid, and of its end

    def _keep_sealed(self, bid: Bid, now: float) -> AuctionRecord:
        mine = next((known for known in self.bids if known.agent_id == bid.agent_id), None)
        if mine is not None:
            if bid.repeats(mine):
                return self
            raise self._refused(bid.agent_id, "it has made another bid already; the first one counts")
        if len(self.bids) >= MAX_BIDDERS:
            raise self._refused(bid.agent_id, f"the auction has {MAX_BIDDERS} bids, which is the most it keeps")
        return evolve(self, bids=[*self.bids, bid])

    def _stand(self, bid: Bid, now: float) -> AuctionRecord:
        if self.bids and bid.repeats(self.bids[-1]):
            return self
        asked = self.asking_price(now)
        least = "most" if self.rules.reverse else "least"
        if asked is not None and self.rules.beats(asked, bid.amount):
            raise self._refused(bid.agent_id, f"{bid.amount} does not do; the {least} is {asked}")
        if self.bids and not self.rules.beats(bid.amount, self.bids[-1].amount):
            raise self._refused(bid.agent_id, f"{bid.amount} does not beat the standing bid of {self.bids[-1].amount}")
        return evolve(self, bids=[*self.bids, bid][-MAX_HISTORY:])

    def _take_now(self, bid: Bid, now: float) -> AuctionRecord:
        asked = self.asking_price(now)
        if asked is not None and bid.amount < asked:
            raise self._refused(bid.agent_id, f"{bid.amount} does not reach the price, which is {asked} now")
        price = bid.amount if self.rules.start_price is None or asked is None else asked
        return evolve(self, bids=[bid])._sold(bid, price, now)

    def _own_price(self, best: Bid) -> Amount:
        return best.amount

    def _second_price(self, best: Bid) -> Amount:
        reserve = self.rules.reserve_price
        others = [bid.amount for bid in self.bids if bid is not best]
        if self.rules.reverse:
            limits = others if reserve is None else [*others, reserve]
            return min(limits, default=best.amount)
        return max([*others, reserve or 0])

    def _sold(self, bid: Bid, price: Amount, now: float) -> AuctionRecord:
        return evolve(self, state=_SOLD, winner=bid.agent_id, price=price, ended_at=now)

    def _refused(self, agent_id: str, reason: str) -> AuctionRefused:
        return AuctionRefused(f"the bid of {agent_id!r} in auction {self.id!r} is refused: {reason}", self.id)

    def _check(self) -> None:
        if not isinstance(self.rules, AuctionRules):
            raise ValueError("it has no rules")
        if self.state not in (_OPEN, _SOLD, _UNSOLD):
            raise ValueError(f"there is no state {self.state!r}")
        ends = [self.winner is not None, self.price is not None]
        if ends != [self.state == _SOLD] * 2 or self.is_open != (self.ended_at is None):
            raise ValueError("its state and its result do not fit together")
        if self.winner is not None and self.winner not in {bid.agent_id for bid in self.bids}:
            raise ValueError("its winner has made no bid")
        if self.price is not None:
            amount_of(self.price, "the price")
        if not is_time(self.opened_at) or not (self.ended_at is None or is_time(self.ended_at)):
            raise ValueError("a time in it is no number of seconds")


_TAKE = {
    FIRST_PRICE: AuctionRecord._keep_sealed,
    SECOND_PRICE: AuctionRecord._keep_sealed,
    ENGLISH: AuctionRecord._stand,
    DUTCH: AuctionRecord._take_now,
}
_PRICE = {
    FIRST_PRICE: AuctionRecord._own_price,
    SECOND_PRICE: AuctionRecord._second_price,
    ENGLISH: AuctionRecord._own_price,
}


def _stored_bid(data: Any) -> Bid:  # noqa: ANN401  # what a store holds
    if not isinstance(data, list) or len(data) != 4:
        raise ValueError("a bid is [agent, amount, content, time]")
    agent_id, amount, content, at = data
    if not is_time(at):
        raise ValueError("a bid has no time")
    return Bid(check_agent(agent_id), amount_of(amount, "a bid"), content, at)
