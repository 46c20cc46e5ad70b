"""Real processes that bid, resolve, accept and reject at one instant in one SQLite file."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from converge.coordination.auction_record import AuctionRecord
from converge.coordination.bidding import AuctionType, BiddingProtocol
from converge.coordination.negotiation import NegotiationProtocol
from converge.extensions.storage.sqlite import SQLiteStore

WORKER = Path(__file__).with_name("bidding_worker.py")
PROCESSES, ROUNDS = 4, 40


def race(what: str, path: Path, kind: str) -> list[list[Any]]:
    """What each process found in each round: a list of rounds, each with one answer for each process."""
    with ExitStack() as running:
        processes = [running.enter_context(worker(what, path, f"w{n}", kind)) for n in range(PROCESSES)]
        for process in processes:
            running.callback(process.kill)
        ready = [pipe(process.stdout).readline() for process in processes]
        start = time.time() + 0.1
        for process, said in zip(processes, ready, strict=True):
            if said:
                pipe(process.stdin).write(f"{start}\n")
                pipe(process.stdin).flush()
        done = [process.communicate(timeout=60) for process in processes]
        assert [err for _, err in done] == [""] * PROCESSES
        return [list(answers) for answers in zip(*(json.loads(out) for out, _ in done), strict=True)]


def worker(what: str, path: Path, name: str, kind: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, str(WORKER), what, str(path), name, kind, str(ROUNDS)]
    piped = subprocess.PIPE
    return subprocess.Popen(arguments, stdin=piped, stdout=piped, stderr=piped, text=True)


def pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def auctions(path: Path, kind: str) -> list[list[Any]]:
    with SQLiteStore(path, durability="process") as store:
        for number in range(ROUNDS):
            BiddingProtocol(list(AuctionType)[number % 4], store, auction_id=f"x{number}")
        return race("bid", path, kind)


def answers(path: Path, kind: str) -> list[list[Any]]:
    with SQLiteStore(path, durability="process") as store:
        for number in range(ROUNDS):
            NegotiationProtocol(store).create_session("a", ["b"], 1, session_id=f"s{number}")
        return race("answer", path, kind)


def test_bids_and_ends_at_one_instant_have_one_winner_that_all_see(tmp_path: Path) -> None:
    rounds = auctions(tmp_path / "s.db", "store")
    with SQLiteStore(tmp_path / "s.db") as store:
        for number, found in enumerate(rounds):
            auction = BiddingProtocol.open(store, f"x{number}")
            told = {f"w{process}" for process, (answer, _) in enumerate(found) if answer == "accepted"}
            assert {winner for _, winner in found} == {auction.resolve()}
            assert told == {bid.agent_id for bid in auction.bids()}
            assert auction.bids()[0].agent_id == auction.resolve()  # all amounts are equal: the first one wins
            if auction.auction_type in (AuctionType.DUTCH, AuctionType.ENGLISH):
                assert len(told) == 1


def test_one_answer_of_many_at_one_instant_is_the_one_that_counts(tmp_path: Path) -> None:
    rounds = answers(tmp_path / "s.db", "store")
    with SQLiteStore(tmp_path / "s.db") as store:
        for number, found in enumerate(rounds):
            (told,) = [answer for answer in found if answer != "refused"]
            session = NegotiationProtocol(store).get_session(f"s{number}")
            assert session is not None
            assert session.state.value == told


def test_the_races_catch_a_store_that_reads_checks_and_puts(tmp_path: Path) -> None:
    lost = 0
    rounds = auctions(tmp_path / "s.db", "mutant")
    with SQLiteStore(tmp_path / "s.db") as store:
        for number, found in enumerate(rounds):
            record = AuctionRecord.from_plain(store.get(f"auction:x{number}"))
            told = {f"w{process}" for process, (answer, _) in enumerate(found) if answer == "accepted"}
            lost += told != {bid.agent_id for bid in record.bids} or len({winner for _, winner in found}) > 1
    assert lost > 0
    assert any(len([a for a in found if a != "refused"]) > 1 for found in answers(tmp_path / "t.db", "mutant"))
