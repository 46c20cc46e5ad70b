"""The rules that an auction is opened with, checked: which type of auction knows which."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from attrs import asdict, fields, frozen

from converge.coordination.amounts import Amount, amount_of
from converge.coordination.move_records import agent_ids, check_agent, is_time

if TYPE_CHECKING:
    from converge.core.plain import Plain

__all__ = ["DUTCH", "ENGLISH", "FIRST_PRICE", "SECOND_PRICE", "AuctionRules"]

FIRST_PRICE = "first_price_sealed_bid"
SECOND_PRICE = "second_price_sealed_bid"
ENGLISH = "english"
DUTCH = "dutch"

_EVERY = ("type", "seller", "closes_at", "bidders")
_SEALED = (*_EVERY, "reserve_price", "reverse")
_AMOUNTS = ("reserve_price", "start_price", "min_increment", "decrement", "interval_sec", "floor_price")
_KNOWN = {
    FIRST_PRICE: _SEALED,
    SECOND_PRICE: _SEALED,
    ENGLISH: (*_EVERY, "reserve_price", "reverse", "start_price", "min_increment"),
    DUTCH: (*_EVERY, "start_price", "decrement", "interval_sec", "floor_price"),
}


@frozen(kw_only=True)
class AuctionRules:
    """What does not change about an auction. `ValueError` for a rule that its type does not know, or no sense makes.

    See `BiddingProtocol` for what each means.
    """

    type: str
    seller: str | None = None
    closes_at: float | None = None
    bidders: list[str] | None = None
    reserve_price: Amount | None = None
    reverse: bool = False
    min_increment: Amount | None = None
    start_price: Amount | None = None
    decrement: Amount | None = None
    interval_sec: float | None = None
    floor_price: Amount | None = None

    def __attrs_post_init__(self) -> None:
        if self.type not in list(_KNOWN):  # a list: what is stored may be unhashable
            raise ValueError(f"there is no auction of type {self.type!r}; there is {', '.join(_KNOWN)}")
        known = _KNOWN[self.type]
        for rule in fields(AuctionRules):
            if rule.name not in known and getattr(self, rule.name) != rule.default:
                raise ValueError(f"{rule.name} is no rule of a {self.type} auction; it has {', '.join(known[1:])}")
        for name in _AMOUNTS:
            if getattr(self, name) is not None:
                amount_of(getattr(self, name), name)
        if self.seller is not None:
            check_agent(self.seller)
        if self.closes_at is not None and not is_time(self.closes_at):
            raise ValueError(f"closes_at is a time in Unix seconds, not {self.closes_at!r}")
        if type(self.reverse) is not bool:
            raise ValueError(f"reverse is True or False, not {self.reverse!r}")
        if self.min_increment == 0:
            raise ValueError("min_increment is above 0; leave it out, and any higher bid will do")
        self._check_bidders()
        self._check_descent()

    @classmethod
    def of(cls, rules: dict[str, Any]) -> AuctionRules:
        """The rules as a caller gives them: `bidders` is any iterable, in any order."""
        bidders = rules.get("bidders")
        amounts = {name: amount_of(rules[name], name) for name in _AMOUNTS if rules[name] is not None}
        return cls(**rules | amounts | {"bidders": None if bidders is None else sorted(agent_ids(bidders, "bidders"))})

    def to_plain(self) -> dict[str, Plain]:
        """The rules as a store takes them."""
        return asdict(self, recurse=False)

    def differing(self, other: AuctionRules) -> list[str]:
        """The names of the rules that two auctions do not share."""
        return [rule.name for rule in fields(AuctionRules) if getattr(self, rule.name) != getattr(other, rule.name)]

    def beats(self, one: Amount, other: Amount) -> bool:
        """Whether a bid of `one` is better for the seller than a bid of `other`."""
        return one < other if self.reverse else one > other

    def meets_reserve(self, amount: Amount) -> bool:
        """Whether the seller sells at this amount at all."""
        return self.reserve_price is None or not self.beats(self.reserve_price, amount)

    def price_after(self, seconds: float) -> Amount | None:
        """The price of a Dutch auction so long after it was opened; None when it has no start price."""
        if self.start_price is None or self.decrement is None or self.interval_sec is None:
            return None
        floor = self.floor_price or 0
        steps = max(seconds, 0) / self.interval_sec
        if steps >= (self.start_price - floor) / self.decrement:
            return floor
        return max(floor, self.start_price - math.floor(steps) * self.decrement)

    def _check_bidders(self) -> None:
        if self.bidders is None:
            return
        if self.bidders != sorted(agent_ids(self.bidders, "bidders")):
            raise ValueError("bidders is a sorted list of agent ids, each once")
        if self.seller in self.bidders:
            raise ValueError(f"the seller {self.seller!r} cannot be among the bidders")

    def _check_descent(self) -> None:
        if self.type != DUTCH:
            return
        given = [name for name in ("start_price", "decrement", "interval_sec") if getattr(self, name) is not None]
        if given and len(given) < 3:
            raise ValueError(f"start_price, decrement and interval_sec go together; given is {', '.join(given)}")
        if given and (not self.decrement or not self.interval_sec):
            raise ValueError("decrement and interval_sec are above 0, or the price would never fall")
        if self.start_price is not None and self.start_price < (self.floor_price or 0):
            raise ValueError(f"the price cannot fall from {self.start_price} to a floor of {self.floor_price}")
