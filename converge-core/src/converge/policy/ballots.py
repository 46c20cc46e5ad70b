"""Counting votes: the one place where votes are checked and tallied, for governance and consensus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeAlias

from converge.policy.errors import PolicyContextError

__all__ = ["Votes", "check_option", "leaders", "strict_majority", "tally"]

Votes: TypeAlias = Sequence[Hashable] | Mapping[str, Hashable]
"""One option a vote; or a mapping from agent id to the option of that agent. A text is no list."""

_TEXTS = (str, bytes, bytearray, memoryview)


def tally(votes: object, key: str = "votes") -> Counter[Hashable]:
    """How many votes each option has, options in the order of their first vote.

    Options that are equal are one option. `PolicyContextError` naming `key` when `votes` is neither a list nor a
    mapping, or when an option is None, unhashable, or not equal to itself (NaN).
    """
    if isinstance(votes, Mapping):
        return Counter(check_option(option, key, f"of {agent!r}") for agent, option in votes.items())
    if isinstance(votes, Sequence) and not isinstance(votes, _TEXTS):
        return Counter(check_option(option, key, f"number {index}") for index, option in enumerate(votes))
    raise PolicyContextError(
        key, f"is {type(votes).__name__}; votes are a list of options, or a mapping agent id -> option"
    )


def check_option(option: object, key: str, which: str = "") -> Hashable:
    """`option` itself when it can be counted, else `PolicyContextError` naming `key`."""
    what = f"{which} is".strip()
    if option is None:
        raise PolicyContextError(key, f"{what} None, which means that nothing was decided; leave an abstention out")
    try:
        hash(option)
    except TypeError:
        raise PolicyContextError(
            key, f"{what} an unhashable {type(option).__name__}; vote for a str or another hashable value"
        ) from None
    if option != option:  # NaN is the value that is not itself, so it could never be counted
        raise PolicyContextError(key, f"{what} {option!r}, which equals nothing, itself included")
    return option


def strict_majority(counts: Mapping[Hashable, int]) -> Hashable | None:
    """The option with more than half of all votes cast; None when there is none."""
    total = sum(counts.values())
    return next((option for option, count in counts.items() if 2 * count > total), None)


def leaders(counts: Mapping[Hashable, int]) -> list[Hashable]:
    """The options that nobody has more votes than; more than one of them is a tie, none is an empty ballot."""
    most = max(counts.values(), default=0)
    return [option for option, count in counts.items() if count == most]
