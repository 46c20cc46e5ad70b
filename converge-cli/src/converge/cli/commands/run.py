"""`converge run`."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from converge.runtime.config import Config
    from converge.runtime.signals import StopRequest

__all__ = ["run"]

_EXIT_INTERRUPTED = 130
_STOP_LIMIT_SEC = 20.0  # a stop takes 10 s at most; processes that take 15 are killed before
_LEVELS = ("debug", "info", "warning", "error")


@click.command()
@click.argument("config", type=click.Path(path_type=Path), default="converge.toml")
@click.option("--set", "settings", multiple=True, metavar="TABLE.KEY=VALUE", help="Override a value of the config.")
@click.option("--http", metavar="HOST:PORT", help="Serve /health, /ready and /metrics there; port 0 takes a free one.")
@click.option("--progress/--no-progress", default=None, help="Show a progress bar.  [default: on a terminal]")
@click.option("--log-level", type=click.Choice(_LEVELS), default="warning", show_default=True, help="What is logged.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def run(
    config: Path, settings: tuple[str, ...], http: str | None, progress: bool | None, log_level: str, debug: bool
) -> None:
    """Run the agents of the file CONFIG (by default converge.toml) until they are done, or Ctrl-C, or SIGTERM.

    Exit codes: 0 done, 1 failed, 2 wrong config or usage, 130 interrupted: stopped by either signal.
    """
    from converge.runtime.signals import stop_signals

    with stop_signals(signal.SIGINT, signal.SIGTERM, limit_sec=_STOP_LIMIT_SEC) as request:
        from converge.runtime.config import load_config

        level = logging.getLevelNamesMapping()[log_level.upper()]
        logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
        if http is not None:
            settings = (*settings, f"http.listen={json.dumps(http)}")
        loaded = load_config(config, settings)
        shown = sys.stderr.isatty() if progress is None else progress
        if not asyncio.run(_run(loaded, settings, shown, level, debug, request)):
            raise SystemExit(_EXIT_INTERRUPTED)


async def _run(
    config: Config, settings: tuple[str, ...], progress: bool, log_level: int, debug: bool, request: StopRequest
) -> bool:
    from converge.cli.progress import Display
    from converge.runtime.supervisor import run as run_config

    stop = asyncio.Event()
    request.sets(stop)
    with Display(config, enabled=progress) as display:
        return await run_config(
            config,
            settings=settings,
            on_progress=display.update if progress else None,
            on_output=display.line,
            on_listening=lambda url: display.line(f"/health, /ready and /metrics at {url}", True),
            stop=stop,
            log_level=log_level,
            debug=debug,
        )
