from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

import pytest

from converge.coordination.ballot import BallotBox
from converge.coordination.consensus import Consensus
from converge.coordination.errors import ForeignRecord, VoteRefused

if TYPE_CHECKING:
    from collections.abc import Callable

    from converge.core.plain import Plain
    from converge.core.store import VersionedStore


@pytest.fixture(params=["mapping", "store"])
def open_box(request: pytest.FixtureRequest, open_store: Callable[[], VersionedStore]) -> Callable[[], BallotBox]:
    """Gives another box on the same votes at each call."""
    if request.param == "store":
        return lambda: BallotBox(open_store())
    votes: dict[str, dict[str, Plain]] = {}
    return lambda: BallotBox(votes)


def test_one_vote_an_agent_counts_in_every_box(open_box: Callable[[], BallotBox]) -> None:
    one, two = open_box(), open_box()
    assert one.votes("v") == {}
    one.cast("v", "a", "yes")
    two.cast("v", "b", "no")
    two.cast("v", "a", "yes")
    one.cast("other", "a", "no")
    with pytest.raises(VoteRefused, match="the vote of 'a' in 'v' does not count: it has voted already") as caught:
        two.cast("v", "a", "no")
    assert (caught.value.vote_id, caught.value.agent_id) == ("v", "a")
    assert one.votes("v") == two.votes("v") == {"a": "yes", "b": "no"}
    assert one.votes("other") == {"a": "no"}


def test_a_ranking_is_a_vote_and_belongs_to_the_box(open_box: Callable[[], BallotBox]) -> None:
    box = open_box()
    ranking: list[Plain] = ["x", {"y": 1}]
    box.cast("v", "a", ranking)
    box.cast("v", "a", ["x", {"y": 1}])
    ranking.append("z")
    seen = box.votes("v")["a"]
    assert seen == ["x", {"y": 1}]
    assert isinstance(seen, list)
    seen.append("z")
    assert box.votes("v") == {"a": ["x", {"y": 1}]}
    with pytest.raises(VoteRefused):
        box.cast("v", "a", ranking)


@pytest.mark.parametrize(
    ("vote_id", "agent_id", "option"), [("", "a", "x"), ("v", "", "x"), ("v", "a", None), ("v", "a", float("nan"))]
)
def test_a_vote_that_could_not_be_counted_is_refused(
    open_box: Callable[[], BallotBox], vote_id: str, agent_id: str, option: Plain
) -> None:
    box = open_box()
    box.cast("v", "b", "yes")
    with pytest.raises(VoteRefused):
        box.cast(vote_id, agent_id, option)
    assert Consensus.majority_vote(box.votes("v")) == "yes"


def test_votes_cast_at_one_instant_are_all_kept(open_box: Callable[[], BallotBox]) -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    barrier = threading.Barrier(4)

    def vote(number: int) -> None:
        box = open_box()
        barrier.wait()
        for n in range(25):
            box.cast("v", f"{number}-{n}", "yes")

    threads = [threading.Thread(target=vote, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(before)
    assert open_box().votes("v") == {f"{number}-{n}": "yes" for number in range(4) for n in range(25)}


def test_an_agent_that_votes_twice_at_one_instant_has_one_vote(open_box: Callable[[], BallotBox]) -> None:
    boxes = [open_box() for _ in range(4)]
    for round_number in range(25):
        refused: list[int] = []
        barrier = threading.Barrier(4)

        def vote(number: int, name: str, barrier: threading.Barrier, refused: list[int]) -> None:
            barrier.wait()
            try:
                boxes[number].cast(name, "a", number)
            except VoteRefused:
                refused.append(number)

        arguments = (f"v{round_number}", barrier, refused)
        threads = [threading.Thread(target=vote, args=(number, *arguments)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = boxes[0].votes(f"v{round_number}").values()
        assert sorted([*refused, winner]) == [0, 1, 2, 3]  # type: ignore[type-var]  # the votes are numbers


def test_what_lies_under_the_key_of_a_ballot_and_is_none_is_said(open_store: Callable[[], VersionedStore]) -> None:
    store = open_store()
    store.put("vote:v", ["a"])
    box = BallotBox(store)
    for move in (lambda: box.cast("v", "a", "x"), lambda: box.votes("v")):
        with pytest.raises(ForeignRecord, match="not a dict of votes"):
            move()
    assert store.get("vote:v") == ["a"]


def test_a_box_on_a_mapping_writes_into_that_mapping() -> None:
    votes: dict[str, dict[str, Plain]] = {}
    box = BallotBox(votes)
    box.cast("v", "a", ("x", 1))  # type: ignore[arg-type]  # a mapping keeps what it is given
    kept: object = votes["v"]["a"]
    assert kept == ("x", 1)
    assert not box.blocking
