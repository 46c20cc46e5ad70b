"""What runs in the process that `PluginManager.check` starts for one plugin."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from converge.plugins.errors import PluginIncompatible
from converge.plugins.installed import PluginInfo
from converge.plugins.kinds import as_kind
from converge.plugins.loading import load

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["report"]


def report(plugin: Mapping[str, str], answer: str) -> None:
    """Import `plugin`, write how it went to the file `answer` and end the process, whatever the plugin left running."""
    asked = PluginInfo(
        as_kind(plugin["kind"]), plugin["name"], plugin["distribution"], plugin["version"], plugin["target"]
    )
    status, detail = "ok", ""
    try:
        load(asked)
    except PluginIncompatible as error:
        status, detail = "incompatible", str(error)
    except BaseException as error:  # noqa: BLE001  # a KeyboardInterrupt here can only be the plugin's own
        status, detail = "broken", str(error) or type(error).__name__
    unfinished = Path(f"{answer}.part")
    unfinished.write_text(json.dumps([status, detail]))
    unfinished.replace(answer)
    os._exit(0)
