"""The kinds of drivers, and the entry-point group in which each is announced."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["GROUPS", "KINDS", "PLUGIN_API", "Kind", "as_kind", "did_you_mean"]

PLUGIN_API: Final = 1
"""The version of the contract between core and a driver; a driver class may state its own as `converge_api`."""

Kind: TypeAlias = Literal[
    "transport",
    "store",
    "executor",
    "governance",
    "tool",
    "llm_provider",
    "admission",
    "trust",
    "agent",
    "command",
    "hooks",
    "handlers",
]
"""What a driver is for."""

GROUPS: Final[Mapping[Kind, str]] = MappingProxyType(
    {
        "transport": "converge.transports",
        "store": "converge.stores",
        "executor": "converge.executors",
        "governance": "converge.governance",
        "tool": "converge.tools",
        "llm_provider": "converge.llm_providers",
        "admission": "converge.admission",
        "trust": "converge.trust",
        "agent": "converge.agents",
        "command": "converge.commands",
        "hooks": "converge.hooks",
        "handlers": "converge.handlers",
    }
)
"""The entry-point group of each kind."""

KINDS: Final[tuple[Kind, ...]] = tuple(GROUPS)
"""All kinds, in the order in which lists show them."""


def as_kind(kind: str) -> Kind:
    """`kind` itself; `ValueError` naming the kinds there are when it is none of them."""
    if kind not in GROUPS:
        hint = did_you_mean(str(kind), KINDS)
        raise ValueError(f"{kind!r} is no plugin kind; the kinds are {', '.join(KINDS)}.{hint}")
    return cast("Kind", kind)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` with the known word closest to `word`, or an empty str when none is close."""
    import difflib

    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f" Did you mean {by_lower[close[0]]!r}?" if close else ""
