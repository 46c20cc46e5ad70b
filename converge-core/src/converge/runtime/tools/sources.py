"""The tool sources of one process: opened before its agents start, shared between them, closed after them."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, cast

from attrs import Factory, define

from converge.core.tool_source import ToolSource
from converge.core.tools import ToolRegistry
from converge.runtime.calls import within
from converge.runtime.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from converge.core.tools import Tool

__all__ = ["CLOSE_TIMEOUT_SEC", "OPEN_TIMEOUT_SEC", "ToolSources"]

OPEN_TIMEOUT_SEC = 120.0
"""How long a source may take to open, whatever it allows itself: one that starts a program may have to install it."""

CLOSE_TIMEOUT_SEC = 15.0
_log = logging.getLogger(__name__)


@define
class _Entry:
    source: ToolSource
    where: str
    registries: list[tuple[ToolRegistry, str]] = Factory(list)


class ToolSources:
    """Sources by the options that they were made with, and the registries that get the tools of each."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def add(
        self,
        source: ToolSource,
        table: str | Mapping[str, object],
        registry: ToolRegistry,
        where: str,
        owner: str | None = None,
    ) -> None:
        """Let `registry` have the tools of `source`, or of the one there is with equal options and `owner`."""
        options = {"use": table} if isinstance(table, str) else dict(table)
        key = json.dumps([options, owner], sort_keys=True, default=repr)
        entry = self._entries.setdefault(key, _Entry(source, where))
        entry.registries.append((registry, where))

    async def open(self) -> None:
        """Open all at once, and register their tools in the order of the config; `ConfigError` with the place for the
        first that fails.
        """
        jobs = [asyncio.create_task(_open(entry)) for entry in self._entries.values()]
        if not jobs:
            return
        try:
            opened = await asyncio.gather(*jobs)
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.wait(jobs)
        for entry, tools in zip(self._entries.values(), opened, strict=True):
            _register(entry, tools)

    async def close(self) -> None:
        """Close all at once; what one raises, and one that is not done in time, is logged."""
        await asyncio.gather(*(_close(entry) for entry in self._entries.values()))


async def _open(entry: _Entry) -> Sequence[Tool]:
    try:
        return list(cast("Iterable[Tool]", await within(OPEN_TIMEOUT_SEC, "opening the tools", entry.source.open)))
    except Exception as error:
        raise ConfigError(entry.where, f"its tools cannot be had: {str(error) or type(error).__name__}") from error


def _register(entry: _Entry, tools: Sequence[Tool]) -> None:
    for registry, where in entry.registries:
        for tool in tools:
            try:
                registry.register(tool)
            except (TypeError, ValueError) as error:
                raise ConfigError(where, str(error)) from None


async def _close(entry: _Entry) -> None:
    try:
        await within(CLOSE_TIMEOUT_SEC, "closing the tools", entry.source.close)
    except Exception:  # noqa: BLE001  # the others are to be closed, too
        _log.exception("%s: the source of these tools did not close", entry.where)
