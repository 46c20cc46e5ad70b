"""Pairs of pykka actors, each a thread."""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import pykka

PAYLOAD, PAIRS, ROUNDS = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])


class Echo(pykka.ThreadingActor):
    def on_receive(self, message: Any) -> None:
        sender, payload = message
        sender.tell((self.actor_ref, payload))


class Asker(pykka.ThreadingActor):
    def __init__(self, echo: Any, done: threading.Semaphore) -> None:
        super().__init__()
        self.echo, self.done, self.left = echo, done, ROUNDS

    def on_receive(self, message: Any) -> None:
        if self.left == 0:
            self.done.release()
            return
        self.left -= 1
        self.echo.tell((self.actor_ref, PAYLOAD))


done = threading.Semaphore(0)
askers = [Asker.start(Echo.start(), done) for _ in range(PAIRS)]
begin = time.perf_counter()
for asker in askers:
    asker.tell((None, None))
for _ in askers:
    done.acquire()
print((time.perf_counter() - begin) / (2 * PAIRS * ROUNDS) * 1e6)
pykka.ActorRegistry.stop_all()
