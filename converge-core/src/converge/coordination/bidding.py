"""Auctions in any store: bids from any process, one outcome that all of them see.

The record under `auction:<id>` holds rules, bids and outcome. A bid, and the end, are one compare-and-set on it each.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Self

from converge.coordination.auction_record import AuctionRecord, AuctionResult, Bid
from converge.coordination.auction_rules import DUTCH, ENGLISH, FIRST_PRICE, SECOND_PRICE, AuctionRules
from converge.coordination.errors import AuctionExists, AuctionRefused, UnknownAuction
from converge.coordination.move_records import MoveRecords
from converge.core.clock import Clock, SystemClock
from converge.core.store import versioned

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from converge.coordination.amounts import Amount
    from converge.core.plain import Plain
    from converge.core.store import Store

__all__ = ["AuctionType", "BiddingProtocol", "StoredAuctions"]

_PREFIX = "auction:"


class AuctionType(Enum):
    """By which rule an auction is resolved."""

    FIRST_PRICE_SEALED_BID = FIRST_PRICE
    """The highest bid wins and pays itself."""

    SECOND_PRICE_SEALED_BID = SECOND_PRICE
    """The highest bid wins and pays the second highest (W. Vickrey, Journal of Finance 16, 1961)."""

    ENGLISH = ENGLISH
    """Bids are open and rise; the last one wins and pays itself."""

    DUTCH = DUTCH
    """The price falls with time; the first bid that reaches it wins at that price."""


class BiddingProtocol:
    """One auction in `store`, or in memory when there is none.

    Making it opens the auction unless it is open already; other processes make it with the same rules, or call
    `open`. `auction_id` names it; by default it is the one auction of its type in this store. Raises `AuctionExists`
    when the id belongs to an auction with other rules, and `ValueError` for rules that make no sense.

    Rules, for all types: `seller`, the agent that does not bid and that ends it; `closes_at`, the Unix time from which
    no bid is taken and before which nobody ends it (None: `resolve` ends it); `bidders`, who may bid (None: anybody
    but the seller). For all but Dutch ones: `reserve_price`, without which nothing is sold; `reverse`: the lowest
    bid wins, prices are what the winner gets, and a reserve price or a start price is the most. English: `start_price`
    of the first bid, `min_increment` over the standing one (None: any higher bid). Dutch: from `start_price` the price
    falls by `decrement` each `interval_sec` seconds to `floor_price` (default 0); without the three, the price is
    called elsewhere, and the first bid of at least `floor_price` wins at its own amount.

    Safe between threads, and between processes on a store that they share. `clock` tells the time; what it says where
    a bid arrives decides whether that bid is in time, and the price of a Dutch auction.
    """

    def __init__(
        self,
        auction_type: AuctionType,
        store: Store | None = None,
        *,
        auction_id: str | None = None,
        seller: str | None = None,
        closes_at: float | None = None,
        bidders: Iterable[str] | None = None,
        reserve_price: Amount | None = None,
        reverse: bool = False,
        start_price: Amount | None = None,
        min_increment: Amount | None = None,
        decrement: Amount | None = None,
        interval_sec: float | None = None,
        floor_price: Amount | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.auction_type = AuctionType(auction_type)
        self.auction_id = self.auction_type.value if auction_id is None else auction_id
        rules = AuctionRules.of(
            {
                "type": self.auction_type.value,
                "seller": seller,
                "closes_at": closes_at,
                "bidders": bidders,
                "reserve_price": reserve_price,
                "reverse": reverse,
                "start_price": start_price,
                "min_increment": min_increment,
                "decrement": decrement,
                "interval_sec": interval_sec,
                "floor_price": floor_price,
            }
        )
        self._clock: Clock = SystemClock() if clock is None else clock
        self._records = _records(store)
        self._begin(AuctionRecord(id=self.auction_id, rules=rules, opened_at=self._clock.time()))

    @classmethod
    def open(cls, store: Store, auction_id: str, *, clock: Clock | None = None) -> Self:
        """The auction of this id with the rules that it has; `UnknownAuction` when there is none."""
        made = cls.__new__(cls)
        made._records = _records(store)
        record = made._records.get(auction_id)
        made.auction_id, made.auction_type = auction_id, AuctionType(record.rules.type)
        made._clock = SystemClock() if clock is None else clock
        return made

    @property
    def blocking(self) -> bool:
        """Whether calls may wait for a disk or a network."""
        return self._records.blocking

    @property
    def rules(self) -> AuctionRules:
        """The rules that it was opened with."""
        return self._records.get(self.auction_id).rules

    def submit_bid(self, agent_id: str, amount: Amount, content: Plain = None) -> Bid:
        """The bid of `agent_id`, which whoever calls this has made sure of, accepted and stored.

        Sealed auctions take one bid of each agent, which is final; in all of them the same bid made again by the
        agent whose bid it is, while the auction is open, is no error. `content` goes with the bid, at most 16 KiB.
        Raises `AuctionRefused` when the amount or the rules do not allow the bid, `TypeError` for an agent id that is
        no str or a content that is no plain data.
        """
        record = self._records.change(
            self.auction_id, lambda record: record.accept(agent_id, amount, content, self._clock.time())
        )
        return next(bid for bid in reversed(record.bids) if bid.agent_id == agent_id)

    def resolve(self, *, agent_id: str | None = None) -> str | None:
        """The winner's id, None when there was no valid bid. Ends the auction if it has not ended; then and from then
        on the answer is the same in every process.

        An auction with a closing time cannot be ended before it. One without is ended by this, and when `agent_id` is
        given, it has to be the seller, if there is one. Raises `AuctionRefused` otherwise.
        """
        return self._records.change(
            self.auction_id, lambda record: record.resolved(self._clock.time(), agent_id)
        ).winner

    def result(self) -> AuctionResult | None:
        """Winner, price to pay and time of the end; None while the auction has not been resolved."""
        return self._records.get(self.auction_id).result

    def asking_price(self) -> Amount | None:
        """What a bid has to reach now, where the rules tell it: the price of a Dutch auction, the standing bid of an
        English one plus the increment (without one: the amount to beat). None for sealed auctions and after the end.
        """
        return self._records.get(self.auction_id).asking_price(self._clock.time())

    def bids(self) -> list[Bid]:
        """The bids in the order in which they were accepted; of an English auction the latest 100.

        Those of a sealed auction are kept back, with `AuctionRefused`, until it has been resolved.
        """
        record = self._records.get(self.auction_id)
        if record.is_open and record.rules.type in (FIRST_PRICE, SECOND_PRICE):
            raise AuctionRefused(f"the bids of auction {self.auction_id!r} are sealed until it is resolved", record.id)
        return record.bids

    def _begin(self, record: AuctionRecord) -> None:
        known = self._records.create(record)
        differing = [] if known is None else known.rules.differing(record.rules)
        if differing:
            raise AuctionExists(
                f"auction {record.id!r} exists with another {', '.join(differing)}; "
                "choose another auction_id, or open it by BiddingProtocol.open(store, auction_id)",
                record.id,
            )


def _records(store: Store | None) -> MoveRecords[AuctionRecord]:
    return MoveRecords(store, _PREFIX, AuctionRecord, _unknown)


def _unknown(auction_id: str) -> UnknownAuction:
    return UnknownAuction(f"there is no auction {auction_id!r}; open it with its rules first", auction_id)


class StoredAuctions(Mapping[str, BiddingProtocol]):
    """The auctions of a store by their ids, also those that are opened later: `bidding_protocols` of an executor."""

    def __init__(self, store: Store, *, clock: Clock | None = None) -> None:
        self._store, self._clock = versioned(store), clock

    @property
    def blocking(self) -> bool:
        """Whether looking one up may wait for a disk or a network."""
        return self._store.blocking

    def __getitem__(self, auction_id: str) -> BiddingProtocol:
        try:
            return BiddingProtocol.open(self._store, auction_id, clock=self._clock)
        except UnknownAuction:
            raise KeyError(auction_id) from None

    def __iter__(self) -> Iterator[str]:
        return (key.removeprefix(_PREFIX) for key in self._store.list(_PREFIX))

    def __len__(self) -> int:
        return len(self._store.list(_PREFIX))
