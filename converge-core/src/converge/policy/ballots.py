"""Counting votes: the one place where votes are checked and tallied, for governance and consensus."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeAlias

from converge.policy.errors import PolicyContextError

__all__ = ["Option", "Tally", "Votes", "check_option", "leaders", "option_key", "strict_majority", "tally"]

Option: TypeAlias = Hashable | list[Any] | dict[str, Any]
"""What can be voted for: a hashable value but None and NaN, or a list or dict of such values, such as a ranking."""

Votes: TypeAlias = Sequence[Option] | Mapping[str, Option]
"""One option a vote; or a mapping from agent id to the option of that agent. A text is no list."""

_TEXTS = (str, bytes, bytearray, memoryview)
_MAX_DEPTH = 64  # as of plain data


class Tally:
    """How many votes each option has, options in the order of their first vote, each as it was voted for first."""

    def __init__(self) -> None:
        self._counts: dict[Hashable, int] = {}
        self._options: dict[Hashable, Option] = {}

    def add(self, option: Option, key: str, which: str = "") -> None:
        """Count a vote, or raise what `check_option` does."""
        same = option_key(option, key, which)
        self._options.setdefault(same, option)
        self._counts[same] = self._counts.get(same, 0) + 1

    @property
    def total(self) -> int:
        """How many votes there are."""
        return sum(self._counts.values())

    def items(self) -> list[tuple[Option, int]]:
        """Each option and its votes."""
        return [(self._options[same], count) for same, count in self._counts.items()]


def tally(votes: object, key: str = "votes") -> Tally:
    """The counted votes.

    Options that are equal are one option; a tuple is equal to the list of its items, which is what a store makes of
    it. `PolicyContextError` naming `key` when `votes` is neither a list nor a mapping, or for what is no option.
    """
    counted = Tally()
    if isinstance(votes, Mapping):
        for agent, option in votes.items():
            counted.add(option, key, f"of {agent!r}")
    elif isinstance(votes, Sequence) and not isinstance(votes, _TEXTS):
        for index, option in enumerate(votes):
            counted.add(option, key, f"number {index}")
    else:
        raise PolicyContextError(
            key, f"is {type(votes).__name__}; votes are a list of options, or a mapping agent id -> option"
        )
    return counted


def check_option(option: object, key: str, which: str = "") -> Option:
    """`option` itself when it can be counted, else `PolicyContextError` naming `key`."""
    option_key(option, key, which)
    return option


def option_key(option: object, key: str, which: str = "") -> Hashable:
    """What all options that are equal to `option` have in common, and no other; `PolicyContextError` for no option."""
    what = f"{which} is".strip()
    if option is None:
        raise PolicyContextError(key, f"{what} None, which means that nothing was decided; leave an abstention out")
    return _key(option, key, what, 0)


def _key(option: object, key: str, what: str, depth: int) -> Hashable:
    if depth > _MAX_DEPTH:
        raise PolicyContextError(key, f"{what} nested deeper than {_MAX_DEPTH}")
    if isinstance(option, list | tuple):
        return tuple(_key(item, key, what, depth + 1) for item in option)
    if isinstance(option, dict):
        return dict, frozenset((name, _key(item, key, what, depth + 1)) for name, item in option.items())
    try:
        hash(option)
    except TypeError:
        raise PolicyContextError(
            key, f"{what} an unhashable {type(option).__name__}; vote for a str or another value of plain data"
        ) from None
    if option != option:  # NaN is the value that is not itself, so it could never be counted
        raise PolicyContextError(key, f"{what} {option!r}, which equals nothing, itself included")
    return option


def strict_majority(counted: Tally) -> Option | None:
    """The option with more than half of all votes cast; None when there is none."""
    total = counted.total
    return next((option for option, count in counted.items() if 2 * count > total), None)


def leaders(counted: Tally) -> list[Option]:
    """The options that nobody has more votes than; more than one of them is a tie, none is an empty ballot."""
    items = counted.items()
    most = max((count for _, count in items), default=0)
    return [option for option, count in items if count == most]
