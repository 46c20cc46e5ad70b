"""Import of exactly one plugin, with everything that an import can do held in."""

from __future__ import annotations

import functools
import importlib
import re
from typing import TYPE_CHECKING

from converge.plugins.errors import PluginBroken, PluginError, PluginIncompatible
from converge.plugins.kinds import PLUGIN_API

if TYPE_CHECKING:
    from converge.plugins.installed import PluginInfo

__all__ = ["check_api", "load", "target_of"]

_TARGET = re.compile(r"([\w.]+)\s*:\s*([\w.]+)\s*(?:\[.*\])?")


def load(plugin: PluginInfo) -> object:
    """The driver that `plugin` points to.

    Raises `PluginBroken` for whatever its import raises, `SystemExit` included (a `KeyboardInterrupt` is the user's
    and passes), and `PluginIncompatible` when it was written for another plugin API.
    """
    target = target_of(plugin)
    if target is None:
        raise _broken(plugin, f"its target {plugin.target!r} is not of the form module:attribute")
    module_name, attributes = target
    try:
        module = importlib.import_module(module_name)
        driver: object = functools.reduce(getattr, attributes, module)
        check_api(driver, plugin.kind, plugin.name, plugin)
    except (KeyboardInterrupt, PluginIncompatible):
        raise
    except BaseException as error:  # whatever a foreign import raises is that plugin's failure
        raise _broken(plugin, _reason(error)) from error
    if driver is None:
        raise _broken(plugin, "its target is None")
    return driver


def target_of(plugin: PluginInfo) -> tuple[str, list[str]] | None:
    """The module and the chain of attributes of a target, or None when it is malformed."""
    match = _TARGET.fullmatch(plugin.target.strip())
    return (match[1], match[2].split(".")) if match else None


def check_api(driver: object, kind: str, name: str, plugin: PluginInfo | None = None) -> None:
    """Raise `PluginIncompatible` unless `driver` is for this plugin API, or does not say."""
    found = getattr(driver, "converge_api", PLUGIN_API)
    if type(found) is not int or found != PLUGIN_API:
        source = (
            {"distribution": plugin.distribution, "version": plugin.version, "target": plugin.target} if plugin else {}
        )
        raise PluginIncompatible(kind, name, found=repr(found), expected=PLUGIN_API, **source)


def _broken(plugin: PluginInfo, reason: str) -> PluginError:
    return PluginBroken(
        plugin.kind,
        plugin.name,
        reason=reason,
        distribution=plugin.distribution,
        version=plugin.version,
        target=plugin.target,
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"the module {error.name!r} is not installed"
    if isinstance(error, SystemExit):
        return f"its import asked the process to exit (SystemExit: {error.code!r})"
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
