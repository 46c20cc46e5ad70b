"""Random histories of two objects on one auction, with clock jumps and crashes, compared with a model step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from converge.coordination.auction_record import _PRICE, AuctionRecord
from converge.coordination.auction_rules import AuctionRules
from converge.coordination.bidding import AuctionType, BiddingProtocol
from converge.coordination.errors import AuctionRefused
from tests.core.coordination.conftest import ManualClock
from tests.core.coordination.crashing import Crashed, CrashingStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.core.coordination.crashing import Crash

SEALED = (AuctionType.FIRST_PRICE_SEALED_BID, AuctionType.SECOND_PRICE_SEALED_BID)
DESCENT = {"start_price": 5, "decrement": 1, "interval_sec": 10, "floor_price": 1}

objects_drawn = st.sampled_from([0, 1])
agents_drawn = st.sampled_from(["a", "b", "c", "a", "b", "c", "seller", "stranger"])
amounts_drawn = st.sampled_from([1, 3, 4, 5, 7])
crashes_drawn = st.sampled_from([None, None, None, "before", "after"])


class AuctionLife(RuleBasedStateMachine):
    @initialize(
        auction_type=st.sampled_from(list(AuctionType)),
        reverse=st.booleans(),
        reserve=st.sampled_from([None, 4, 6]),
        increment=st.sampled_from([None, 2]),
        closes=st.booleans(),
    )
    def open_auction(
        self, auction_type: AuctionType, reverse: bool, reserve: int | None, increment: int | None, closes: bool
    ) -> None:
        self.clock, self.store = ManualClock(), CrashingStore()
        self.type, self.reserve = auction_type, reserve
        self.opened_at = self.clock.time()
        self.closes_at = self.opened_at + 60 if closes else None
        self.reverse = reverse and auction_type is not AuctionType.DUTCH
        self.increment = increment if auction_type is AuctionType.ENGLISH else None
        self.terms: dict[str, Any] = {
            "auction_id": "x", "seller": "seller", "closes_at": self.closes_at, "bidders": ["a", "b", "c"],
        }  # fmt: skip
        if auction_type is AuctionType.DUTCH:
            self.terms |= DESCENT
        else:
            self.terms |= {"reserve_price": reserve, "reverse": self.reverse}
        if self.increment is not None:
            self.terms["min_increment"] = self.increment
        self.objects = [self.opened(), self.opened()]
        self.bids: list[tuple[str, int]] = []  # the model: what was accepted, in order
        self.ended: tuple[str | None, float | None] | None = None

    def opened(self) -> BiddingProtocol:
        return BiddingProtocol(self.type, self.store, clock=self.clock, **self.terms)

    # -- the model

    def better(self, one: float, other: float) -> bool:
        return one < other if self.reverse else one > other

    def price(self) -> int:
        return max(1, 5 - int(max(self.clock.time() - self.opened_at, 0) // 10))

    def over(self) -> bool:
        return self.ended is not None or (self.closes_at is not None and self.clock.time() >= self.closes_at)

    def acceptable(self, agent: str, amount: int) -> bool:
        if agent not in ("a", "b", "c") or self.over():
            return False
        if self.type in SEALED:
            return (agent, amount) in self.bids or agent not in [bidder for bidder, _ in self.bids]
        if self.type is AuctionType.DUTCH:
            return amount >= self.price()
        if not self.bids or self.bids[-1] == (agent, amount):
            return True
        standing = self.bids[-1][1]
        step = self.increment or 0
        return self.better(amount, standing) and abs(amount - standing) >= step

    def accepted(self, agent: str, amount: int) -> None:
        if (agent, amount) not in self.bids[-1:] and not (self.type in SEALED and (agent, amount) in self.bids):
            self.bids.append((agent, amount))
        if self.type is AuctionType.DUTCH:
            self.ended = agent, self.price()

    def outcome(self) -> tuple[str | None, float | None]:
        sells = [bid for bid in self.bids if self.reserve is None or not self.better(self.reserve, bid[1])]
        if not sells:
            return None, None
        winner = min(sells, key=lambda bid: bid[1] if self.reverse else -bid[1])  # the first of equal ones
        if self.type is not AuctionType.SECOND_PRICE_SEALED_BID:
            return winner
        rest = [amount for bidder, amount in self.bids if bidder != winner[0]]
        rest += [] if self.reserve is None else [self.reserve]
        if self.reverse:
            return winner[0], min(rest, default=winner[1])
        return winner[0], max(rest, default=0)

    # -- the moves

    def attempt(self, crash: Crash, move: Callable[[], object], *, allowed: bool, happens: Callable[[], None]) -> None:
        """Carry out a move that may be the last one of its process; a new one takes its place."""
        self.store.crash = crash
        try:
            move()
        except AuctionRefused:
            assert not allowed
        except Crashed:
            assert allowed
            if crash == "after":
                happens()
            self.objects = [self.opened(), self.opened()]
        else:
            assert allowed
            happens()
        self.store.crash = None

    @rule(number=objects_drawn, agent=agents_drawn, amount=amounts_drawn, crash=crashes_drawn)
    def bid(self, number: int, agent: str, amount: int, crash: Crash) -> None:
        self.attempt(
            crash,
            lambda: self.objects[number].submit_bid(agent, amount, {"by": agent}),
            allowed=self.acceptable(agent, amount),
            happens=lambda: self.accepted(agent, amount),
        )

    @precondition(lambda self: self.bids or self.over())  # or few histories would get far
    @rule(number=objects_drawn, agent=st.sampled_from([None, None, "seller", "a"]), crash=crashes_drawn)
    def resolve(self, number: int, agent: str | None, crash: Crash) -> None:
        allowed = self.over() or (self.closes_at is None and agent != "a")

        def happens() -> None:
            self.ended = self.outcome() if self.ended is None else self.ended

        self.attempt(crash, lambda: self.objects[number].resolve(agent_id=agent), allowed=allowed, happens=happens)

    @rule(seconds=st.sampled_from([1, 10, 30, -20]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds) if seconds > 0 else self.clock.set_back(-seconds)

    @rule(number=objects_drawn)
    def reopen(self, number: int) -> None:
        self.objects[number] = BiddingProtocol.open(self.store, "x", clock=self.clock)

    # -- what always holds

    @invariant()
    def all_see_what_the_model_says(self) -> None:
        for auction in self.objects:
            result = auction.result()
            assert (None if result is None else (result.winner, result.price)) == self.ended
            if self.type not in SEALED or self.ended is not None:
                assert [(bid.agent_id, bid.amount) for bid in auction.bids()] == self.bids
            if self.ended is not None:
                assert auction.resolve() == self.ended[0]
            if self.type is AuctionType.DUTCH and not self.over():
                assert auction.asking_price() == self.price()


def check(examples: int, *, of_mutant: bool = False) -> None:
    run_state_machine_as_test(
        AuctionLife,
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


def the_last_of_equal_ones(rules: AuctionRules, one: float, other: float) -> bool:
    return one <= other if rules.reverse else one >= other


MUTANTS: dict[str, tuple[Any, str, Any]] = {
    "the later of equal bids wins": (AuctionRules, "beats", the_last_of_equal_ones),
    "the reserve price is not looked at": (AuctionRules, "meets_reserve", lambda rules, amount: True),
    "the price does not fall": (AuctionRules, "price_after", lambda rules, seconds: rules.start_price),
    "the closing time is not looked at": (AuctionRecord, "is_over", lambda record, now: not record.is_open),
    "an end is not final": (AuctionRecord, "is_open", True),
    "the second price is the first": (_PRICE, "second_price_sealed_bid", AuctionRecord._own_price),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_model_catches_an_auction_in_which(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, name, value = MUTANTS[mutant]
    (monkeypatch.setitem if isinstance(target, dict) else monkeypatch.setattr)(target, name, value)
    with pytest.raises((AssertionError, ValueError)):
        check(1_000, of_mutant=True)
