"""What the races of auctions and negotiations run in processes: `bidding_worker.py WHAT PATH NAME KIND COUNT`.

Each says when it is ready, and gets the instant of the first round as a line.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

from converge.coordination.bidding import AuctionType, BiddingProtocol
from converge.coordination.errors import MoveRefused
from converge.coordination.negotiation import NegotiationProtocol
from converge.core.errors import VersionConflict
from converge.extensions.storage.sqlite import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.core.plain import Plain
    from converge.core.store import Store

TYPES = list(AuctionType)


def wait_until(instant: float) -> None:
    """Sleep, then spin for the last millisecond, so that several processes act at one instant on few cores."""
    while (left := instant - time.time()) > 0:
        if left > 0.0015:
            time.sleep(left - 0.001)


class ReadCheckPut(SQLiteStore):
    """The mistake that the races have to catch."""

    def compare_and_set(self, key: str, value: Plain, expected: int) -> int:
        found = self.get_versioned(key)
        if (found[1] if found else 0) != expected:
            raise VersionConflict(key, expected, None)
        time.sleep(0.001)
        self.put(key, value)
        found = self.get_versioned(key)
        assert found is not None
        return found[1]


def bid(store: Store, name: str, round_number: int) -> object:
    """Bid the same amount as everybody; what this process was told, and what it sees of the end."""
    auction = BiddingProtocol(TYPES[round_number % 4], store, auction_id=f"x{round_number}")
    told: object = "refused"
    try:
        auction.submit_bid(name, 10)
        told = "accepted"
    except MoveRefused:
        pass
    return [told, auction.resolve()]


def answer(store: Store, name: str, round_number: int) -> object:
    """Accept or reject as one and the same participant; what this process was told."""
    talks = NegotiationProtocol(store)
    answer = talks.accept if name in ("w0", "w1") else talks.reject
    try:
        return answer(f"s{round_number}", "b").state.value
    except MoveRefused:
        return "refused"


def run(what: Callable[[Store, str, int], object], path: str, name: str, kind: str, count: str) -> None:
    """Print what each round gave."""
    with (ReadCheckPut if kind == "mutant" else SQLiteStore)(path, durability="process") as store:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        start, found = float(sys.stdin.readline()), []
        for number in range(int(count)):
            wait_until(start + number * 0.01)
            found.append(what(store, name, number))
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    run({"bid": bid, "answer": answer}[sys.argv[1]], *sys.argv[2:])
