from __future__ import annotations

import importlib
import string
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

election = importlib.import_module("election")

Resolve = Callable[[Mapping[str, str]], str | None]


def majority(votes: Mapping[str, str]) -> str | None:
    path, count = Counter(votes.values()).most_common(1)[0]
    return path if count * 2 > len(votes) else None


def undecided(votes: Mapping[str, str]) -> str | None:
    return None


def dictator(votes: Mapping[str, str]) -> str | None:
    return votes.get("a")


def result(path: str, lines: int = 1, total: int = 1, worst: int = 0, longest: int = 0, error: str = "") -> Any:
    return {
        "path": path,
        "size": lines * 10,
        "lines": lines,
        "functions": 1,
        "longest": {"name": "f", "line": 1, "length": longest} if longest else None,
        "complexity": total,
        "worst": {"name": "f", "line": 1, "complexity": worst} if worst else None,
        "error": error or None,
    }


def modules(ballots: Mapping[str, str], seats: int, resolve: Resolve = majority) -> str:
    return "".join(seat.module for seat in election.elect(ballots, seats, resolve))


def test_each_lens_puts_its_own_module_first() -> None:
    results = [
        result("big.py", lines=900, total=5, worst=2, longest=5),
        result("branchy.py", lines=50, total=90, worst=3, longest=6),
        result("knot.py", lines=50, total=40, worst=30, longest=7),
        result("long.py", lines=60, total=6, worst=1, longest=55),
        result("empty.py", lines=0),
    ]
    firsts = {lens: election.rank(results, lens, 1) for lens in election.LENSES}
    assert firsts == {
        "complexity": ["branchy.py"],
        "hotspot": ["knot.py"],
        "length": ["long.py"],
        "size": ["big.py"],
    }


def test_equal_figures_rank_by_path_whatever_the_order_of_the_results() -> None:
    results = [result("b"), result("c"), result("a"), result("d", total=2)]
    assert election.rank(results, "complexity", 9) == election.rank(results[::-1], "complexity", 9) == [*"dabc"]


def test_a_file_that_does_not_parse_ranks_after_all_that_do() -> None:
    results = [result("broken", lines=999, error="line 1: invalid syntax"), result("empty", lines=0), result("x")]
    assert election.rank(results, "size", 9) == ["x", "empty", "broken"]


def test_the_limit_cuts_the_ranking_and_zero_leaves_nothing() -> None:
    results = [result("a", 3), result("b", 2), result("c", 1)]
    assert election.rank(results, "size", 2) == ["a", "b"]
    assert election.rank(results, "size", 0) == []


def test_an_unknown_lens_and_a_negative_limit_are_clear_errors() -> None:
    with pytest.raises(ValueError, match="no lens 'colour'; choose one of complexity, hotspot, length, size"):
        election.rank([], "colour", 1)
    with pytest.raises(ValueError, match="the limit is -1; give 0 or more"):
        election.rank([], "size", -1)


def test_a_majority_takes_the_seat_in_the_first_round() -> None:
    (seat,) = election.elect({"m1": ["x", "y"], "m2": ["x"], "m3": ["y"]}, 1, majority)
    assert seat == election.Seat("x", 1, {"m1": "x", "m2": "x", "m3": "y"})


def test_the_last_module_is_eliminated_and_its_votes_move_on() -> None:
    ballots = {"m1": "xz", "m2": "xz", "m3": "yz", "m4": "yx", "m5": "zy"}
    (seat,) = election.elect(ballots, 1, majority)
    assert (seat.module, seat.rounds) == ("y", 2)
    assert seat.votes == {"m1": "x", "m2": "x", "m3": "y", "m4": "y", "m5": "y"}


def test_an_elected_module_leaves_the_running_and_an_eliminated_one_comes_back() -> None:
    ballots = {"m1": "xyz", "m2": "xyz", "m3": "yxz", "m4": "zyx", "m5": "zyx"}
    seats = election.elect(ballots, 3, majority)
    # y, which has one vote, is out in the first round for the first seat, and takes the second at once
    assert [(seat.module, seat.rounds) for seat in seats] == [("x", 2), ("y", 1), ("z", 1)]


def test_a_tie_goes_to_the_module_that_the_ballots_place_higher_on_the_whole() -> None:
    assert modules({"m1": "xz", "m2": "yz", "m3": "zy"}, 1) == "z"  # a vote each; points x 3, y 5, z 7: x is out


def test_a_full_tie_goes_to_the_path_that_sorts_first() -> None:
    assert modules({"m1": "b", "m2": "a"}, 2) == "ab"
    assert modules({"m2": "b", "m1": "a"}, 2) == "ab"


def test_a_governance_that_never_decides_leaves_the_last_one_standing() -> None:
    (seat,) = election.elect({"m1": "xy", "m2": "xz", "m3": "yz"}, 1, undecided)
    assert seat == election.Seat("x", 2, {"m1": "x", "m2": "x"})
    assert modules({"m1": "x"}, 1, undecided) == "x"


def test_the_governance_may_decide_against_the_most_votes() -> None:
    ballots = {"a": "zx", "m1": "xy", "m2": "xy"}
    assert modules(ballots, 2, dictator) == "zx"


def test_a_choice_that_nobody_votes_for_is_refused() -> None:
    with pytest.raises(ValueError, match="the governance chose 'w', which nobody votes for"):
        election.elect({"m1": "xy"}, 1, lambda votes: "w")


def test_members_with_exhausted_or_empty_ballots_have_no_vote() -> None:
    first, second = election.elect({"m1": ["x"], "m2": ["x", "y"], "m3": []}, 2, majority)
    assert first.votes == {"m1": "x", "m2": "x"}
    assert second.votes == {"m2": "y"}


def test_fewer_candidates_than_seats_are_all_elected_and_none_is_no_error() -> None:
    assert sorted(modules({"m1": "xy", "m2": "y"}, 10)) == ["x", "y"]
    assert modules({"m1": "", "m2": ""}, 3) == modules({}, 3) == modules({"m1": "x"}, 0) == ""


def test_a_module_named_twice_on_a_ballot_counts_where_it_stands_first() -> None:
    assert election.elect({"m1": "xxyx", "m2": "y"}, 2, majority) == election.elect(
        {"m1": "xy", "m2": "y"}, 2, majority
    )


def test_a_negative_number_of_seats_is_refused() -> None:
    with pytest.raises(ValueError, match="the number of seats is -1; give 0 or more"):
        election.elect({}, -1, majority)


ballot_boxes = st.dictionaries(
    st.sampled_from("abcdefg"), st.lists(st.sampled_from(string.ascii_uppercase[:9]), max_size=9), max_size=7
)
governances = st.sampled_from([majority, undecided, dictator])


@given(ballot_boxes, st.integers(0, 12), governances)
def test_every_election_fills_the_seats_with_different_candidates(
    ballots: dict[str, list[str]], seats: int, resolve: Resolve
) -> None:
    candidates = {path for ballot in ballots.values() for path in ballot}
    found = election.elect(ballots, seats, resolve)
    elected = [seat.module for seat in found]
    assert len(elected) == len(set(elected)) == min(seats, len(candidates))
    assert set(elected) <= candidates
    for place, seat in enumerate(found):
        assert seat.module in seat.votes.values()
        assert 1 <= seat.rounds <= len(candidates)
        assert not set(elected[:place]) & set(seat.votes.values())
        assert all(path in ballots[member] for member, path in seat.votes.items())


@given(ballot_boxes, st.integers(0, 12), governances, st.randoms(use_true_random=False))
def test_an_election_does_not_depend_on_the_order_of_its_members(
    ballots: dict[str, list[str]], seats: int, resolve: Resolve, random: Any
) -> None:
    members = list(ballots)
    random.shuffle(members)
    shuffled = {member: ballots[member] for member in members}
    assert election.elect(shuffled, seats, resolve) == election.elect(ballots, seats, resolve)


@given(ballot_boxes, st.integers(0, 8), governances)
def test_fewer_seats_are_the_first_of_more_seats(ballots: dict[str, list[str]], seats: int, resolve: Resolve) -> None:
    assert election.elect(ballots, seats, resolve) == election.elect(ballots, seats + 3, resolve)[:seats]


@given(ballot_boxes, st.sampled_from(string.ascii_uppercase[:9]))
def test_a_module_that_most_members_put_first_has_the_first_seat(ballots: dict[str, list[str]], path: str) -> None:
    voting = [ballot for ballot in ballots.values() if ballot]
    if sum(ballot[0] == path for ballot in voting) * 2 > len(voting):
        assert election.elect(ballots, 1, majority)[0].module == path


def one_by_one(ballots: Mapping[str, list[str]], seats: int, resolve: Resolve) -> list[str]:
    """The rule word by word, without the shortcut: exactly one module is eliminated in each round."""
    candidates = {path for ballot in ballots.values() for path in ballot}
    unique = {member: list(dict.fromkeys(ballot)) for member, ballot in ballots.items()}
    points = {
        path: sum(len(candidates) - ballot.index(path) for ballot in unique.values() if path in ballot)
        for path in candidates
    }
    elected: list[str] = []
    while len(elected) < min(seats, len(candidates)):
        running = candidates - set(elected)
        choice: str | None = None
        while choice is None:
            firsts = {m: [path for path in ballot if path in running] for m, ballot in unique.items()}
            votes = {member: left[0] for member, left in firsts.items() if left}
            choice = resolve(votes) if len(running) > 1 else next(iter(running))
            counts = Counter(votes.values())
            order = sorted(sorted(running, reverse=True), key=lambda path: (counts[path], points[path]))
            running = running - {order[0]}
        elected.append(choice)
    return elected


@given(ballot_boxes, st.integers(0, 9), governances)
def test_the_election_agrees_with_the_rule_applied_one_elimination_at_a_time(
    ballots: dict[str, list[str]], seats: int, resolve: Resolve
) -> None:
    assert [seat.module for seat in election.elect(ballots, seats, resolve)] == one_by_one(ballots, seats, resolve)
