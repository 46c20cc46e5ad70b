"""What the benchmarks share: a figure with its bar, two sides measured in turn, and the report."""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Figure", "compare", "compare_numbered", "each", "header", "micros", "report", "summary"]


class Figure(NamedTuple):
    """One line of a report: our figure, the other one, and the ratio that has a bar (None: it is for information).

    The ratio says how many times as fast as the other one ours is, and the bar is its floor. With `at_most` it says how
    many times as much ours costs, or is a plain number of its own, and the bar is its ceiling.
    """

    name: str
    ours: float
    theirs: float
    ratio: float
    bar: float | None
    at_most: bool = False

    @property
    def met(self) -> bool:
        """Whether the ratio is where it should be."""
        if self.bar is None:
            return True
        return self.ratio <= self.bar if self.at_most else self.ratio >= self.bar

    def line(self, width: int = 60) -> str:
        """As a line below `header`."""
        sides = f"{self.ours:11.2f}" if self.ours else " " * 11
        sides += f"{self.theirs:11.2f}" if self.theirs else " " * 11
        ratio = f"{self.ratio:8.2f}" if self.ratio else " " * 8
        bar = "" if self.bar is None else f"{'≤' if self.at_most else '≥'} {self.bar:.3g}"
        return f"{self.name:{width}}{sides}{ratio}{bar:>8}{'' if self.met else '  missed'}"


def micros(begin: float, operations: int) -> float:
    """Microseconds an operation, since `begin` by `time.perf_counter`."""
    return (time.perf_counter() - begin) / operations * 1e6


def compare(
    name: str,
    bar: float | None,
    rounds: int,
    ours: Callable[[], float],
    theirs: Callable[[], float],
    *,
    at_most: bool = False,
) -> Figure:
    """Both sides in turn, each giving what an operation costs; one round before is not counted. Medians of rounds."""
    taken = [(ours(), theirs()) for _ in range(rounds + 1)][1:]
    mine, other = (statistics.median(side) for side in zip(*taken, strict=True))
    ratios = [our / their if at_most else their / our for our, their in taken]
    return Figure(name, mine, other, statistics.median(ratios), bar, at_most)


def each(operations: int, act: Callable[[int], object], start: int) -> float:
    """Microseconds of one `act`, which is given numbers that go on from `start`."""
    begin = time.perf_counter()
    for number in range(start, start + operations):
        act(number)
    return micros(begin, operations)


def compare_numbered(
    name: str,
    bar: float | None,
    rounds: int,
    operations: int,
    ours: Callable[[int], object],
    theirs: Callable[[int], object],
    *,
    at_most: bool = False,
) -> Figure:
    """As `compare`, of so many calls with numbers that go on from round to round; the sides take turns at being first.

    In microseconds a call.
    """
    taken = []
    for number in range(rounds + 1):
        start = number * operations
        pair = [each(operations, act, start) for act in ((ours, theirs) if number % 2 else (theirs, ours))]
        taken.append(pair if number % 2 else pair[::-1])
    mine, other = (statistics.median(side) for side in zip(*taken[1:], strict=True))
    ratios = [here / there if at_most else there / here for here, there in taken[1:]]
    return Figure(name, mine, other, statistics.median(ratios), bar, at_most)


def header(unit: str, width: int = 60) -> str:
    """The line above the figures."""
    return f"{'case':{width}}{f'ours {unit}':>11}{f'theirs {unit}':>11}{'ratio':>8}{'bar':>8}"


def report(figures: Iterable[Figure], width: int = 60) -> list[Figure]:
    """Print each figure as soon as it is there; all of them."""
    shown = []
    for figure in figures:
        print(figure.line(width), flush=True)
        shown.append(figure)
    return shown


def summary(benchmark: str, figures: Iterable[Figure]) -> int:
    """Print the ratios as a line of JSON; the exit code, 1 when a bar is missed."""
    figures = list(figures)
    ratios = {figure.name: round(figure.ratio, 2) for figure in figures}
    print(json.dumps({"benchmark": benchmark, "python": sys.version.partition(" ")[0], "ratios": ratios}))
    return int(not all(figure.met for figure in figures))
