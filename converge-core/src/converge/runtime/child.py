"""One process of a run, started by `converge.runtime.supervisor` as `python -m converge.runtime.child`.

Its standard input is a pipe that the parent holds open and never writes to: when the parent is gone, however it
ended, the pipe is closed and this process ends too.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading

from converge.core.errors import ConvergeError
from converge.plugins import PluginError
from converge.runtime.application import Application
from converge.runtime.config import load_config
from converge.runtime.errors import ConfigError

__all__ = ["EXIT_CONFIG", "main"]

EXIT_CONFIG = 78
"""The exit code for what a restart cannot mend; EX_CONFIG of BSD's sysexits.h."""
_ORPHAN_GRACE_SEC = 1.0


def main() -> int:
    """Run the agents of one process; 0 when they ended by themselves or were told to stop."""
    order = json.loads(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent says when to stop
    logging.basicConfig(level=order["log_level"], format="%(levelname)s %(processName)s %(name)s: %(message)s")
    try:
        asyncio.run(_run(order))
    except (ConfigError, PluginError) as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201  # the parent shows it
        return EXIT_CONFIG
    except (ConvergeError, OSError) as error:
        logging.getLogger(__name__).log(logging.ERROR, "this process ends: %s", error, exc_info=order["debug"])
        return 1
    return 0


async def _run(order: dict[str, object]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    threading.Thread(target=_die_with_parent, args=(loop, stop), name="converge-parent", daemon=True).start()
    config = load_config(str(order["config"]), order["settings"])  # type: ignore[arg-type]  # written by the supervisor
    await Application(config, int(str(order["process"]))).run(stop=stop)


def _die_with_parent(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    while os.read(0, 1024):
        pass
    loop.call_soon_threadsafe(stop.set)
    threading.Event().wait(_ORPHAN_GRACE_SEC)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
