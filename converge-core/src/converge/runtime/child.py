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
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from converge.core.errors import ConvergeError
from converge.plugins import PluginError
from converge.runtime.application import Application
from converge.runtime.config import load_config
from converge.runtime.errors import ConfigError
from converge.runtime.reports import answer_questions
from converge.runtime.signals import StopRequest, stop_signals

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from converge.runtime.observing import Observed

__all__ = ["EXIT_CONFIG", "EXIT_TERMINATED", "main"]

EXIT_CONFIG = 78
"""The exit code for what a restart cannot mend; EX_CONFIG of BSD's sysexits.h."""
EXIT_TERMINATED = 128 + signal.SIGTERM
"""The exit code after a SIGTERM, as shells give it: whoever sent it, these agents have not ended by themselves."""
_ORPHAN_GRACE_SEC = 1.0
_STOP_LIMIT_SEC = 14.0  # shortly before the parent would kill it, so that it still says what blocks it


def main() -> int:
    """Run the agents of one process; 0 when they ended by themselves, `EXIT_TERMINATED` after a SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent says when to stop
    with stop_signals(signal.SIGTERM, limit_sec=_STOP_LIMIT_SEC) as request:
        code = _main(json.loads(sys.argv[1]), request)
        return code if request.number is None else EXIT_TERMINATED


def _main(order: dict[str, Any], request: StopRequest) -> int:
    logging.basicConfig(level=order["log_level"], format="%(levelname)s %(processName)s %(name)s: %(message)s")
    try:
        asyncio.run(_run(order, request))
    except (ConfigError, PluginError) as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201  # the parent shows it
        return EXIT_CONFIG
    except (ConvergeError, OSError) as error:
        logging.getLogger(__name__).log(logging.ERROR, "this process ends: %s", error, exc_info=order["debug"])
        return 1
    return 0


async def _run(order: dict[str, object], request: StopRequest) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    request.sets(stop)
    threading.Thread(target=_die_with_parent, args=(loop, stop), name="converge-parent", daemon=True).start()
    config = load_config(str(order["config"]), order["settings"])  # type: ignore[arg-type]  # written by the supervisor
    watch = partial(_reporting, int(str(order["reports"])))
    await Application(config, int(str(order["process"])), watch).run(stop=stop)


@asynccontextmanager
async def _reporting(descriptor: int, observed: Observed) -> AsyncIterator[None]:
    """Tell the parent how the agents are, whenever it asks, while the block runs."""
    answering = asyncio.create_task(answer_questions(descriptor, observed), name="converge-reports")
    try:
        yield
    finally:
        answering.cancel()
        await asyncio.wait({answering})


def _die_with_parent(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    while os.read(0, 1024):
        pass
    loop.call_soon_threadsafe(stop.set)
    threading.Event().wait(_ORPHAN_GRACE_SEC)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
