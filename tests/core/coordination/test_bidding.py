"""The rules of each type of auction, one by one, in memory and in SQLite."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from converge.coordination import auction_record
from converge.coordination.auction_record import AuctionRecord, AuctionResult, Bid
from converge.coordination.bidding import AuctionType, BiddingProtocol, StoredAuctions
from converge.coordination.errors import AuctionExists, AuctionRefused, ForeignRecord, UnknownAuction
from converge.extensions.storage.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.core.plain import Plain
    from converge.core.store import VersionedStore
    from tests.core.coordination.conftest import ManualClock

FIRST, SECOND = AuctionType.FIRST_PRICE_SEALED_BID, AuctionType.SECOND_PRICE_SEALED_BID
ENGLISH, DUTCH = AuctionType.ENGLISH, AuctionType.DUTCH
DESCENT: dict[str, Any] = {"start_price": 100, "decrement": 10, "interval_sec": 60}


def resolved(auction: BiddingProtocol) -> tuple[str | None, float | None]:
    winner, result = auction.resolve(), auction.result()
    assert result is not None
    assert result.winner == winner
    return winner, result.price


def outcome(auction_type: AuctionType, bids: list[tuple[str, float]], **rules: Any) -> tuple[str | None, float | None]:
    """Winner and price of an auction with these bids."""
    auction = BiddingProtocol(auction_type, **rules)
    for agent_id, amount in bids:
        auction.submit_bid(agent_id, amount)
    return resolved(auction)


# -- who wins, and what the winner pays


@pytest.mark.parametrize(
    ("auction_type", "bids", "rules", "expected"),
    [
        (FIRST, [("a", 10), ("b", 30), ("c", 20)], {}, ("b", 30)),
        (FIRST, [("a", 10), ("b", 30), ("c", 20)], {"reverse": True}, ("a", 10)),
        (FIRST, [("a", 20), ("b", 20.0)], {}, ("a", 20)),
        (FIRST, [("b", 20), ("a", 20)], {"reverse": True}, ("b", 20)),
        (FIRST, [("a", 10)], {"reserve_price": 10}, ("a", 10)),
        (FIRST, [("a", 9), ("b", 8)], {"reserve_price": 10}, (None, None)),
        (FIRST, [("a", 11)], {"reserve_price": 10, "reverse": True}, (None, None)),
        (FIRST, [("a", 0)], {}, ("a", 0)),
        (FIRST, [], {}, (None, None)),
        (SECOND, [("a", 10), ("b", 30), ("c", 20)], {}, ("b", 20)),
        (SECOND, [("a", 10), ("b", 30), ("c", 20)], {"reverse": True}, ("a", 20)),
        (SECOND, [("a", 20), ("b", 20)], {}, ("a", 20)),
        (SECOND, [("a", 30), ("b", 5)], {"reserve_price": 10}, ("a", 10)),
        (SECOND, [("a", 10), ("b", 90)], {"reserve_price": 50, "reverse": True}, ("a", 50)),
        (SECOND, [("a", 30)], {}, ("a", 0)),
        (SECOND, [("a", 30)], {"reverse": True}, ("a", 30)),
        (SECOND, [("a", 9)], {"reserve_price": 10}, (None, None)),
        (SECOND, [], {}, (None, None)),
        (ENGLISH, [("a", 10), ("b", 11), ("a", 12)], {}, ("a", 12)),
        (ENGLISH, [("a", 10), ("b", 11)], {"reserve_price": 12}, (None, None)),
        (ENGLISH, [("a", 10), ("a", 12)], {"reserve_price": 12}, ("a", 12)),
        (ENGLISH, [("a", 10), ("b", 8), ("a", 7)], {"reverse": True, "start_price": 10}, ("a", 7)),
        (ENGLISH, [], {}, (None, None)),
        (DUTCH, [("a", 50)], {}, ("a", 50)),
        (DUTCH, [("a", 120)], DESCENT, ("a", 100)),
        (DUTCH, [], DESCENT, (None, None)),
    ],
)
def test_the_winner_and_the_price_follow_from_the_rule(
    auction_type: AuctionType, bids: list[tuple[str, float]], rules: dict[str, Any], expected: tuple[Any, Any]
) -> None:
    assert outcome(auction_type, bids, **rules) == expected


def test_no_second_price_bidder_gains_by_another_bid_than_the_true_value() -> None:
    """Vickrey 1961: what the winner pays does not depend on its own bid."""
    values = {"a": 10, "b": 7}
    for bid in range(15):
        winner, price = outcome(SECOND, [("a", bid), ("b", values["b"])])
        gain = values["a"] - (price or 0) if winner == "a" else 0
        assert gain <= 10 - 7
        assert (gain == 10 - 7) == (bid >= 7)


# -- bids


@pytest.mark.parametrize("amount", [math.nan, math.inf, -math.inf, -1, -0.5, True, False, None, "5", 2**63, [1], 1j])
@pytest.mark.parametrize("auction_type", AuctionType)
def test_what_is_no_amount_is_refused_and_changes_nothing(auction_type: AuctionType, amount: Any) -> None:
    store = MemoryStore()
    auction = BiddingProtocol(auction_type, store)
    before = store.get_versioned(f"auction:{auction.auction_id}")
    with pytest.raises(AuctionRefused, match="the amount is") as caught:
        auction.submit_bid("a", amount)
    assert caught.value.subject_id == auction.auction_id
    assert store.get_versioned(f"auction:{auction.auction_id}") == before


def test_an_amount_of_thousands_of_digits_is_refused_in_words() -> None:
    with pytest.raises(AuctionRefused, match="beyond 64 bits"):
        BiddingProtocol(FIRST).submit_bid("a", 10**9_999)


@pytest.mark.parametrize("auction_type", [FIRST, SECOND])
def test_a_sealed_bid_is_final_and_the_same_one_again_is_no_error(auction_type: AuctionType) -> None:
    auction = BiddingProtocol(auction_type)
    assert auction.submit_bid("a", 10, {"by": "noon"}) == auction.submit_bid("a", 10.0, {"by": "noon"})
    others: list[tuple[int, Plain]] = [(11, {"by": "noon"}), (9, {"by": "noon"}), (10, None)]
    for amount, content in others:
        with pytest.raises(AuctionRefused, match="another bid already; the first one counts"):
            auction.submit_bid("a", amount, content)
    auction.resolve()
    assert [(bid.amount, bid.content) for bid in auction.bids()] == [(10, {"by": "noon"})]


def test_sealed_bids_are_kept_back_until_the_end_and_english_ones_are_open() -> None:
    for auction_type in (FIRST, SECOND):
        auction = BiddingProtocol(auction_type)
        auction.submit_bid("a", 10)
        with pytest.raises(AuctionRefused, match="are sealed until it is resolved"):
            auction.bids()
        assert auction.asking_price() is None
        assert auction.result() is None
        auction.resolve()
        assert [bid.agent_id for bid in auction.bids()] == ["a"]
    english = BiddingProtocol(ENGLISH)
    english.submit_bid("a", 10)
    assert [bid.amount for bid in english.bids()] == [10]


def test_the_refusal_of_a_sealed_bid_says_nothing_about_the_others() -> None:
    auction = BiddingProtocol(FIRST, bidders=["a", "b"])
    auction.submit_bid("a", 4242)
    for agent_id, amount in (("b", -1), ("c", 4241)):
        with pytest.raises(AuctionRefused) as caught:
            auction.submit_bid(agent_id, amount)
        assert "4242" not in str(caught.value)
        assert "'a'" not in str(caught.value)


@pytest.mark.parametrize("auction_type", AuctionType)
def test_only_those_who_may_bid_do(auction_type: AuctionType) -> None:
    auction = BiddingProtocol(auction_type, seller="s", bidders=["b", "a"])
    with pytest.raises(AuctionRefused, match="the seller does not bid"):
        auction.submit_bid("s", 10)
    with pytest.raises(AuctionRefused, match="not among the bidders"):
        auction.submit_bid("c", 10)
    auction.submit_bid("a", 10)
    with pytest.raises(AuctionRefused, match="not among the bidders"):
        BiddingProtocol(auction_type, bidders=[]).submit_bid("a", 10)


@pytest.mark.parametrize("agent_id", ["", None, 5, b"a", "\ud800", "x" * 2000])
def test_a_bidder_has_an_id(agent_id: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="an agent id"):
        BiddingProtocol(FIRST).submit_bid(agent_id, 10)


def test_a_content_is_bounded_plain_data_of_the_auction_s_own() -> None:
    auction = BiddingProtocol(ENGLISH)
    content = {"steps": ["x"]}
    auction.submit_bid("a", 10, content)  # type: ignore[arg-type]  # a dict of lists of str is plain data
    content["steps"].append("y")
    assert auction.bids()[0].content == {"steps": ["x"]}
    with pytest.raises(AuctionRefused, match="at most 16384 are kept"):
        auction.submit_bid("b", 11, "x" * 20_000)
    with pytest.raises(TypeError, match="not plain data"):
        auction.submit_bid("b", 11, object())  # type: ignore[arg-type]  # wrong on purpose


def test_a_sealed_auction_takes_so_many_bidders_and_an_english_one_forgets_its_oldest_bids(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(auction_record, "MAX_BIDDERS", 3)
    monkeypatch.setattr(auction_record, "MAX_HISTORY", 3)
    sealed, english = BiddingProtocol(FIRST), BiddingProtocol(ENGLISH)
    for number in range(3):
        sealed.submit_bid(f"a{number}", number)
    with pytest.raises(AuctionRefused, match="3 bids, which is the most"):
        sealed.submit_bid("late", 99)
    for number in range(9):
        english.submit_bid(f"a{number}", number)
    assert [bid.amount for bid in english.bids()] == [6, 7, 8]
    assert resolved(english) == ("a8", 8)


# -- English


def test_an_english_bid_has_to_beat_the_standing_one_by_the_increment() -> None:
    auction = BiddingProtocol(ENGLISH, start_price=10, min_increment=5)
    assert auction.asking_price() == 10
    with pytest.raises(AuctionRefused, match=r"9\.5 does not do; the least is 10"):
        auction.submit_bid("a", 9.5)
    first = auction.submit_bid("a", 10)
    assert auction.submit_bid("a", 10) == first
    assert auction.asking_price() == 15
    with pytest.raises(AuctionRefused, match="14 does not do; the least is 15"):
        auction.submit_bid("b", 14)
    auction.submit_bid("b", 15)
    with pytest.raises(AuctionRefused):
        auction.submit_bid("a", 10)


def test_an_english_bid_equal_to_the_standing_one_is_refused() -> None:
    auction = BiddingProtocol(ENGLISH)
    assert auction.asking_price() is None
    auction.submit_bid("a", 1e16)
    with pytest.raises(AuctionRefused, match="does not beat the standing bid"):
        auction.submit_bid("b", 1e16)
    tiny = BiddingProtocol(ENGLISH, min_increment=0.5)
    tiny.submit_bid("a", 1e16)
    with pytest.raises(AuctionRefused, match="does not beat the standing bid"):
        tiny.submit_bid("b", 1e16)  # a half is lost in a float of this size


def test_a_reverse_english_auction_falls_by_the_increment() -> None:
    auction = BiddingProtocol(ENGLISH, reverse=True, start_price=100, min_increment=10)
    with pytest.raises(AuctionRefused, match="101 does not do; the most is 100"):
        auction.submit_bid("a", 101)
    auction.submit_bid("a", 100)
    with pytest.raises(AuctionRefused, match="91 does not do; the most is 90"):
        auction.submit_bid("b", 91)
    auction.submit_bid("b", 90)
    assert resolved(auction) == ("b", 90)


# -- Dutch


def test_the_price_of_a_dutch_auction_falls_with_time_to_its_floor(clock: ManualClock) -> None:
    auction = BiddingProtocol(DUTCH, clock=clock, floor_price=35, **DESCENT)
    prices = []
    for _ in range(9):
        prices.append(auction.asking_price())
        clock.advance(60)
    assert prices == [100, 90, 80, 70, 60, 50, 40, 35, 35]
    clock.set_back(86_400)
    assert auction.asking_price() == 100


def test_the_first_bid_at_the_price_of_a_dutch_auction_ends_it_at_that_price(clock: ManualClock) -> None:
    auction = BiddingProtocol(DUTCH, clock=clock, **DESCENT)
    clock.advance(59.9)
    with pytest.raises(AuctionRefused, match="75 does not reach the price, which is 100 now"):
        auction.submit_bid("a", 75)
    clock.advance(120.1)
    bid = auction.submit_bid("b", 75)
    assert (bid.agent_id, bid.amount) == ("b", 75)
    with pytest.raises(AuctionRefused, match="the auction has ended"):
        auction.submit_bid("a", 500)
    assert auction.result() == AuctionResult("b", 70, clock.time())
    assert auction.resolve() == "b"
    assert auction.asking_price() is None


def test_a_dutch_auction_that_nobody_took_is_unsold(clock: ManualClock) -> None:
    auction = BiddingProtocol(DUTCH, clock=clock, **DESCENT)
    assert resolved(auction) == (None, None)
    with pytest.raises(AuctionRefused, match="the auction has ended"):
        auction.submit_bid("a", 100)


def test_a_dutch_auction_without_a_descent_goes_to_the_first_bid_from_its_floor() -> None:
    auction = BiddingProtocol(DUTCH, floor_price=10)
    assert auction.asking_price() == 10
    with pytest.raises(AuctionRefused, match="9 does not reach the price"):
        auction.submit_bid("a", 9)
    auction.submit_bid("b", 12)
    assert resolved(auction) == ("b", 12)


@pytest.mark.parametrize(
    ("decrement", "interval", "seconds"), [(1e-300, 1e-300, 1e9), (1e308, 1e-300, 1.0), (3, 1e300, 1e9)]
)
def test_the_price_is_a_number_whatever_the_rules(
    clock: ManualClock, decrement: float, interval: float, seconds: float
) -> None:
    auction = BiddingProtocol(DUTCH, clock=clock, start_price=7, decrement=decrement, interval_sec=interval)
    clock.advance(seconds)
    price = auction.asking_price()
    assert price is not None
    assert 0 <= price <= 7


# -- the end


def test_no_bid_is_taken_from_the_closing_time_on_and_nobody_ends_it_before(clock: ManualClock) -> None:
    auction = BiddingProtocol(FIRST, clock=clock, seller="s", closes_at=clock.time() + 10)
    auction.submit_bid("a", 10)
    for agent_id in (None, "s", "a"):
        with pytest.raises(AuctionRefused, match="is open until"):
            auction.resolve(agent_id=agent_id)
    clock.advance(10)
    with pytest.raises(AuctionRefused, match="the auction has ended"):
        auction.submit_bid("b", 20)
    assert auction.result() is None
    assert auction.resolve(agent_id="a") == "a"
    clock.set_back(3600)
    with pytest.raises(AuctionRefused, match="the auction has ended"):
        auction.submit_bid("b", 20)


def test_an_auction_without_a_closing_time_is_ended_by_its_seller_and_by_no_other_agent() -> None:
    auction = BiddingProtocol(FIRST, seller="s")
    auction.submit_bid("a", 10)
    with pytest.raises(AuctionRefused, match="is ended by its seller, not by 'a'"):
        auction.resolve(agent_id="a")
    assert auction.resolve(agent_id="s") == "a"
    assert auction.resolve(agent_id="a") == "a"
    assert BiddingProtocol(FIRST).resolve(agent_id="a") is None


@pytest.mark.parametrize("auction_type", AuctionType)
def test_the_end_is_final_and_the_same_from_every_object(
    auction_type: AuctionType, open_store: Callable[[], VersionedStore], clock: ManualClock
) -> None:
    one, two = (BiddingProtocol(auction_type, open_store(), clock=clock) for _ in range(2))
    one.submit_bid("a", 10)
    if auction_type is not DUTCH:
        two.submit_bid("b", 20)
    winner = two.resolve()
    assert winner == ("a" if auction_type is DUTCH else "b")
    clock.advance(100)
    three = BiddingProtocol.open(open_store(), one.auction_id, clock=clock)
    assert one.resolve() == two.resolve() == three.resolve() == winner
    assert one.result() == three.result()
    assert three.auction_type is auction_type
    for auction in (one, two, three):
        with pytest.raises(AuctionRefused, match="the auction has ended"):
            auction.submit_bid("c", 1000)


# -- opening


def test_auctions_of_one_store_are_told_apart_by_id_and_by_type_when_there_is_none() -> None:
    store = MemoryStore()
    for auction_type in AuctionType:
        assert BiddingProtocol(auction_type, store).auction_id == auction_type.value
    BiddingProtocol(FIRST, store, auction_id="x").submit_bid("a", 1)
    assert BiddingProtocol(FIRST, store).resolve() is None
    assert BiddingProtocol(FIRST, store, auction_id="x").resolve() == "a"


def test_an_auction_that_exists_with_other_rules_is_not_opened_again_and_the_difference_is_named() -> None:
    store = MemoryStore()
    rules: dict[str, Any] = {"auction_id": "x", "seller": "s", "reserve_price": 5, "bidders": iter(["b", "a"])}
    auction = BiddingProtocol(FIRST, store, **rules)
    assert auction.rules == BiddingProtocol(FIRST, store, **rules | {"bidders": ["a", "b", "a"]}).rules
    with pytest.raises(AuctionExists, match="with another seller, bidders, reserve_price; choose another auction_id"):
        BiddingProtocol(FIRST, store, auction_id="x")
    with pytest.raises(AuctionExists, match="another type"):
        BiddingProtocol(ENGLISH, store, **rules | {"bidders": ["a", "b"]})


@pytest.mark.parametrize(
    ("auction_type", "rules", "text"),
    [
        (FIRST, {"start_price": 1}, "start_price is no rule of a first_price_sealed_bid auction; it has seller"),
        (ENGLISH, {"decrement": 1}, "decrement is no rule of a english auction"),
        (DUTCH, {"reverse": True}, "reverse is no rule of a dutch auction"),
        (DUTCH, {"reserve_price": 1}, "reserve_price is no rule"),
        (DUTCH, {"start_price": 1}, "go together; given is start_price"),
        (DUTCH, {**DESCENT, "decrement": 0}, "the price would never fall"),
        (DUTCH, {**DESCENT, "interval_sec": 0}, "the price would never fall"),
        (DUTCH, {**DESCENT, "floor_price": 101}, "cannot fall from 100 to a floor of 101"),
        (ENGLISH, {"min_increment": 0}, "min_increment is above 0"),
        (FIRST, {"reserve_price": math.nan}, "reserve_price is nan"),
        (FIRST, {"reserve_price": -1}, "reserve_price is an int below 0"),
        (FIRST, {"reserve_price": True}, "reserve_price is a number, not a bool"),
        (FIRST, {"reverse": 1}, "reverse is True or False"),
        (FIRST, {"closes_at": math.inf}, "closes_at is a time"),
        (FIRST, {"closes_at": "now"}, "closes_at is a time"),
        (FIRST, {"bidders": "abc"}, "bidders is a list of agent ids, not 'abc'"),
        (FIRST, {"bidders": 5}, "bidders is a list of agent ids"),
        (FIRST, {"bidders": [""]}, "an agent id cannot be empty"),
        (FIRST, {"bidders": ["s"], "seller": "s"}, "the seller 's' cannot be among the bidders"),
        (FIRST, {"seller": ""}, "an agent id cannot be empty"),
        (FIRST, {"auction_id": ""}, "an id cannot be empty"),
        ("lottery", {}, "'lottery' is not a valid AuctionType"),
    ],
)
def test_rules_that_make_no_sense_are_refused_and_nothing_is_stored(
    auction_type: AuctionType, rules: dict[str, Any], text: str
) -> None:
    store = MemoryStore()
    with pytest.raises(ValueError, match=text):
        BiddingProtocol(auction_type, store, **rules)
    assert store.list() == []


def test_an_auction_that_is_not_there_is_unknown() -> None:
    store = MemoryStore()
    with pytest.raises(UnknownAuction, match="there is no auction 'x'; open it with its rules first"):
        BiddingProtocol.open(store, "x")
    auction = BiddingProtocol(FIRST, store, auction_id="x")
    store.delete("auction:x")
    for call in (auction.resolve, auction.result, auction.bids, lambda: auction.submit_bid("a", 1)):
        with pytest.raises(UnknownAuction):
            call()


def sold() -> dict[str, Any]:
    store = MemoryStore()
    auction = BiddingProtocol(FIRST, store, auction_id="x")
    auction.submit_bid("a", 10)
    auction.resolve()
    record = store.get("auction:x")
    assert isinstance(record, dict)
    return record


@pytest.mark.parametrize(
    "change",
    [
        {"id": "y"},
        {"state": "open"},
        {"state": "won"},
        {"state": ["open"]},
        {"winner": None},
        {"winner": "b"},
        {"price": "10"},
        {"price": math.nan},
        {"ended_at": None},
        {"ended_at": "now"},
        {"opened_at": None},
        {"rules": None},
        {"rules": {"type": "lottery"}},
        {"rules": {"type": ["english"]}},
        {"rules": {"type": "english", "colour": "red"}},
        {"rules": {"type": "english", "min_increment": "1"}},
        {"rules": {"type": "english", "bidders": ["b", "a"]}},
        {"bids": None},
        {"bids": [["a", 10, None]]},
        {"bids": [["a", -10, None, 1.0]]},
        {"bids": [["", 10, None, 1.0]]},
        {"bids": [["a", 10, None, "now"]]},
        {"bids": 5},
        {"more": 1},
    ],
    ids=repr,
)
def test_what_is_no_auction_of_this_version_is_left_alone(change: dict[str, Any]) -> None:
    store = MemoryStore()
    store.put("auction:x", sold() | change)
    with pytest.raises(ForeignRecord, match="auction:x"):
        BiddingProtocol.open(store, "x")
    with pytest.raises(ForeignRecord, match="auction:x"):
        BiddingProtocol(FIRST, store, auction_id="x")
    assert store.changes()[0] == 1


@pytest.mark.parametrize("value", [None, [], "x", 5])
def test_what_is_no_record_at_all_is_foreign(value: Any) -> None:
    store = MemoryStore()
    store.put("auction:x", value)
    with pytest.raises(ForeignRecord):
        BiddingProtocol.open(store, "x")


def test_a_stored_auction_comes_back_as_it_was() -> None:
    record = AuctionRecord.from_plain(sold())
    assert AuctionRecord.from_plain(record.to_plain()) == record
    assert record.bids == [Bid("a", 10, None, record.bids[0].at)]


def test_an_auction_in_memory_does_not_block() -> None:
    assert not BiddingProtocol(FIRST).blocking


def test_the_auctions_of_a_store_are_found_by_id_also_those_opened_later() -> None:
    store = MemoryStore()
    auctions = StoredAuctions(store)
    assert (len(auctions), auctions.get("a"), auctions.blocking) == (0, None, False)
    BiddingProtocol(AuctionType.ENGLISH, store, auction_id="a").submit_bid("x", 3)
    assert [*auctions] == ["a"]
    auctions["a"].submit_bid("y", 5)
    assert auctions["a"].resolve() == "y"
    with pytest.raises(KeyError):
        auctions["b"]
