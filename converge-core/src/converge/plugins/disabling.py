"""Which plugins are blocked, and by what: decided from names, before anything is imported."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from attrs import frozen

from converge.plugins.errors import PluginOptionsError
from converge.plugins.installed import PluginInfo, normalize
from converge.plugins.kinds import as_kind

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ENVIRONMENT", "Blocklist"]

ENVIRONMENT = "CONVERGE_DISABLE_PLUGINS"
"""Comma-separated entries that block plugins in this process and its children."""


@frozen
class _Block:
    """One entry: a distribution, or `kind:name`, or `kind:name@distribution`."""

    kind: str
    name: str
    distribution: str
    reason: str

    def covers(self, plugin: PluginInfo) -> bool:
        return (
            self.kind in ("", plugin.kind)
            and self.name in ("", plugin.name)
            and self.distribution in ("", normalize(plugin.distribution))
        )


class Blocklist:
    """The entries given in code or config, and those that the environment holds at the moment."""

    def __init__(self) -> None:
        self._given: tuple[_Block, ...] = ()
        self._environment: tuple[str, tuple[_Block, ...]] = ("", ())

    def add(self, entries: Iterable[str], source: str) -> None:
        """Block `entries` from now on; `PluginOptionsError` for one that is malformed, and then none is taken."""
        if isinstance(entries, str):
            raise TypeError(f"disabled plugins are a list of str, not the str {entries!r}")
        self._given += tuple(_parse(entry, source) for entry in entries)

    def reason(self, plugin: PluginInfo) -> str | None:
        """What blocks `plugin`, or None."""
        return next((block.reason for block in (*self._given, *self._from_environment()) if block.covers(plugin)), None)

    def _from_environment(self) -> tuple[_Block, ...]:
        text = os.environ.get(ENVIRONMENT, "")
        if text != self._environment[0]:
            entries = filter(None, (entry.strip() for entry in text.split(",")))
            self._environment = text, tuple(_parse(entry, ENVIRONMENT) for entry in entries)
        return self._environment[1]


def _parse(entry: str, source: str) -> _Block:
    if not isinstance(entry, str):
        raise _refusal(source, f"{entry!r} is not a str")
    left, colon, right = entry.strip().partition(":")
    name, at, distribution = right.rpartition("@") if "@" in right else (right, "", "")
    if not colon:
        left, distribution = "", left
    try:
        kind = as_kind(left) if colon else ""
    except ValueError as error:
        raise _refusal(source, f"{entry!r}: {error}") from None
    if (colon and not name) or ((at or not colon) and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", distribution)):
        raise _refusal(source, f"{entry!r} is not DISTRIBUTION, KIND:NAME or KIND:NAME@DISTRIBUTION")
    return _Block(kind, name, normalize(distribution), f"{source} ({entry.strip()})")


def _refusal(source: str, text: str) -> PluginOptionsError:
    return PluginOptionsError("", "", problems=[("", text)], where=source)
