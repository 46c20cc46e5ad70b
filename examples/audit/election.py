"""How the members of a pool agree on the modules that need attention first: rankings, and a seat by seat vote."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["LENSES", "Resolve", "Result", "Seat", "elect", "rank"]

Result: TypeAlias = "Mapping[str, Any]"
"""The figures of one module, as `analysis.analyse` returns them."""

Resolve: TypeAlias = "Callable[[Mapping[str, str]], str | None]"
"""Votes (member → path) to the path that they decide for, or None when they decide nothing."""

LENSES: dict[str, Callable[[Result], tuple[int, ...]]] = {
    "complexity": lambda result: (result["complexity"], _worst(result)),
    "hotspot": lambda result: (_worst(result), result["complexity"]),
    "length": lambda result: (_longest(result), result["lines"]),
    "size": lambda result: (result["lines"], result["size"]),
}
"""What a member may look at, by name: the greater the figure, the more attention the module needs.

`complexity` is the whole module's, `hotspot` that of its most complex function, `length` that of its longest function,
and `size` the lines of the file.
"""


@frozen
class Seat:
    """One elected module: in how many rounds it was found, and each member's vote (member → path) in the last one."""

    module: str
    rounds: int
    votes: dict[str, str]


def rank(results: Iterable[Result], lens: str, limit: int) -> list[str]:
    """The paths of the first `limit` modules as seen through `lens`; equal figures go by path.

    A file that does not parse has no figures to compare, so it comes after all that do, whatever the lens. An unknown
    lens or a negative limit is a `ValueError`.
    """
    if lens not in LENSES:
        raise ValueError(f"there is no lens {lens!r}; choose one of {', '.join(sorted(LENSES))}")
    if limit < 0:
        raise ValueError(f"the limit is {limit}; give 0 or more")
    figures = LENSES[lens]
    by_path = sorted(results, key=lambda result: str(result["path"]))
    ranked = sorted(by_path, key=lambda result: (result["error"] is None, *figures(result)), reverse=True)
    return [result["path"] for result in ranked[:limit]]


def elect(ballots: Mapping[str, Sequence[str]], seats: int, resolve: Resolve) -> list[Seat]:
    """The modules elected from `ballots` (member → paths, the most wanted first), one seat after the other.

    For each seat a member votes for the first module on its ballot that is still in the running, and `resolve`, the
    governance of the pool, is shown the votes. If it decides, the seat is taken. If it returns None, the module with
    the fewest votes is eliminated for this seat and the votes are counted anew (instant-runoff voting), until it
    decides or a single module is left. Equal votes are decided by the Borda count over the whole ballots (of m
    candidates the first on a ballot gets m points, the next m - 1, one that is not on it none); the lower is
    eliminated, and of equals the one whose path sorts last.

    A member whose ballot is exhausted has no vote. With fewer candidates than seats every candidate is elected. A
    negative `seats`, or a resolution for a module that nobody votes for, is a `ValueError`.
    """
    if seats < 0:
        raise ValueError(f"the number of seats is {seats}; give 0 or more")
    ballots = {member: list(dict.fromkeys(ballots[member])) for member in sorted(ballots)}
    points = _borda(ballots)
    elected: list[Seat] = []
    for _ in range(min(seats, len(points))):
        taken = {seat.module for seat in elected}
        elected.append(_fill_seat(ballots, points.keys() - taken, points, resolve))
    return elected


def _fill_seat(
    ballots: Mapping[str, Sequence[str]], running: set[str], points: Mapping[str, int], resolve: Resolve
) -> Seat:
    rounds = 0
    while True:
        rounds += 1
        votes = _votes(ballots, running)
        module = _decide(votes, resolve)
        if module is not None:
            return Seat(module, rounds, votes)
        # those without a vote would go first, one by one, and no vote would move: they go together with the next
        counts = Counter(votes.values())
        running = set(counts) - {_last(counts, points)}


def _votes(ballots: Mapping[str, Sequence[str]], running: set[str]) -> dict[str, str]:
    """Each member's vote; a member whose ballot has no module in the running is left out."""
    firsts = {member: next((path for path in ballot if path in running), None) for member, ballot in ballots.items()}
    return {member: path for member, path in firsts.items() if path is not None}


def _decide(votes: Mapping[str, str], resolve: Resolve) -> str | None:
    """What `resolve` decides, or the only module that is voted for."""
    options = set(votes.values())
    module = resolve(votes)
    if module is None and len(options) == 1:
        return options.pop()
    if module is not None and module not in options:
        raise ValueError(f"the governance chose {module!r}, which nobody votes for; it may choose a vote or None")
    return module


def _last(counts: Mapping[str, int], points: Mapping[str, int]) -> str:
    """The module to eliminate: the fewest votes, then the fewest points, then the path that sorts last."""
    fewest = min((count, points[path]) for path, count in counts.items())
    return max(path for path, count in counts.items() if (count, points[path]) == fewest)


def _borda(ballots: Mapping[str, Sequence[str]]) -> dict[str, int]:
    points: Counter[str] = Counter()
    candidates = {path for ballot in ballots.values() for path in ballot}
    for ballot in ballots.values():
        for place, path in enumerate(ballot):
            points[path] += len(candidates) - place
    return dict(points)


def _worst(result: Result) -> int:
    return result["worst"]["complexity"] if result["worst"] else 0


def _longest(result: Result) -> int:
    return result["longest"]["length"] if result["longest"] else 0
