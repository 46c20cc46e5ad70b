"""What is installed, read from metadata alone: no plugin is imported here."""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
import threading
from typing import TYPE_CHECKING

from attrs import frozen

from converge.plugins.kinds import GROUPS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Installed", "PluginInfo", "normalize"]

_logger = logging.getLogger(__name__)
_METADATA = (".dist-info", ".egg-info", ".egg")
_Folder = tuple[int, frozenset[tuple[str, int]]]


@frozen
class PluginInfo:
    """One plugin as its distribution announces it.

    `target` is `module:attribute`. `disabled` says what blocks it, or is None. `clash` names the other enabled
    distributions that offer the same kind and name.
    """

    kind: Kind
    name: str
    distribution: str
    version: str
    target: str
    disabled: str | None = None
    clash: tuple[str, ...] = ()


class Installed:
    """The plugins of all distributions on `sys.path`, scanned once and again when a distribution comes or goes.

    A distribution found twice (an editable install beside stale metadata) counts once, as the first on the path.
    Metadata that cannot be read cost their own distribution and nobody else.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folders: dict[str, _Folder] | None = None
        self._plugins: dict[tuple[Kind, str], tuple[PluginInfo, ...]] = {}

    def all(self) -> list[PluginInfo]:
        """Every plugin, sorted by kind, name and distribution."""
        kinds = list(GROUPS)
        found = [plugin for plugins in self._current().values() for plugin in plugins]
        return sorted(found, key=lambda plugin: (kinds.index(plugin.kind), plugin.name, plugin.distribution))

    def named(self, kind: Kind, name: str) -> tuple[PluginInfo, ...]:
        """The plugins that have this kind and name: usually one or none."""
        return self._current().get((kind, name), ())

    def _current(self) -> dict[tuple[Kind, str], tuple[PluginInfo, ...]]:
        with self._lock:
            folders = _look(self._folders or {})
            if self._folders is None or _metadata_of(folders) != _metadata_of(self._folders):
                if self._folders is not None:
                    importlib.invalidate_caches()  # a module installed since must be found by import, too
                plugins: dict[tuple[Kind, str], tuple[PluginInfo, ...]] = {}
                for plugin in _scan():
                    key = plugin.kind, plugin.name
                    plugins[key] = (*plugins.get(key, ()), plugin)
                self._plugins = plugins
            self._folders = folders
            return self._plugins


def normalize(distribution: str) -> str:
    """The name of a distribution in the normal form of PEP 503."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _look(before: dict[str, _Folder]) -> dict[str, _Folder]:
    """The folders of `sys.path` in order; only those whose modification time moved are listed anew."""
    now: dict[str, _Folder] = {}
    for entry in sys.path:
        folder = entry or "."
        try:
            changed = os.stat(folder).st_mtime_ns  # noqa: PTH116  # on the path of every lookup; Path costs ten times this
        except OSError:
            continue
        known = before.get(folder)
        now[folder] = known if known and known[0] == changed else (changed, _metadata_in(folder))
    return now


def _metadata_in(folder: str) -> frozenset[tuple[str, int]]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(
                (entry.name, entry.stat().st_mtime_ns) for entry in entries if entry.name.endswith(_METADATA)
            )
    except OSError:  # a zip file, or gone since
        return frozenset()


def _metadata_of(folders: dict[str, _Folder]) -> list[tuple[str, frozenset[tuple[str, int]]]]:
    return [(folder, metadata) for folder, (_, metadata) in folders.items()]


def _scan() -> Iterator[PluginInfo]:
    from importlib_metadata import distribution

    kinds = {group: kind for kind, group in GROUPS.items()}
    for name in sorted(_offering()):
        try:
            found = distribution(name)
            version = found.version or "unknown"
            plugins = [
                PluginInfo(kinds[entry.group], entry.name, found.name, version, entry.value)
                for entry in found.entry_points
                if entry.group in kinds
            ]
        except Exception:  # foreign metadata may be damaged in any way; it hurts only its owner
            _logger.warning("the metadata of %r cannot be read; its plugins are left out", name, exc_info=True)
        else:
            yield from dict.fromkeys(plugins)


def _offering() -> set[str]:
    """The normalized names of the distributions that mention an entry-point group of ours.

    The cheap look at the text spares parsing the metadata of everybody else.
    """
    from importlib_metadata import distributions

    names = set()
    for found in distributions():
        try:
            if "converge." in (found.read_text("entry_points.txt") or ""):
                names.add(normalize(found.name))
        except Exception:  # foreign metadata may be damaged in any way; it hurts only its owner
            _logger.warning("the metadata in %s cannot be read; its plugins are left out", found, exc_info=True)
    return names
