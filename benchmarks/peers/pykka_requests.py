"""Calls of pykka's `ask`, so many in flight; prints microseconds a call with its answer.

An `ask` blocks who calls it, so each of those in flight has an actor, and so a thread, of its own that calls.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pykka

PAYLOAD, WINDOW, CALLS = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])


class Echo(pykka.ThreadingActor):
    def on_receive(self, message: Any) -> Any:
        return message


class Asker(pykka.ThreadingActor):
    def on_receive(self, message: Any) -> None:
        for _ in range(message):
            echo.ask(PAYLOAD)


echo = Echo.start()
askers = [Asker.start() for _ in range(WINDOW)]
for asker in askers:
    asker.ask(1)
begin = time.perf_counter()
for done in [asker.ask(CALLS // WINDOW, block=False) for asker in askers]:
    done.get()
print((time.perf_counter() - begin) / (CALLS // WINDOW * WINDOW) * 1e6)
pykka.ActorRegistry.stop_all()
