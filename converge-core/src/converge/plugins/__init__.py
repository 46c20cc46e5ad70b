"""The plugin platform: drivers chosen by name, found through entry points and built from options.

Nothing is imported but the one driver that is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from converge.plugins.errors import (
    PluginAmbiguous,
    PluginBroken,
    PluginError,
    PluginIncompatible,
    PluginOptionsError,
    PluginUnknown,
)
from converge.plugins.fields import plugin_field
from converge.plugins.installed import PluginInfo
from converge.plugins.kinds import KINDS, PLUGIN_API, Kind
from converge.plugins.manager import PluginManager, default_manager
from converge.plugins.secret import Secret

if TYPE_CHECKING:
    from converge.plugins.checking import CheckResult
    from converge.plugins.specs import hookimpl, hookspec

__all__ = [
    "KINDS",
    "PLUGIN_API",
    "CheckResult",
    "Kind",
    "PluginAmbiguous",
    "PluginBroken",
    "PluginError",
    "PluginIncompatible",
    "PluginInfo",
    "PluginManager",
    "PluginOptionsError",
    "PluginUnknown",
    "Secret",
    "default_manager",
    "hookimpl",
    "hookspec",
    "plugin_field",
]


def __getattr__(name: str) -> object:
    """What needs pluggy or subprocesses, which most users of this package do not."""
    if name in ("hookimpl", "hookspec"):
        from converge.plugins import specs

        return getattr(specs, name)
    if name == "CheckResult":
        from converge.plugins.checking import CheckResult

        return CheckResult
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
